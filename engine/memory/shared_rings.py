"""The memory that the processes of one generation share: both rings, and the queues of their slot numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from engine.memory.channels import Message
from engine.memory.ring import Ring, SlotQueue
from engine.memory.slots import VectorLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSizes:
    """The sizes of both rings of a run; printed at start (G5).

    Attributes:
        n_documents: Document slots.
        document_bytes: Bytes of one.
        n_vectors: Vector slots.
        layout: What stands in one.
    """

    n_documents: int
    document_bytes: int
    n_vectors: int
    layout: VectorLayout

    @property
    def size_bytes(self) -> int:
        """Shared memory of both rings."""
        return self.n_documents * self.document_bytes + self.n_vectors * self.layout.slot_bytes


@dataclass(slots=True, kw_only=True)
class SharedRings:
    """Both rings of a generation and their four queues; made by the supervisor, opened by every child.

    Attributes:
        documents, vectors: The document ring and the vector ring.
        documents_free, vectors_free: Numbers of empty slots.
        documents_ready, vectors_ready: Numbers of filled slots.
        layout: Where things stand in a vector slot.
    """

    documents: Ring
    documents_free: SlotQueue
    documents_ready: SlotQueue
    vectors: Ring
    vectors_free: SlotQueue
    vectors_ready: SlotQueue
    layout: VectorLayout

    _QUEUES = ("documents_free", "documents_ready", "vectors_free", "vectors_ready")
    _RINGS = ("documents", "vectors")

    @classmethod
    def create(cls, sizes: RingSizes) -> SharedRings:
        """Reserve both rings and their queues, with every slot free.

        Raises:
            ConfigError: the machine cannot give that much memory.
        """
        documents = Ring.create("document", sizes.n_documents, sizes.document_bytes)
        vectors = Ring.create("vector", sizes.n_vectors, sizes.layout.slot_bytes)
        return cls(
            documents=documents,
            documents_free=SlotQueue.create(range(sizes.n_documents)),
            documents_ready=SlotQueue.create(),
            vectors=vectors,
            vectors_free=SlotQueue.create(range(sizes.n_vectors)),
            vectors_ready=SlotQueue.create(),
            layout=sizes.layout,
        )

    def fds(self) -> list[int]:
        """Every descriptor that a child has to inherit."""
        numbers = [cast(Ring, getattr(self, name)).fd for name in self._RINGS]
        for name in self._QUEUES:
            numbers.extend(cast(SlotQueue, getattr(self, name)).fds)
        return numbers

    def describe(self) -> Message:
        """What a child needs to open them again."""
        described: Message = {}
        for name in self._RINGS:
            ring = cast(Ring, getattr(self, name))
            described[name] = [ring.fd, ring.n_slots, ring.slot_bytes]
        for name in self._QUEUES:
            described[name] = list(cast(SlotQueue, getattr(self, name)).fds)
        described["layout"] = {
            "dim": self.layout.dim,
            "max_rows": self.layout.max_rows,
            "meta_capacity_bytes": self.layout.meta_capacity_bytes,
        }
        return described

    @classmethod
    def open(cls, described: Message) -> SharedRings:
        """Open, in a child, what `describe` described."""
        rings = {name: Ring(*described[name]) for name in cls._RINGS}
        queues = {name: SlotQueue(*described[name]) for name in cls._QUEUES}
        return cls(**rings, **queues, layout=VectorLayout(**described["layout"]))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close everything in this process."""
        for name in (*self._QUEUES, *self._RINGS):
            getattr(self, name).close()
