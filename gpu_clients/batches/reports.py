"""What a client tells the supervisor: its counters every so often, and when its server goes out and comes back."""

from __future__ import annotations

from collections.abc import Sequence

from engine.supervision.worker import Heartbeat, StageContext
from gpu_clients.batches.counters import Counters
from gpu_clients.batches.lane import Lane
from gpu_clients.batches.peers import Peers

NO_ANSWER_AT_START = "it did not answer at the start"
"""The doctor has told of it."""


class Reports:
    """Events and log lines of one client."""

    def __init__(
        self,
        context: StageContext,
        urls: Sequence[str],
        *,
        lane: Lane,
        counters: Counters,
        peers: Peers,
    ) -> None:
        self._context = context
        self._urls = urls
        self._lane = lane
        self._counters = counters
        self._peers = peers
        self._heartbeat = Heartbeat()
        self._told = 0  # documents settled by the last report
        self._said = NO_ANSWER_AT_START  # why the server is out, as the log has it

    def are_due(self, *, tail: bool) -> bool:
        """Whether it is time; at the end everybody waits for the last rows to be counted, so they are told at once."""
        return self._heartbeat.due() or (tail and self._settled != self._told)

    def tell(self, *, starving: bool, stopped: bool) -> None:
        """Tell the counters as they stand.

        Args:
            starving: Whether there is room but no document.
            stopped: Whether a stop command has been carried out.
        """
        lane = self._lane
        state = lane.breaker.state.value
        if stopped:
            state = "stopped"
        elif lane.breaker.is_ok and starving and not lane.in_flight:
            state = "idle"
        self._told = self._settled
        self._context.tell(
            "client",
            url=lane.address.url,
            state=state,
            breaker=lane.breaker.state.value,
            outs=lane.breaker.trips,
            in_flight=lane.in_flight,
            window=lane.admission.window_requests,
            admission=lane.admission.state.value,
            hedged=self._peers.hedged,
            reconnects=lane.requester.http.n_resent if lane.requester else 0,
            **self._counters.as_facts(),
        )

    def server_out(self, reason: str) -> None:
        """The server was taken out."""
        self._said = reason
        self._context.log("warning", "server_out", url=self._lane.address.url, reason=reason)
        self._context.tell("server_out", url=self._lane.address.url, reason=reason)

    def drifted(self, server: int, rows: int) -> None:
        """The vectors of a server, ours or another, are wrong, and so may be rows that are not committed yet.

        Args:
            rows: How many of its rows no right canary came after.
        """
        self._context.tell("drift", server=server, url=self._urls[server], rows=rows)

    def several_backends(self, reason: str) -> None:
        """Unlike backends answer behind the server's URL: the run ends."""
        self._context.tell("several_backends", url=self._lane.address.url, reason=reason)

    def server_back(self) -> None:
        """The server works again."""
        self._context.log("info", "server_back", url=self._lane.address.url)
        self._context.tell("server_back", url=self._lane.address.url)

    def say_why_out(self) -> None:
        """Log what keeps the server out, once for every reason."""
        breaker = self._lane.breaker
        if not breaker.is_ok and breaker.reason != self._said:
            self._said = breaker.reason
            self._context.log("warning", "server_stays_out", url=self._lane.address.url, reason=breaker.reason)

    @property
    def _settled(self) -> int:
        """Documents that went on to the writer or into quarantine."""
        return self._counters.rows + self._counters.quarantined
