"""Engines: where entries and records are kept, each with both ports where it can have both."""
