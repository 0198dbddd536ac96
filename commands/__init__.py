"""One module a command: what `cli.py` parses, these compose and run. The top layer, beside `cli.py`."""
