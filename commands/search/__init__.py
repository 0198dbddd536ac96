"""`engine search`."""
