"""The tweets that travel with the project."""
