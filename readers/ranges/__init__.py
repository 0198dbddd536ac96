"""The work queue in ranges of `_id`: cut by sampling, and read one by one by the nodes of a cluster."""
