"""What computes the vectors of a stand-in server: canned rows, a modelled GPU, a small real model."""
