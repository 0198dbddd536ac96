"""What a tuning leaves behind: text, JSON, curves, the tuned file."""
