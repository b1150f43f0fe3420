"""Where changes are told by the database that they were made in: an outbox, and the relay that publishes it."""
