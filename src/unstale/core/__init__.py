"""The protocol, without a clock, a socket, a thread or a loop of its own."""
