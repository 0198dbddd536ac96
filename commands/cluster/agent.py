"""The node process: examines the node's servers, starts the node's pipeline, and relays what its processes tell.

It decides nothing: what its processes are commanded, whether a shard may be named and is committed, and when all of it
ends, is the driver's word (`engine.cluster.supervisor`). Its first message is its job (`commands.cluster.job`).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections import deque
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.cluster.job import from_message
from commands.cluster.lifeline import Lifeline
from commands.cluster.node_folder import NodeFolder
from commands.cluster.queues import PLAN, require_same_files
from commands.cluster.witness import may_pass, try_shared_cold
from commands.composition.data_set import from_record
from commands.composition.servers import client_settings, examine_patiently
from commands.composition.stages import StageComposer, plan_rings, slot_id_type
from commands.options.secrets import keep_uri_secret
from engine.errors import EngineError, Exit, ServersUnavailable
from engine.leases.records import Token
from engine.ledger import durable
from engine.memory.channels import Channel, Message
from engine.supervision.generation import Child, Generation
from engine.supervision.interpreter import tie_to_parent
from gpu_clients.servers.doctor import Fleet
from gpu_clients.servers.probe import LongTexts
from writers.cold.settings import ColdSettings

if TYPE_CHECKING:
    from commands.cluster.done_shards import DoneShards

URLS_ENV = "ENGINE_NODE_TEI_URLS"
"""In the environment of a node: its servers, where these are others than `--tei-urls` says of all nodes."""
FIGURES_EVERY_S = 0.5
_REPORTS = frozenset({"reader", "client", "writer"})
"""Regular reports of a process: of several only the last is of interest."""
_TICK_S = 0.2
_FINISH_S = 2.0
_EXAMINE_S = 10.0


class Agent:
    """One node process."""

    def __init__(self, channel: Channel, job: Message) -> None:
        self._channel = channel
        self._job = job
        self._lifeline = Lifeline(channel)
        self._folder = NodeFolder()
        self._cold: ColdSettings | None = None
        self._done: DoneShards | None = None
        self._parts: deque[tuple[Future[str | None], Message]] = deque()  # whose done ids are not there yet
        self._config, self._secrets = from_message(job["run"], self._folder.path)
        if urls := os.environ.get(URLS_ENV):
            servers = dataclasses.replace(self._config.servers, urls=tuple(filter(None, urls.split(","))))
            self._config = dataclasses.replace(self._config, servers=servers)
        self._reports: dict[tuple[str, str], Message] = {}
        self._figures_at_s = 0.0
        keep_uri_secret(self._secrets.mongo_uri)

    def run(self) -> None:
        """Examine, wait for the word to begin, relay until told to exit."""
        try:
            fleet = self._examine()
            begin = self._await("begin")
            if begin is not None:
                self._relay(self._start(fleet, begin))
        finally:
            self._folder.close()

    def tell(self, event: str, **facts: Any) -> None:
        """Send something to the driver; ends this process when the actor is gone."""
        durable.point("agent.before_tell")
        try:
            self._channel.send({"event": event, **facts})
        except ConnectionError:
            os.killpg(0, signal.SIGKILL)

    # -- before the beginning -----------------------------------------------------------------------------------

    def _examine(self) -> Fleet:
        """Look at the files, at where shards go, and at the servers; tell what these are."""
        durable.point("agent.before_files")
        require_same_files(self._job["files"], min(_EXAMINE_S, self._config.limits.max_outage_s))
        self._cold = try_shared_cold(self._config, self._job["witness"])
        fleet = examine_patiently(
            client_settings(self._config, self._secrets),
            wait_s=min(_EXAMINE_S, self._config.limits.max_outage_s),
            with_padding=self._config.servers.bucketing == "auto",
            long_texts=LongTexts.BRIEFLY,
        )
        self.tell(
            "examined",
            fingerprint=fleet.fingerprint.as_dict(),
            canary=fleet.canary,
            canary_brief=fleet.canary_brief,
            n_clients=len(self._config.servers.urls),
            warnings=list(fleet.warnings),
        )
        return fleet

    def _await(self, what: str) -> Message | None:
        """Wait for a message; None when told to exit before."""
        while True:
            while (message := self._lifeline.take()) is not None:  # one by one: those behind are not for now
                if message["do"] == what:
                    return message
                if message["do"] == "exit":
                    return None
                self._obey_early(message)
            self._lifeline.wait(1.0)

    def _obey_early(self, message: Message) -> None:
        if message["do"] == "quarantine":
            self._append(self._config.folders.quarantine.name, message["lines"])
        elif message["do"] == "append":
            self._append(message["file"], message["lines"])

    def _start(self, fleet: Fleet, begin: Message) -> Generation:
        """Start the node's processes."""
        config = self._config
        data_set = from_record(begin["record"])
        fleet = dataclasses.replace(fleet, canary=begin["canary"], canary_brief=begin["canary_brief"])
        clients = dataclasses.replace(client_settings(config, self._secrets), id_type=slot_id_type(config, data_set))
        rings = plan_rings(config, fleet, data_set)
        token = Token.parse(begin["token"])
        config.folders.hot.mkdir(parents=True, exist_ok=True)
        config.folders.shards.mkdir(parents=True, exist_ok=True)
        composer = StageComposer(
            config, self._secrets.mongo_uri, clients, fleet, data_set, rings, None, cold=self._cold
        )
        if not config.source.mark and config.source.files is None:
            from commands.cluster.done_shards import DoneShards  # noqa: PLC0415 - numpy, which only this mode needs

            self._done = DoneShards(data_set.shards(config.folders, self._cold), config.folders.hot)
        files = begin["files"]
        if files is not None:
            files = {**files, "plan": str(config.folders.hot / PLAN)}
        done_ids = self._await_done_ids(len(config.servers.urls))
        stages = composer.stages_of_node(token, begin["quarantine_before"], files, done_ids)
        return Generation(token.number, token.epoch, rings, stages, [self._folder.lock_fd], begin["suspects"])

    def _await_done_ids(self, n_clients: int) -> str | None:
        """The ids of what is committed, where nothing is marked; says meanwhile that the node lives."""
        if self._done is None:
            return None
        ids = self._done.take()
        silent_s = dict.fromkeys(["reader", *(f"client-{index}" for index in range(n_clients)), "writer"], 0.0)
        while not ids.done():
            wait([ids], FIGURES_EVERY_S)
            cpu_s = time.process_time()
            self.tell("figures", facts=[], rings={}, full=False, silent_s=silent_s, agent_cpu_s=cpu_s)
        return ids.result()

    def _append(self, file: str, lines: str) -> None:
        """Add lines to a file of the node's folder."""
        path = self._config.folders.hot / Path(file).name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(lines)

    # -- relaying -----------------------------------------------------------------------------------------------

    def _relay(self, generation: Generation) -> None:
        living = dict(generation.children)
        try:
            while True:
                self._lifeline.wait(_TICK_S, *(child.channel.fd for child in living.values()))
                for child in list(living.values()):
                    if self._hear(child):
                        del living[child.role]
                while (message := self._lifeline.take()) is not None:
                    if message["do"] == "exit":
                        self._finish(generation)
                        return
                    self._obey(generation, message)
                while self._parts and self._parts[0][0].done():
                    ids, part = self._parts.popleft()
                    generation.command("reader", **part, done_ids=ids.result())
                self._tell_figures(generation)
        finally:
            generation.kill()

    def _hear(self, child: Child) -> bool:
        """Relay what a process tells; True when it has ended."""
        messages, has_ended = child.channel.poll()
        if messages:
            child.heard_at_s = time.monotonic()
        for message in messages:
            if message["event"] in _REPORTS:
                self._reports[child.role, message["event"]] = message
                continue
            self._tell_reports(child.role)
            self.tell("from", role=child.role, message=message)
        if has_ended:
            child.reap(block=True)
            self._tell_reports(child.role)
            self.tell("child_ended", role=child.role, code=child.ended)
        return has_ended

    def _tell_reports(self, role: str) -> None:
        for key in [key for key in self._reports if key[0] == role]:
            self.tell("from", role=role, message=self._reports.pop(key))

    def _tell_figures(self, generation: Generation) -> None:
        now = time.monotonic()
        if now - self._figures_at_s < FIGURES_EVERY_S:
            return
        self._figures_at_s = now
        reports, self._reports = self._reports, {}
        self.tell(
            "figures",
            facts=[[role, report] for (role, _), report in reports.items()],
            rings=generation.ring_shares(),
            full=generation.has_full_slots(),
            silent_s={role: round(now - child.heard_at_s, 1) for role, child in generation.children.items()},
            agent_cpu_s=time.process_time(),
        )

    def _obey(self, generation: Generation, message: Message) -> None:
        if message["do"] == "command" and self._done is not None and message["command"]["do"] == "part":
            self._parts.append((self._done.take(message["command"]["number"]), message["command"]))
        elif message["do"] == "command":
            generation.command(message["role"], **message["command"])
        else:
            self._obey_early(message)

    def _finish(self, generation: Generation) -> None:
        """Let the processes leave, and tell what time they took."""
        generation.finish(_FINISH_S)
        cpu_s = {role: child.cpu_s for role, child in generation.children.items()}
        self.tell("finished", cpu_s=cpu_s, agent_cpu_s=time.process_time())


def main() -> None:
    """Entry point of a node process: `channel_fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tie_to_parent("node", None)
    channel = Channel.from_fd(int(sys.argv[1]))
    job = channel.receive(30.0)
    if job is None:
        os._exit(Exit.UNEXPECTED)
    if job["failpoints"]:
        os.environ[durable.FAILPOINTS_ENV] = job["failpoints"]
    durable.arm("agent")
    try:
        agent = Agent(channel, job)
        agent.run()
    except EngineError as error:
        _tell_unfit(channel, str(error), may_pass=isinstance(error, ServersUnavailable) or may_pass(error))
        os._exit(error.exit_code)
    except BaseException as error:  # noqa: BLE001 - the last line of a process: whatever it was is reported
        _tell_unfit(channel, repr(error), may_pass=True)
        os._exit(Exit.UNEXPECTED)
    os._exit(Exit.DONE)


def _tell_unfit(channel: Channel, message: str, *, may_pass: bool) -> None:
    channel.try_send({"event": "unfit", "message": message, "may_pass": may_pass})


if __name__ == "__main__":
    main()
