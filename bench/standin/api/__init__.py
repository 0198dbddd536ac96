"""What goes over the wire of an embedding server: requests, refusals, encoded vectors, metrics."""
