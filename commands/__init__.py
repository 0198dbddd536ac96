"""The commands of `engine`, a folder each: `command.py` holds the options, the files beside it the work.

Three wings serve them all: `options` (how options are declared and read), `terminal` (what is said, and the exit code),
`composition` (the parts that a run and its relatives are put together from). A `command.py` is imported whatever
command is called, so it imports its work inside the function. It does without `from __future__ import annotations`:
typer would compile every annotation from its text, which takes longer than all the rest that it does.
"""
