"""One operating point under load: what the servers admit, the load, the meter, when a visit may stop."""
