"""The bridge: the one process of the driver's machine that imports Ray. It finds nodes, and keeps an actor on each.

    driver <-- channel --> bridge <-- Ray's calls --> actor <-- channel --> node process

The driver stays what it is on one machine: nothing of Ray is in its process, where it would take signals, hang when the
head is away, and end the process when its raylet dies. When the driver ends, the bridge reads an end of file, ends
its actors, and, if it has started a local cluster, all of that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from commands.cluster.actor import NodeActor
from engine.errors import ConfigError, EngineError
from engine.memory.channels import Channel, Message
from engine.supervision.interpreter import tie_to_parent

LOOK_EVERY_S = 2.0
HEAR_S = 1.0
START_S = 60.0
_LOCAL = "local:"
_LITTLE = 0.001
"""How much of the resource an actor takes: enough to be placed where it is offered, and no less for anybody else."""
_LAST_S = 10.0
_NAMESPACE = "engine"


@dataclass(slots=True)
class _Session:
    """An actor, and what it is to be told."""

    actor: Any
    outbox: list[Message] = field(default_factory=list)
    n_told: int = 0


class Bridge:
    """Carries messages between the driver and the actors."""

    def __init__(self, channel: Channel, address: str, resource: str) -> None:
        self._channel = channel
        self._address = address
        self._resource = resource
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._sessions: dict[int, _Session] = {}
        self._seen: dict[str, str] = {}
        self._local: Any = None
        self._ray: Any = None
        self._is_connected = False
        threading.Thread(target=self._listen, name="driver", daemon=True).start()

    def run(self) -> None:
        """Connect, and carry until the driver says exit or is gone."""
        try:
            self._connect()
            look_at_s = 0.0
            while True:
                if time.monotonic() >= look_at_s:
                    self._look()
                    look_at_s = time.monotonic() + LOOK_EVERY_S
                if not self._take(max(0.0, look_at_s - time.monotonic())):
                    return
                self._send_all()
        finally:
            self._close()

    # -- Ray ----------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect to the cluster, or start one.

        Raises:
            ConfigError: there is none.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        if self._address.startswith(("127.0.0.1:", "localhost:")):
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # which means: 127.0.0.1 stays that
        address: str = self._address
        if address.startswith(_LOCAL):
            from commands.cluster.local_ray import RESOURCE, LocalRay  # noqa: PLC0415 - before anything imports Ray

            self._local = LocalRay(int(address.removeprefix(_LOCAL)))
            self._resource, address = RESOURCE, self._local.address
        import ray  # noqa: PLC0415 - only who asks for it pays for it

        self._ray = ray
        try:
            ray.init(address=address, namespace=_NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
            self._is_connected = True
            _leave_stops_to_the_driver()  # Ray has put a handler of its own there, which ends this process
        except Exception as error:
            said = (str(error) or repr(error)).splitlines()[0]
            raise ConfigError(
                f"no Ray cluster answers at --ray {self._address} ({said}): "
                "start one (`ray start --head`), or use --ray local:2 to try it on this machine"
            ) from error

    def _look(self) -> None:
        """Tell the driver which nodes offer the resource."""
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get(self._resource, 0) > 0]
        names = [node["NodeName"] or node["NodeManagerAddress"] for node in nodes]
        found = {
            node["NodeID"]: name if names.count(name) == 1 else f"{name}#{node['NodeID'][:6]}"
            for node, name in zip(nodes, names, strict=True)
        }
        found = {identity: self._seen.get(identity, name) for identity, name in found.items()}
        self._seen.update(found)
        self._tell("nodes", names=found)

    def _begin(self, session: int, node: str, job: Message) -> None:
        ray = self._ray
        little: dict[str, Any] = (
            {"num_gpus": _LITTLE} if self._resource == "GPU" else {"resources": {self._resource: _LITTLE}}
        )
        placed = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        actor = (
            ray.remote(NodeActor)
            .options(
                num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=16, scheduling_strategy=placed, **little
            )
            .remote()
        )
        self._sessions[session] = _Session(actor)
        self._call("started", session, actor.start.remote(orjson.dumps(job)))

    def _call(self, kind: str, session: int, reference: Any) -> None:
        """Put what a call answers into the inbox, when it does."""
        reference.future().add_done_callback(lambda future: self._inbox.put((kind, (session, future))))

    # -- the loop -----------------------------------------------------------------------------------------------

    def _take(self, wait_s: float) -> bool:
        """Take all that has come, waiting for something for a while; False when it is time to end."""
        try:
            found = [self._inbox.get(timeout=wait_s)]
        except queue.Empty:
            return True
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._inbox.get_nowait())
        for kind, what in found:
            if kind == "driver":
                if what is None or what["do"] == "exit":
                    return False
                self._obey(what)
            else:
                self._answered(kind, *what)
        return True

    def _obey(self, message: Message) -> None:
        number = message["session"]
        if message["do"] == "begin":
            self._begin(number, message["node"], message["job"])
        elif number not in self._sessions:
            return
        elif message["do"] == "send":
            self._sessions[number].outbox.append(message["message"])
        elif message["do"] == "end":
            self._kill(self._sessions.pop(number))

    def _answered(self, kind: str, number: int, future: Any) -> None:
        session = self._sessions.get(number)
        if session is None:
            return
        error = future.exception()
        if error is not None:
            self._lose(number, _in_words(error))
            return
        if kind == "told":
            return
        ended = None
        if kind == "heard":
            answer = orjson.loads(future.result())
            ended = answer["ended"]
            for message in answer["messages"]:
                self._tell("heard", session=number, message=message)
        if ended is not None:
            self._lose(number, ended)
        else:
            self._call("heard", number, session.actor.hear.remote(HEAR_S))

    def _lose(self, number: int, why: str) -> None:
        self._kill(self._sessions.pop(number))
        self._tell("lost", session=number, why=why)

    def _kill(self, session: _Session) -> None:
        with contextlib.suppress(Exception):  # it may be gone
            self._ray.kill(session.actor)

    def _send_all(self) -> None:
        for number, session in self._sessions.items():
            if session.outbox:
                messages, session.outbox = session.outbox, []
                self._call("told", number, session.actor.tell.remote(session.n_told, orjson.dumps(messages)))
                session.n_told += 1

    # -- the driver ---------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            message = self._channel.receive()
            if message == {"do": "exit"} and not self._is_connected and not self._address.startswith(_LOCAL):
                _end_group()  # nothing is there to be ended, and Ray may wait for its head for minutes
            self._inbox.put(("driver", message))
            if message is None:
                time.sleep(_LAST_S)  # the end may hang in a call of Ray's
                _end_group()

    def _tell(self, event: str, **facts: Any) -> None:
        with contextlib.suppress(ConnectionError):  # the end of file says so, too
            self._channel.send({"event": event, **facts})

    def _close(self) -> None:
        for session in self._sessions.values():
            self._kill(session)
        if self._ray is not None:
            with contextlib.suppress(Exception):
                self._ray.shutdown()
        if self._local is not None:
            with contextlib.suppress(Exception):
                self._local.close()


def _in_words(error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    return f"its actor is gone ({type(error).__name__}: {text.splitlines()[0][:200]})"


def _leave_stops_to_the_driver() -> None:
    """Have SIGTERM do nothing here: `ray job stop` sends it to every process below a job's command.

    The driver stops cleanly then, for which it needs this process. Before there is a cluster the driver has nothing to
    finish, and ends at once. A handler that does nothing, unlike a signal that is ignored, is not handed down to Ray's
    own processes.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: None)


def _end_group() -> None:
    """End this process and all that it has started and that is still there."""
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Entry point of the bridge: `channel_fd address resource`; it leads a process group of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_stops_to_the_driver()
    tie_to_parent("bridge", None)
    channel = Channel.from_fd(int(sys.argv[1]))
    try:
        Bridge(channel, sys.argv[2], sys.argv[3]).run()
    except EngineError as error:
        channel.try_send({"event": "failed", "kind": type(error).__name__, "message": str(error)})
    except BaseException as error:  # noqa: BLE001 - the last line of a process: whatever it was is reported
        channel.try_send({"event": "failed", "kind": "UNEXPECTED", "message": repr(error)})
    finally:
        channel.close()
        _end_group()


if __name__ == "__main__":
    main()
