"""Files as a source: folders and globs of Parquet, JSONL and CSV, read by position, never written to."""
