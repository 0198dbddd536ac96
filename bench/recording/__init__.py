"""A recording as columns, for those who judge it and those who draw it; and what making one costs."""
