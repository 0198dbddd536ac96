"""The driver of many nodes over scripted ones: who gets what, and whose shards are committed."""

from __future__ import annotations

from pathlib import Path

from engine.cluster.ports import Heard, News
from engine.ledger.log import Record, read_records
from engine.memory.channels import Message
from tests.engine.cluster.scripted import PIECES, ROWS, ScriptedNodes, run


def records(folder: Path, kind: str) -> list[Record]:
    """The ledger's records of a type."""
    return [record for record in read_records(folder / "hot/db.c.done/ledger")[0] if record["type"] == kind]


def shards_of(folder: Path) -> Path:
    """The shards folder."""
    return folder / "cold/db.c/shards"


def test_nodes_share_a_queue_and_every_shard_has_its_token(tmp_path: Path) -> None:
    nodes = ScriptedNodes(shards_of(tmp_path))

    summary = run(tmp_path, nodes)

    assert summary["exit"] == 0
    assert summary["read"] == summary["embedded"] == PIECES * ROWS
    assert [(node["node"], node["state"]) for node in summary["nodes"]] == [("a", "done"), ("b", "done")]
    assert sum(node["documents"] for node in summary["nodes"]) == PIECES * ROWS
    commits = records(tmp_path, "COMMIT")
    assert {commit["token"] for commit in commits} == {"1-1", "1-2"}
    assert sum(commit["rows"] for commit in commits) == PIECES * ROWS
    assert {path.name for path in shards_of(tmp_path).iterdir()} == {commit["file"] for commit in commits}


def test_a_node_that_dies_loses_its_open_shard_and_nothing_of_it_counts_twice(tmp_path: Path) -> None:
    lost: list[int] = []

    def die_once(nodes: ScriptedNodes, session: int, role: str, command: Message) -> bool:
        if nodes.node_of[session] != "b" or lost:
            return False
        lost.append(session)
        nodes.embed(session, command)
        nodes.lose(session)
        return True

    summary = run(tmp_path, ScriptedNodes(shards_of(tmp_path), disturb=die_once))

    assert summary["exit"] == 0
    assert summary["read"] == summary["embedded"] == PIECES * ROWS
    assert summary["restarts"] == 1
    assert [node["restarts"] for node in summary["nodes"]] == [0, 1]
    assert [record["token"] for record in records(tmp_path, "REVOKED")] == ["1-2"]
    assert "1-2" not in {commit["token"] for commit in records(tmp_path, "COMMIT")}


def test_a_shard_of_a_token_that_has_ended_is_never_committed_and_its_file_goes(tmp_path: Path) -> None:
    sealed: list[str] = []

    def die_and_come_back(nodes: ScriptedNodes, session: int, role: str, command: Message) -> bool:
        if nodes.node_of[session] != "b" or sealed:
            return False
        nodes.embed(session, command)
        nodes.lose(session)
        sealed.append(nodes.seal(session))  # a zombie: it is heard, behind its end
        return True

    summary = run(tmp_path, ScriptedNodes(shards_of(tmp_path), disturb=die_and_come_back))

    assert summary["exit"] == 0
    assert summary["embedded"] == PIECES * ROWS
    assert sealed
    assert sealed[0] not in {commit["shard"] for commit in records(tmp_path, "COMMIT")}
    assert f"{sealed[0]}.parquet" not in {path.name for path in shards_of(tmp_path).iterdir()}


def test_a_node_that_does_not_fit_is_refused_and_the_other_does_its_part_too(tmp_path: Path) -> None:
    nodes = ScriptedNodes(shards_of(tmp_path))
    answers = iter([None, "another model"])

    summary = run(tmp_path, nodes, why_not=lambda _: next(answers))

    assert summary["exit"] == 0
    assert summary["embedded"] == PIECES * ROWS
    states = {node["node"]: (node["state"], node["documents"]) for node in summary["nodes"]}
    assert states == {"a": ("done", PIECES * ROWS), "b": ("refused", 0)}
    assert summary["nodes"][1]["why"] == "another model"


def test_what_a_node_that_was_lost_found_unfit_is_counted_once(tmp_path: Path) -> None:
    told: list[int] = []

    def quarantine_and_die(nodes: ScriptedNodes, session: int, role: str, command: Message) -> bool:
        if nodes.node_of[session] != "b" or told:
            return False
        told.append(session)
        entry = {"id": "7", "reason": "empty", "detail": "", "attempts": 0, "text": None}
        nodes.tell(session, nodes.says("reader", "quarantine", entries=[entry]))
        nodes.lose(session)
        return True

    summary = run(tmp_path, ScriptedNodes(shards_of(tmp_path), disturb=quarantine_and_die))

    assert summary["exit"] == 3
    assert summary["quarantined"] == 1
    assert summary["read"] == summary["embedded"] + 1 == PIECES * ROWS + 1


class SlowToEmbed(ScriptedNodes):
    """One node whose reader has come to the end of its first part just before it is given the second one, and whose
    clients embed that only when there is nothing else to hear."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.numbers: list[int] = []
        self.late: list[News] = []

    def collect(self) -> list[News]:
        """See the protocol."""
        found = super().collect()
        return found if found or not self.late else [self.late.pop(0)]

    def read_ahead(self, session: int, role: str, command: Message) -> bool:
        """The end of the first part is told once the second one is given; the end of both is told last."""
        self.numbers.append(command["number"])
        if len(self.numbers) > 2:
            return False
        if len(self.numbers) == 2:
            first, second = (self._read(number, sequence) for sequence, number in enumerate(self.numbers))
            self.tell(session, self._embedded(1), first, self._done(1))
            self.late = [
                Heard(session, [second]),
                Heard(session, []),
                Heard(session, [self._embedded(2), self._done(2)]),
            ]
            self.rows[session], self.parts[session] = 2 * ROWS, 2
        return True

    def _embedded(self, n_parts: int) -> Message:
        return self.says("client-0", "client", rows=n_parts * ROWS, state="idle", url="http://s")

    def _read(self, number: int, sequence: int) -> Message:
        facts = {"found": ROWS, "read": ROWS, "is_whole": True, "skipped": 0, "sequence": sequence}
        return self.says("reader", "part_done", number=number, **facts)

    def _done(self, n_parts: int) -> Message:
        return self.says("reader", "pass_done", documents=n_parts * ROWS, found=n_parts * ROWS, parts=n_parts)

    def seal(self, session: int) -> str:
        """See there; nobody is told to while rows of a part that was read are to come."""
        assert not self.late, "the open shard was sealed although rows are to come"
        return super().seal(session)


def test_g1_the_end_of_an_earlier_part_is_not_taken_for_that_of_all(tmp_path: Path) -> None:
    """A lease would be done, and a run over, while rows of it are still with the clients."""
    nodes = SlowToEmbed(shards_of(tmp_path), names=("a",))
    nodes.disturb = lambda _, *command: nodes.read_ahead(*command)

    summary = run(tmp_path, nodes)

    assert len(nodes.numbers) > 2 and not nodes.late
    assert summary["exit"] == 0
    assert summary["read"] == summary["embedded"] == PIECES * ROWS
