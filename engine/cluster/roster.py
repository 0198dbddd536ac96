"""The roster: which nodes there are, whose servers were found to be the right ones, and which are tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from engine.cluster.node import Node, NodeState
from engine.cluster.ports import Heard, Nodes, NodesSeen, SessionLost
from engine.memory.channels import Message

_log = logging.getLogger("engine.cluster")

RETRY_S = 15.0
"""A node whose servers do not answer, or whose process could not start, is tried again after that."""
MAX_FAILURES = 5
"""Sessions of a node that may fail within an hour."""


class Roster:
    """Keeps a session with every node that there is.

    Attributes:
        nodes: All that were ever seen in this run, by id.
        has_seen: Whether the cluster has told which nodes there are.
    """

    def __init__(self, cluster: Nodes, job: Message) -> None:
        """
        Args:
            job: The first message to every node process.
        """
        self.cluster = cluster
        self.nodes: dict[str, Node] = {}
        self._job = job
        self._n_sessions = 0
        self._of_session: dict[int, Node] = {}
        self.has_seen = False

    @property
    def is_settled(self) -> bool:
        """Whether the nodes that are there have all been looked at."""
        return self.has_seen and all(node.state is not NodeState.STARTING for node in self.nodes.values())

    @property
    def by_name(self) -> list[Node]:
        """All nodes that were ever seen, by their names."""
        return sorted(self.nodes.values(), key=lambda node: node.name)

    def in_state(self, *states: NodeState) -> list[Node]:
        """The nodes in some states."""
        return [node for node in self.nodes.values() if node.state in states]

    def advance(self) -> Iterator[tuple[Node, Message | SessionLost]]:
        """Take in the news; yields the messages of nodes that are working, and the ends of their sessions.

        Raises:
            EngineError: there is no way to the nodes any more.
        """
        for news in self.cluster.collect():
            if isinstance(news, NodesSeen):
                self._see(news)
            elif isinstance(news, Heard):
                yield from self._hear(news)
            elif (node := self._of_session.get(news.session)) is not None:
                if node.state is NodeState.WORKING:
                    yield node, news
                else:
                    self.fail(node, news.why)
        now = time.monotonic()
        for node in self.in_state(NodeState.WAITING):
            if now >= node.retry_at_s:
                self._begin(node)

    def _see(self, seen: NodesSeen) -> None:
        self.has_seen = True
        for identity, name in seen.names.items():
            node = self.nodes.get(identity)
            if node is None:
                node = self.nodes[identity] = Node(id=identity, name=name)
                _log.info("node_seen node=%s", name)
                self._begin(node)
        for node in self.nodes.values():
            if node.id not in seen.names and node.state is NodeState.WAITING:
                self.set_state(node, NodeState.LOST, "it is not in the cluster any more")

    def _begin(self, node: Node) -> None:
        self._n_sessions += 1
        node.session = self._n_sessions
        node.brief = None
        node.end_session()
        self._of_session[node.session] = node
        self.set_state(node, NodeState.STARTING, "")
        self.cluster.begin(node.session, node.id, self._job)

    def _hear(self, heard: Heard) -> Iterator[tuple[Node, Message]]:
        for message in heard.messages:
            node = self._of_session.get(heard.session)
            if node is None:  # its session has been ended meanwhile
                return
            if node.state is NodeState.WORKING:
                yield node, message
            elif message["event"] == "examined":
                node.brief = message
                self.set_state(node, NodeState.READY, "")
            elif message["event"] == "unfit":
                self._unfit(node, message)

    def _unfit(self, node: Node, message: Message) -> None:
        if message["may_pass"]:
            self.fail(node, message["message"])
        else:
            self.refuse(node, message["message"])

    def send(self, node: Node, message: Message) -> None:
        """Send a message to a node's process."""
        self.cluster.send(node.session, message)

    def end(self, node: Node) -> None:
        """End a node's session, if it has one."""
        if self._of_session.pop(node.session, None) is not None:
            self.cluster.end(node.session)
        node.end_session()

    def refuse(self, node: Node, why: str) -> None:
        """Use a node no more in this run."""
        self.end(node)
        self.set_state(node, NodeState.REFUSED, why)
        _log.error("node_refused node=%s reason=%r: the others go on", node.name, why)

    def fail(self, node: Node, why: str) -> None:
        """End a node's session that has failed; another one is tried later, unless that has happened too often."""
        self.end(node)
        if node.failures.add() > MAX_FAILURES:
            self.refuse(node, f"{why}; it has failed {MAX_FAILURES + 1} times within an hour")
            return
        _log.warning("node_failed node=%s reason=%r: it is tried again", node.name, why)
        node.retry_at_s = time.monotonic() + RETRY_S
        self.set_state(node, NodeState.WAITING, why)

    def begin_again(self, node: Node, why: str) -> None:
        """End a working node's session and begin another one at once, unless that has happened too often."""
        self.end(node)
        node.restarts += 1
        if node.failures.add() > MAX_FAILURES:
            self.refuse(node, f"{why}; it has failed {MAX_FAILURES + 1} times within an hour")
            return
        self._begin(node)

    def set_state(self, node: Node, state: NodeState, why: str) -> None:
        """Note where a node stands."""
        node.state, node.why = state, why
