"""One program for each question that is measured: `python -m bench.measure.NAME`."""
