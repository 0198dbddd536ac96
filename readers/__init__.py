"""What to read: documents of a source as batches in the document ring."""
