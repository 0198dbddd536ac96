"""Rings and queues of slot numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from engine.errors import ConfigError, ProtocolError
from engine.memory.ring import MAX_SLOTS, Ring, SlotQueue
from engine.memory.slots import Header, VectorLayout, body_of, fanout_of, meta_of


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


def test_a_slot_gives_back_what_its_header_describes() -> None:
    """Meta, fan-out and body stand behind each other."""
    slot = memoryview(bytearray(256))
    header = Header(
        generation=3,
        n_rows=2,
        sequence=9,
        ids_bytes=16,
        flags_bytes=2,
        columns_bytes=4,
        body_bytes=5,
        n_texts=1,
        fanout_bytes=4,
    )
    header.pack_into(slot)
    slot[64:80] = b"i" * 16
    slot[80:82] = b"\0\1"
    slot[82:86] = b"[[]]"
    slot[86:90] = b"\0\0\0\0"
    slot[90:95] = b'["x"]'

    read = Header.unpack_from(slot, generation=3)
    meta = meta_of(slot, read)

    assert read == header
    assert (bytes(meta.ids), bytes(meta.flags), bytes(meta.columns)) == (b"i" * 16, b"\0\1", b"[[]]")
    assert bytes(fanout_of(slot, read)) == b"\0\0\0\0"
    assert bytes(body_of(slot, read)) == b'["x"]'


def test_a_slot_of_another_generation_is_refused() -> None:
    """A late result of an old generation never reaches a shard."""
    slot = memoryview(bytearray(128))
    Header(generation=1, n_rows=1, sequence=0, ids_bytes=8, flags_bytes=1, columns_bytes=0).pack_into(slot)

    with pytest.raises(ProtocolError, match="generation 1 met in generation 2"):
        Header.unpack_from(slot, generation=2)


def test_the_matrix_of_a_vector_slot_starts_on_a_cache_line_and_fits() -> None:
    """Any dimension, any meta capacity."""
    for dim in (1, 3, 384, 768):
        for meta in (0, 1, 16_383):
            layout = VectorLayout(dim=dim, max_rows=5, meta_capacity_bytes=meta)
            assert layout.matrix_offset % 64 == 0
            assert layout.matrix_offset >= 64 + meta
            assert layout.slot_bytes >= layout.matrix_offset + 5 * dim * 4
            with pytest.raises(ProtocolError, match="6 rows do not fit"):
                layout.matrix_bytes(memoryview(bytearray(layout.slot_bytes)), 6)
