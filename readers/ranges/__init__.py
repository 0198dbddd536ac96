"""What the nodes of a cluster read one by one: ranges of `_id` of the work queue, by a sample, and ranges of files."""
