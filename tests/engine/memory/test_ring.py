"""Rings and queues of slot numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from engine.errors import ConfigError, ProtocolError
from engine.memory.ring import MAX_SLOTS, Ring, SlotQueue


def test_a_slot_written_in_one_process_is_read_in_another() -> None:
    """The memory is shared by its descriptor, without a name."""
    ring = Ring.create("test", 4, 128)
    code = (
        "import sys; from engine.memory.ring import Ring; r = Ring(int(sys.argv[1]), 4, 128); "
        "s = r.slot(3); s[:5] = b'hello'; del s; r.close()"
    )

    subprocess.run([sys.executable, "-c", code, str(ring.fd)], pass_fds=[ring.fd], check=True)

    assert bytes(ring.slot(3)[:5]) == b"hello"
    ring.close()


def test_more_memory_than_there_is_is_one_sentence_and_no_signal() -> None:
    """Reserving fails at once, instead of a bus error at the first touch."""
    with pytest.raises(ConfigError, match=r"cannot reserve .* MiB of shared memory for the huge ring"):
        Ring.create("huge", 1024, 1 << 40)


@pytest.mark.parametrize("n_slots", [0, 1, MAX_SLOTS + 1])
def test_a_ring_of_an_impossible_number_of_slots_is_refused(n_slots: int) -> None:
    """A queue must be able to hold every number, or a put could block."""
    with pytest.raises(ConfigError, match="slots asked for"):
        Ring.create("test", n_slots, 64)


def test_a_slot_number_outside_the_ring_is_refused() -> None:
    """Garbage in a queue never becomes an address."""
    ring = Ring.create("test", 2, 64)
    with pytest.raises(ProtocolError, match="slot 2 is outside a ring of 2"):
        ring.slot(2)
    ring.close()


def test_every_number_put_is_taken_once_by_one_of_many_takers() -> None:
    """Three processes take, one puts; together they have each number exactly once."""
    queue = SlotQueue.create()
    code = (
        "import os, select, sys; from engine.memory.ring import SlotQueue\n"
        "q = SlotQueue(int(sys.argv[1]), int(sys.argv[2]))\n"
        "while True:\n"
        "    select.select([q.read_fd], [], [])\n"
        "    n = q.take()\n"
        "    if n == 9999: break\n"
        "    if n is not None: print(n, flush=True)\n"
    )
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, queue.fds)], pass_fds=queue.fds, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for number in range(3000):
        queue.put(number)
    for _ in takers:
        queue.put(9999)

    taken = sorted(int(line) for taker in takers for line in taker.communicate(timeout=60)[0].split())

    assert taken == list(range(3000))
    queue.close()


def test_killing_a_process_that_waits_takes_nothing_from_the_queue() -> None:
    """What a multiprocessing.Queue cannot promise: its idle reader dies holding the read lock."""
    queue = SlotQueue.create()
    code = (
        "import select, sys, os; os.write(1, b'.'); "
        "[select.select([int(sys.argv[1])], [], [], 0.01) for _ in iter(int, 1)]"
    )
    waiting = subprocess.Popen(
        [sys.executable, "-c", code, str(queue.read_fd)], pass_fds=queue.fds, stdout=subprocess.PIPE
    )
    assert waiting.stdout is not None
    waiting.stdout.read(1)
    waiting.send_signal(signal.SIGKILL)
    waiting.wait()
    waiting.stdout.close()

    queue.put_many([5, 6])

    assert queue.waiting() == 2
    assert queue.take_many(10) == [5, 6]
    assert queue.take() is None
    queue.close()


def test_all_numbers_of_the_largest_ring_fit_into_a_queue_without_blocking() -> None:
    """A put never waits: this is what keeps a stage from dead-locking with another."""
    queue = SlotQueue.create()
    os.set_blocking(queue.write_fd, False)

    queue.put_many(list(range(MAX_SLOTS)))

    assert queue.waiting() == MAX_SLOTS
    queue.close()
