"""Exact search over a data set's Parquet files."""
