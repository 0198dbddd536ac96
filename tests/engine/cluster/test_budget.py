"""`--limit` over nodes: exactly so many documents are read, whoever reads them and whoever is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cluster import budget
from engine.cluster.budget import Budget
from engine.memory.channels import Message
from tests.engine.cluster.scripted import PIECES, ROWS, ScriptedNodes, run
from tests.engine.cluster.test_supervisor import records, shards_of

ALL = PIECES * ROWS


@pytest.mark.parametrize("spare", [None, 3], ids=["parts in one go", "parts in many goes"])
@pytest.mark.parametrize(("limit", "code"), [(25, 8), (ALL - 1, 8), (ALL, 0), (ALL + 5, 0)])
def test_nodes_read_as_many_documents_as_the_limit_says_and_say_whether_work_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, code: int, spare: int | None
) -> None:
    if spare is not None:
        monkeypatch.setattr(budget, "_SPARE", 0)
        monkeypatch.setattr(budget, "_LEAST", spare)

    summary = run(tmp_path, ScriptedNodes(shards_of(tmp_path)), limit=limit)

    assert summary["exit"] == code
    assert summary["read"] == summary["embedded"] == min(limit, ALL)
    assert sum(commit["rows"] for commit in records(tmp_path, "COMMIT")) == min(limit, ALL)


@pytest.mark.parametrize("limit", [25, ALL])
def test_what_a_lost_node_has_read_and_not_committed_is_read_by_others_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(budget, "_SPARE", 0)
    monkeypatch.setattr(budget, "_LEAST", 7)
    lost: list[int] = []

    def die_once(nodes: ScriptedNodes, session: int, role: str, command: Message) -> bool:
        if nodes.node_of[session] != "b" or lost or not command["limit"]:
            return False
        lost.append(session)
        nodes.embed(session, command)
        nodes.lose(session)
        return True

    summary = run(tmp_path, ScriptedNodes(shards_of(tmp_path), disturb=die_once), limit=limit)

    assert lost and len(records(tmp_path, "REVOKED")) == 1
    assert summary["exit"] == (0 if limit == ALL else 8)
    assert summary["read"] == summary["embedded"] == limit


@pytest.mark.seconds
@given(data=st.data(), limit=st.integers(1, 300), sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_any_order_of_reading_and_losing_reads_the_limit_or_all_there_is(
    data: st.DataObject, limit: int, sizes: list[int]
) -> None:
    """Parts as counts of unread documents; sessions read, commit and die as they are drawn."""
    shared = Budget(limit)
    left = dict(enumerate(sizes))
    open_rows: dict[int, dict[int, int]] = {}  # of each session, what it has read of which part and not committed
    n_lost: dict[int, int] = {}
    held: dict[int, tuple[int, int]] = {}  # a session's part and grant
    done: set[int] = set()
    for step in range(200):
        if shared.is_spent or len(done) == len(sizes):
            break
        session = data.draw(st.integers(0, 2))
        # in the end everybody finishes what it has, so that the history ends
        act = data.draw(st.sampled_from(["give", "read", "lose"])) if step < 60 else ("give", "read")[step % 2]
        session = step // 2 % 3 if step >= 60 else session
        key = session + 10 * n_lost.get(session, 0)
        parts = [part for part in left if part not in done and part not in {one for one, _ in held.values()}]
        if act == "give" and key not in held and parts and shared.may_give():
            part = data.draw(st.sampled_from(parts))
            grant = shared.grant(key, part, 10)
            assert grant is not None
            held[key] = part, grant
        elif act == "read" and key in held:
            part, grant = held.pop(key)
            n_rows = min(grant, left[part])
            left[part] -= n_rows
            rows = open_rows.setdefault(key, {})
            rows[part] = rows.get(part, 0) + n_rows
            is_whole = not left[part]
            shared.read(key, part, n_rows, is_whole=is_whole)
            if is_whole:
                done.add(part)
        elif act == "lose":
            held.pop(key, None)
            for part, n_rows in open_rows.pop(key, {}).items():
                left[part] += n_rows
                done.discard(part)
            shared.lost(key, 0)
            n_lost[session] = n_lost.get(session, 0) + 1
        read = sum(sizes) - sum(left.values())
        assert read <= limit
    else:
        raise AssertionError("it does not end")
    assert sum(sizes) - sum(left.values()) == min(limit, sum(sizes))
    assert shared.is_spent == (any(left.values()))
