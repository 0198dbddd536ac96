"""A pipeline under supervision: a generation with its lifecycle, its proofs and its watchdog, and what is told of it.

What a generation's processes tell is the same wherever they run. Those of one machine are the supervisor's own
children; in a cluster every node has such a pipeline, and the supervisor has many (`engine.cluster`).
"""

from __future__ import annotations

import logging
from typing import Generic, Protocol

from engine.errors import BY_NAME, Exit, ProtocolError, SourceError
from engine.ledger.commits import Ranges
from engine.memory.channels import Message
from engine.records import ShardFacts
from engine.supervision.generation import Stage, Stages, StageT
from engine.supervision.lifecycle import Lifecycle, Stop
from engine.supervision.proof import Proofs
from engine.supervision.watchdog import Watchdog

_log = logging.getLogger("engine.supervisor")


class Crashed(Exception):
    """The generation is over; recover and start the next one."""


class Events(Protocol):
    """Whoever has to act on what a pipeline tells."""

    def quarantined(self, message: Message) -> None:
        """Documents could not be embedded: `entries`."""

    def settled(self, ranges: Ranges) -> None:
        """Batches are settled of which nothing was left to embed."""

    def sealed(self, facts: ShardFacts, ranges: Ranges) -> None:
        """A shard is durable under its final name."""

    def stop(self, stop: Stop) -> None:
        """The whole run has to stop, cleanly."""

    def told(self, event: str, message: Message) -> None:
        """Something else was told; `Stage.facts` has it already."""


class Pipeline(Generic[StageT]):
    """One generation, and all that is known of it.

    Attributes:
        generation: Its processes.
        lifecycle: Where it stands.
    """

    def __init__(self, generation: Stages[StageT], lifecycle: Lifecycle, proofs: Proofs, events: Events) -> None:
        self.generation = generation
        self.lifecycle = lifecycle
        self._proofs = proofs
        self._events = events
        self._watchdog = Watchdog()

    def take(self, child: StageT, message: Message) -> None:
        """Take what one of its processes has told.

        Raises:
            RowsRefused: a server's vectors are wrong.
        """
        event = message.pop("event")
        if event == "log":
            name, facts = message["name"], message["facts"]
            level = logging.getLevelName(message["level"].upper())
            words = " ".join([name, *(f"{key}={value!r}" for key, value in facts.items())])
            logging.getLogger(f"engine.{child.role}").log(level, "%s", words, extra={"facts": facts})
        elif event == "error":
            child.error = message
        elif event == "quarantine":
            self._events.quarantined(message)
        elif event == "void":  # a batch of which nothing was left to embed
            self._events.settled([[message["sequence"], message["sequence"]]])
        elif event == "prove":
            self._proofs.ask(self.generation)
        elif event == "proof":
            self._proofs.receive(self.generation, child, message)
        elif event == "drift":
            self._proofs.refuse(child, message)
        elif event == "several_backends":
            self._events.stop(Stop(Exit.SERVERS, f"{message['url']} cannot be used: {message['reason']}"))
        elif event == "sealed":
            self._events.sealed(ShardFacts(**message["facts"]), message["ranges"])
        else:
            child.facts[event] = message
            self._events.told(event, message)

    def child_ended(self, child: Stage) -> None:
        """A process has gone before its time: decide between a clean stop, the run's end, and a new generation.

        Raises:
            EngineError: it said what is wrong, and that no new generation would mend.
            Crashed: anything else.
        """
        kind = BY_NAME.get(child.error["kind"]) if child.error else None
        if kind is not None and issubclass(kind, SourceError) and child.role == "reader":
            self._events.stop(Stop(Exit.MONGODB, child.how_it_ended()))
            return
        if kind is not None and not issubclass(kind, ProtocolError):
            raise kind(child.how_it_ended())
        if child.error and "traceback" in child.error:
            _log.debug("child_traceback role=%s\n%s", child.role, child.error["traceback"])
        raise Crashed(f"{child.name} ended: {child.how_it_ended()}")

    def watch(self) -> None:
        """See that its processes live and that something moves.

        Raises:
            Crashed: it has to begin anew.
        """
        if (crashed := self._watchdog.hung_child(self.generation)) is not None:
            raise Crashed(crashed)
        is_awaited = self.lifecycle.is_all_awaited
        if (lost := self._watchdog.standstill(self.generation, is_awaited=is_awaited)) is not None:
            raise Crashed(lost)

    @property
    def outage_s(self) -> float:
        """For how long none of its servers has been healthy."""
        return self._watchdog.outage_s(self.generation)
