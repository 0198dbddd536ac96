"""A node that is cut off from the driver while both live: in both directions, and in the one that decides."""

from __future__ import annotations

import pytest

from bench.standin import StandinFleet
from engine.leases.records import Token
from tests.cluster.job import CLUSTER_S, ClusterJob, are_gone, tree
from tests.crash.job import SLOW, finish, full_speed, slow_down, tweets, wait_until

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.ray]

N = 1600


def test_g2_a_node_that_hears_nothing_and_is_not_heard_ends_by_itself_before_others_get_its_parts(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    """Its actor, through which all messages go, stands still; its processes live, and the network is as it was."""
    process = job.begin_slowly(fleet, tweets(N))
    agent = job.agent("local-2")
    members, actor = tree(agent), agent.parent()
    assert actor is not None

    actor.suspend()
    wait_until(lambda: are_gone(members), CLUSTER_S, "the end of the node's processes", process)
    is_revoked = bool(job.records("REVOKED"))
    wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
    actor.resume()
    full_speed(fleet)
    ended = finish(process, CLUSTER_S)

    assert not is_revoked  # the life-line is shorter than the lease
    assert ended.code == 0, ended.err
    assert [record["token"] for record in job.records("REVOKED")] == [str(job.token_of("local-2"))]
    assert "nothing was heard of it" in job.records("REVOKED")[0]["why"]
    job.assert_exact()


def test_g2_a_node_that_is_not_heard_any_more_but_hears_commits_nothing_behind_its_lease(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    """What it tells is held on its way, until the test lets it go: behind the end of its token."""
    gate = job.folder / "gate"
    name = job.host.add_node(ENGINE_FAILPOINTS=f"agent/agent.before_tell#0=hold:{gate}")
    try:
        job.insert(tweets(2 * N))
        job.options = SLOW
        slow_down(fleet)
        process = job.start_run()
        job.wait_for_commits_of_all(process, 3)
        members = tree(job.agent(name))

        gate.touch()
        wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
        token = job.token_of(name)
        before = [commit for commit in job.state().commits if Token.of_shard(commit) == token]
        gate.unlink()
        wait_until(lambda: are_gone(members), CLUSTER_S, "the end of the node's processes", process)
        full_speed(fleet)
        ended = finish(process, CLUSTER_S)
    finally:
        job.host.remove_node(name)

    assert ended.code == 0, ended.err
    assert [record["token"] for record in job.records("REVOKED")] == [str(token)]
    assert "nothing was heard of it" in job.records("REVOKED")[0]["why"]
    assert [commit for commit in job.state().commits if Token.of_shard(commit) == token] == before
    job.assert_exact()
