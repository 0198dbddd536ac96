"""The texts of a measurement, and the requests that they are sent in."""
