"""`--log-format text|json`: how lines on standard error look, from the reading of the options on."""

from __future__ import annotations

import typer

from engine.telemetry.logs import FORMATS, use_format


def log_format(text: str) -> str:
    """Take the format; called by typer with the option's value.

    Raises:
        typer.BadParameter: there is no such format.
    """
    if text not in FORMATS:
        use_format("text")
        raise typer.BadParameter(f"--log-format is {text!r}; expected {' or '.join(FORMATS)}")
    use_format(text)
    return text
