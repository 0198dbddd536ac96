"""Stages without MongoDB and without HTTP, for tests of the supervisor alone."""
