"""A schema for the database tests."""
