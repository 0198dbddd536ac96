"""Real embedding servers as child processes: one for each GPU, kept alive, ended with whoever started them."""
