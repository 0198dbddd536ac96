"""Whose fault a failure is, the document's or the server's, and what proves a server's vectors right."""
