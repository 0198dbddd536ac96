"""Bytes to a server and back; knows nothing of embeddings."""
