"""One server behind one port: its state, its routes, its orders."""
