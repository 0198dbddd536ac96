"""MongoDB as a source: the work queue, its indexes, marks, ids."""
