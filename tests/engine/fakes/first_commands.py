"""A stage that tells what it finds when it begins."""

from __future__ import annotations

from engine.supervision.worker import StageContext


def run(context: StageContext) -> None:
    """Tell the commands that are there already."""
    context.tell("found", commands=context.poll_commands())
