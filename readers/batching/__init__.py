"""From pages of documents to batches in slots, whatever the source is."""
