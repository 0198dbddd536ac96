"""The search for the operating point: survey, climb, final round, and what was found."""
