"""The life-line of a node process: nothing that has come is lost, and silence ends its whole process group."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

SCRIPT = """
import json, os, select, sys
from commands.cluster.lifeline import Lifeline
from engine.memory.channels import Channel

ours, theirs = Channel.pair()
lifeline = Lifeline(theirs)
for message in ({"do": "begin"}, {"do": "ping"}, {"do": "command", "number": 1}, {"do": "command", "number": 2}):
    ours.send(message)
taken = []
while len(taken) < 3:
    message = lifeline.take()
    if message is None:
        select.select([lifeline.wake_fd], [], [], 60.0)
    else:
        taken.append(message)
print(json.dumps([*taken, lifeline.take()]), flush=True)
if sys.argv[1] == "close":
    ours.close()
    select.select([], [], [], 60.0)
os._exit(0)
"""


def run_in_a_group_of_its_own(end: str) -> tuple[int, list[dict[str, object] | None]]:
    """The script's exit code and what it took."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, end], stdout=subprocess.PIPE, start_new_session=True, check=False, timeout=120
    )
    return ended.returncode, json.loads(ended.stdout)


def test_messages_are_taken_one_by_one_and_those_behind_stay_for_later() -> None:
    code, taken = run_in_a_group_of_its_own("exit")

    assert code == 0
    assert taken == [{"do": "begin"}, {"do": "command", "number": 1}, {"do": "command", "number": 2}, None]


def test_the_end_of_the_actor_ends_the_whole_group() -> None:
    code, _ = run_in_a_group_of_its_own("close")

    assert code == -signal.SIGKILL
