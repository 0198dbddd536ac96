"""The pictures of the documents, each made from what it shows: `python -m ops.pictures`."""
