"""Faults on demand: how they are written, and what each does to an answer or a connection."""
