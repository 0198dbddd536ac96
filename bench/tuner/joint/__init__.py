"""Server flags and operating point together."""
