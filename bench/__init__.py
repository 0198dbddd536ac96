"""Measurements, the tuner, stand-in servers and parts for trials."""
