"""A generation's children: started, told apart when they end, ended together."""

from __future__ import annotations

import os
import signal
import time

import psutil

from engine.memory.channels import Message
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import VectorLayout
from engine.supervision.generation import Child, Generation
from engine.supervision.run_plan import StagePlan

RINGS = RingSizes(
    n_documents=4,
    document_bytes=1024,
    n_vectors=4,
    layout=VectorLayout(dim=4, max_rows=2, meta_capacity_bytes=64),
)


def one_child(stage: str) -> Generation:
    """A generation of one child."""
    return Generation(1, 1, RINGS, [StagePlan(role="reader", stage=stage, settings={})], [])


def wait_for_zombie(pid: int) -> None:
    """Until the process has ended and nobody has waited for it."""
    deadline = time.monotonic() + 30
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_child_that_ended_just_before_it_is_killed_keeps_its_exit_code_and_cpu_time() -> None:
    """Popen.kill would have reaped it behind our back."""
    generation = one_child("tests.engine.no_such_stage")
    child = generation.role("reader")
    wait_for_zombie(child.process.pid)

    generation.kill()

    assert child.ended == 1
    assert child.cpu_s > 0


def test_a_stopped_child_is_killed_too() -> None:
    """SIGSTOP keeps nobody alive into the next generation."""
    generation = one_child("tests.engine.fakes.client")
    child = generation.role("reader")
    os.kill(child.process.pid, signal.SIGSTOP)

    generation.kill()

    assert child.ended == -signal.SIGKILL
    assert "SIGKILL" in child.how_it_ended()
    assert not psutil.pid_exists(child.process.pid)


def test_a_child_finds_its_first_commands_before_it_has_done_anything() -> None:
    """However late its parent comes to look after it: a suspected server's client must not take a batch first."""
    plans = [
        StagePlan(role=role, stage="tests.engine.fakes.first_commands", settings={})
        for role in ("client-0", "client-1")
    ]
    suspect: list[Message] = [{"do": "suspect", "for_good": True}]
    generation = Generation(1, 1, RINGS, plans, [], {"client-1": suspect})
    try:
        found = [_told(generation.role(role), "found")["commands"] for role in ("client-0", "client-1")]
    finally:
        generation.kill()
    assert found == [[], suspect]


def _told(child: Child, event: str) -> Message:
    while (message := child.channel.receive()) is not None:
        if message["event"] == event:
            return message
    raise AssertionError(f"{child.role} ended without telling of {event}")
