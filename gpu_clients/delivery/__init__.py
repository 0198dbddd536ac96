"""What becomes of answers and findings: rows for the writer, documents for quarantine."""
