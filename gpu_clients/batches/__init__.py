"""A client's batches and its server: how many are in flight, when they are sent again, when the server is out."""
