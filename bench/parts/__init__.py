"""Parts that trials, tests and the demo start: a local MongoDB, the engine's command line, tweets."""
