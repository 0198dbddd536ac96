"""Files of every kind, written by the product, read back row by row by the libraries that others will use."""
