"""Rings in shared memory and the queues of slot numbers that go with them.

A ring is storage only: equal slots in one anonymous memory file. Who may touch a slot is decided by who holds its
number, and numbers travel through two queues: *free* (towards the producers) and *ready* (towards the consumers).
So every slot number is at any moment in exactly one place, a queue or one process's hands, and no word of the
ring is ever written by two processes at a time. There are no locks and no flags to be left behind by a kill.

Memory: `memfd_create` + `posix_fallocate`. The pages are reserved before the first touch, so a machine with too
little memory for them says so at start (never a SIGBUS later); the memory has no name, so nothing can be left in
/dev/shm, and the kernel frees it with its last process. The kernel's own mount for such files has no size limit: it
would reserve pages until the OOM killer strikes, so what is available is asked first.

Queues: a pipe whose messages are 4-byte slot numbers. The kernel makes writes of up to PIPE_BUF bytes atomic and
serialises readers, so many producers and many consumers need no lock of ours, and a process that is killed while
it waits takes nothing with it (unlike `multiprocessing.Queue`, whose idle reader dies holding the read lock). A
process that is killed *holding* slot numbers loses them: that ends the generation, and rings and queues with it.

Vocabulary follows the LMAX Disruptor (Source: its user guide), with one difference: consumers of this ring finish
in any order, therefore free slots are handed back through a queue and not by a moving sequence.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import struct
import termios
from collections.abc import Iterable
from pathlib import Path

from engine.errors import ConfigError, ProtocolError

_NUMBER = struct.Struct("<I")
_PIPE_BYTES = 1 << 16
MAX_SLOTS = _PIPE_BYTES // _NUMBER.size // 2
"""More slot numbers than that might not fit into a pipe, and a write could block."""


_SHARE_OF_AVAILABLE = 0.8


def available_bytes() -> int:
    """Memory that may still be used: what the kernel says, or what the control group leaves, whichever is less."""
    limits = [_free_bytes()]
    for folder, maximum, current in _CGROUPS:
        try:
            limit = Path(folder, maximum).read_text(encoding="ascii").strip()
            used = Path(folder, current).read_text(encoding="ascii").strip()
            limits.append(int(limit) - int(used))
        except (OSError, ValueError):
            continue  # another version of control groups, or no limit ("max")
    return max(0, min(limits))


def _free_bytes() -> int:
    """What the kernel says; without /proc (some jails and containers) its count of free pages, which is less."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10
    except (OSError, StopIteration):
        free = os.sysconf("SC_AVPHYS_PAGES")
        return (free if free > 0 else os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


class Ring:
    """`n_slots` slots of `slot_bytes` bytes each, shared by every process that holds its descriptor.

    Attributes:
        fd: The memory file; hand it to a child with `pass_fds`.
        n_slots: Number of slots.
        slot_bytes: Size of a slot, a multiple of 64 (one cache line).
    """

    def __init__(self, fd: int, n_slots: int, slot_bytes: int) -> None:
        self.fd = fd
        self.n_slots = n_slots
        self.slot_bytes = slot_bytes
        self._map = mmap.mmap(fd, n_slots * slot_bytes)
        self._view = memoryview(self._map)

    @classmethod
    def create(cls, name: str, n_slots: int, slot_bytes: int) -> Ring:
        """Reserve the memory of a new ring.

        Raises:
            ConfigError: the machine cannot give that much memory, or the numbers are out of range.
        """
        if not 2 <= n_slots <= MAX_SLOTS:
            raise ConfigError(f"ring {name}: {n_slots} slots asked for, expected 2 to {MAX_SLOTS}")
        if slot_bytes % 64:
            raise ProtocolError(f"ring {name}: slot size {slot_bytes} is not a multiple of 64")
        size_bytes = n_slots * slot_bytes
        available = available_bytes()
        if size_bytes > available * _SHARE_OF_AVAILABLE:
            raise ConfigError(
                f"cannot reserve {size_bytes >> 20} MiB of shared memory for the {name} ring: only {available >> 20} "
                "MiB are available; free memory or lower --ring-bytes or --batch-size"
            )
        fd = os.memfd_create(f"engine-{name}", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
            return cls(fd, n_slots, slot_bytes)
        except OSError as error:
            os.close(fd)
            raise ConfigError(
                f"cannot reserve {size_bytes >> 20} MiB of shared memory for the {name} ring ({error.strerror}); "
                "free memory or lower --ring-bytes or --batch-size"
            ) from error

    @property
    def size_bytes(self) -> int:
        """Bytes reserved for the whole ring."""
        return self.n_slots * self.slot_bytes

    def slot(self, number: int) -> memoryview:
        """The bytes of a slot: writable, valid until `close`.

        Raises:
            ProtocolError: the number is outside the ring (garbage in a queue).
        """
        if not 0 <= number < self.n_slots:
            raise ProtocolError(f"slot {number} is outside a ring of {self.n_slots} slots")
        start = number * self.slot_bytes
        return self._view[start : start + self.slot_bytes]

    def close(self) -> None:
        """Unmap and close; views handed out before keep their memory alive until they go."""
        try:
            self._view.release()
            self._map.close()
        except BufferError:
            pass  # an Arrow buffer or a numpy view still looks into the ring; the kernel frees it with the process
        os.close(self.fd)


class SlotQueue:
    """A queue of slot numbers over a pipe; any number of processes may put and take.

    Attributes:
        read_fd: Becomes readable when a number waits; for a selector.
        write_fd: The putting end.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        os.set_blocking(read_fd, False)

    @classmethod
    def create(cls, numbers: Iterable[int] = ()) -> SlotQueue:
        """A new queue, holding `numbers` from the start."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        queue = cls(read_fd, write_fd)
        queue.put_many(list(numbers))
        return queue

    @property
    def fds(self) -> tuple[int, int]:
        """Both descriptors, for `pass_fds`."""
        return self.read_fd, self.write_fd

    def put(self, number: int) -> None:
        """Hand a slot on; never blocks, because a ring's numbers fit into the pipe."""
        os.write(self.write_fd, _NUMBER.pack(number))

    def put_many(self, numbers: list[int]) -> None:
        """Hand several slots on with one write for every 1,024."""
        for start in range(0, len(numbers), 1024):
            part = numbers[start : start + 1024]
            os.write(self.write_fd, struct.pack(f"<{len(part)}I", *part))

    def take(self) -> int | None:
        """Take one slot number, or None when none waits."""
        try:
            data = os.read(self.read_fd, _NUMBER.size)
        except BlockingIOError:
            return None
        if len(data) != _NUMBER.size:
            raise ProtocolError("a slot queue was closed at its other end")
        return int(_NUMBER.unpack(data)[0])

    def take_many(self, limit: int) -> list[int]:
        """Take up to `limit` slot numbers, none when none waits."""
        try:
            data = os.read(self.read_fd, _NUMBER.size * limit)
        except BlockingIOError:
            return []
        return [number for (number,) in _NUMBER.iter_unpack(data)]

    def waiting(self) -> int:
        """How many numbers wait now; for progress and the bottleneck verdict only."""
        n_bytes = array.array("i", [0])
        fcntl.ioctl(self.read_fd, termios.FIONREAD, n_bytes)
        return n_bytes[0] // _NUMBER.size

    def close(self) -> None:
        """Close both ends in this process."""
        os.close(self.read_fd)
        os.close(self.write_fd)
