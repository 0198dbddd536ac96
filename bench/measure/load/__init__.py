"""What drives client processes in a measurement."""
