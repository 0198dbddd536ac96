"""Measurements of the tuner, on modelled and on real servers."""
