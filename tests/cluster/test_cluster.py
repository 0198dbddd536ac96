"""Runs over the nodes of a real Ray cluster: exact whatever is killed, and each node's share of it is told."""

from __future__ import annotations

import signal

import psutil
import pytest

from bench.standin import StandinFleet
from engine.errors import Exit
from engine.leases.records import Token
from tests.cluster.job import CLUSTER_S, ClusterJob, are_gone, tree
from tests.crash.job import SLOW, finish, full_speed, slow_down, tweets, wait_until

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.ray]

N = 1600


def test_g1_g2_g6_a_run_over_nodes_is_exact_although_one_of_them_and_then_the_driver_is_killed(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    process = job.begin_slowly(fleet, tweets(N))
    job.agent("local-2").kill()
    wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
    process.kill()
    finish(process)
    wait_until(lambda: not job.host.agents(), CLUSTER_S, "the end of the node processes")
    full_speed(fleet)

    ended = job.run()
    again = job.run()

    assert process.returncode == -signal.SIGKILL
    assert [record["token"] for record in job.records("REVOKED")] == [str(job.token_of("local-2"))]
    assert ended.code == 0, ended.err
    nodes = {node["node"]: node for node in ended.summary["nodes"]}
    assert set(nodes) == {"local-1", "local-2"}
    assert all(node["state"] == "done" for node in nodes.values())
    assert sum(node["documents"] for node in nodes.values()) == ended.summary["embedded"]
    assert (again.code, again.summary["read"], again.summary["resumed"]) == (0, 0, job.n_queue)
    job.assert_exact()


def test_g1_g7_nodes_embed_every_document_once_and_the_next_run_finds_nothing(job: ClusterJob) -> None:
    documents = tweets(N)
    documents[3]["text"], documents[1003]["text"] = "", None
    job.insert(documents)

    first = job.run()
    again = job.run()

    unfit = {3: "empty", 1003: "missing"}
    assert first.code == 3, first.err
    assert first.summary["read"] == first.summary["embedded"] + 2 == job.n_queue
    assert first.summary["quarantined"] == 2
    nodes = first.summary["nodes"]
    assert [node["node"] for node in nodes] == ["local-1", "local-2"]
    assert all(node["state"] == "done" and node["restarts"] == 0 for node in nodes)
    assert sum(node["documents"] for node in nodes) == first.summary["embedded"]
    assert {server["node"] for server in first.summary["servers"]} == {"local-1", "local-2"}
    assert again.code == 3, again.err
    assert (again.summary["read"], again.summary["embedded"], again.summary["quarantined"]) == (2, 0, 2)
    job.assert_exact(quarantined=unfit)
    assert not job.host.agents()


@pytest.mark.parametrize("whom", ["the node process", "its actor", "its writer"])
def test_g2_a_node_of_which_something_is_killed_costs_its_open_shard_and_begins_again(
    job: ClusterJob, fleet: StandinFleet, whom: str
) -> None:
    process = job.begin_slowly(fleet, tweets(N))
    agent = job.agent("local-2")
    members = tree(agent)

    victim = {
        "the node process": agent,
        "its actor": agent.parent(),
        "its writer": next(child for child in members if "writer" in child.cmdline()),
    }[whom]
    assert victim is not None
    victim.kill()
    wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
    wait_until(lambda: are_gone(members), CLUSTER_S, "the end of its processes", process)
    full_speed(fleet)
    ended = finish(process, CLUSTER_S)

    assert ended.code == 0, ended.err
    assert [record["token"] for record in job.records("REVOKED")] == [str(job.token_of("local-2"))]
    restarts = {node["node"]: node["restarts"] for node in ended.summary["nodes"]}
    assert restarts["local-1"] == 0 and restarts["local-2"] == 1
    assert ended.summary["restarts"] == 1
    job.assert_exact()


def test_g2_a_node_that_stands_still_beyond_its_lease_commits_nothing_when_it_goes_on(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    process = job.begin_slowly(fleet, tweets(N))
    agent = job.agent("local-2")
    actor = agent.parent()
    assert actor is not None
    members = [*tree(agent), actor]  # all of the node but its raylet: it is as if it were cut off

    for member in members:
        member.suspend()
    wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
    token = job.token_of("local-2")
    before = [commit for commit in job.state().commits if Token.of_shard(commit) == token]
    for member in reversed(members):
        if member.is_running():
            member.resume()
    full_speed(fleet)
    ended = finish(process, CLUSTER_S)

    assert ended.code == 0, ended.err
    assert "nothing was heard of it" in job.records("REVOKED")[0]["why"]
    assert [commit for commit in job.state().commits if Token.of_shard(commit) == token] == before
    wait_until(lambda: are_gone(members), CLUSTER_S, "the end of the node that stood still")
    job.assert_exact()


@pytest.mark.parametrize(
    "point", ["lease.before#3", "lease.after#3", "commit.before", "commit.after#2", "mark.mid", "marked.before"]
)
def test_g6_the_driver_killed_at_each_step_is_continued_and_no_node_outlives_it(job: ClusterJob, point: str) -> None:
    job.insert(tweets(N))

    job.assert_the_driver_may_be_killed(point)


def test_a_node_that_comes_midway_gets_parts_and_its_raylet_may_be_killed(job: ClusterJob, fleet: StandinFleet) -> None:
    process = job.begin_slowly(fleet, tweets(5 * N))  # more pieces than two nodes take at once
    name = job.host.add_node()
    try:
        job.wait_for_commits_of_all(process, 3)
        members = tree(job.agent(name))
        psutil.Process(job.host.raylets[name]).kill()
        wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
        wait_until(lambda: are_gone(members), CLUSTER_S, "the end of its processes", process)
        full_speed(fleet)
        ended = finish(process, CLUSTER_S)
    finally:
        job.host.remove_node(name)

    assert ended.code == 0, ended.err
    by_name = {node["node"]: node for node in ended.summary["nodes"]}
    assert by_name[name]["documents"] > 0
    assert by_name[name]["state"] != "done"
    assert by_name["local-1"]["restarts"] == by_name["local-2"]["restarts"] == 0
    job.assert_exact()


def test_g8_a_node_with_another_model_is_refused_by_name_and_the_others_go_on(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    job.insert(tweets(300))
    fleet.control(fleet.ports[3], model_id="another-model")
    name = job.host.add_node(ENGINE_NODE_TEI_URLS=fleet.urls[3])
    try:
        ended = job.run()
    finally:
        job.host.remove_node(name)

    assert ended.code == 0, ended.err
    by_name = {node["node"]: node for node in ended.summary["nodes"]}
    assert by_name[name]["state"] == "refused" and by_name[name]["documents"] == 0
    assert "another-model" in by_name[name]["why"]
    assert f"node_refused node={name}" in ended.err
    assert by_name["local-1"]["state"] == by_name["local-2"]["state"] == "done"
    job.assert_exact()


def test_g8_a_server_of_one_node_that_begins_to_lie_costs_that_nodes_open_rows_only(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    """The node goes on with its other server; the other nodes go on as if nothing had been."""
    *of_others, right, liar = range(len(fleet.ports))
    job.urls = tuple(fleet.urls[number] for number in of_others)
    job.options = SLOW
    job.insert(tweets(2 * N))
    slow_down(fleet)
    name = job.host.add_node(ENGINE_NODE_TEI_URLS=f"{fleet.urls[right]},{fleet.urls[liar]}")
    try:
        process = job.start_run()
        job.wait_for_commits_of_all(process, 3)
        committed = job.rows()
        fleet.control(fleet.ports[liar], clear_faults=True, faults=["switch_model:model_id=other/model"])
        wait_until(lambda: job.n_refusals() > 0, CLUSTER_S, "the refusal", process)
        full_speed(fleet)
        ended = finish(process, CLUSTER_S)
    finally:
        job.host.remove_node(name)

    assert ended.code == 0, ended.err
    assert [record["token"] for record in job.records("REVOKED")] == [str(job.token_of(name))]
    assert "gives wrong vectors" in job.records("REVOKED")[0]["why"]
    by_name = {node["node"]: node for node in ended.summary["nodes"]}
    assert by_name["local-1"]["restarts"] == by_name["local-2"]["restarts"] == 0
    assert (ended.summary["refusals"], by_name[name]["restarts"]) == (1, 1), by_name
    assert committed.keys() <= job.rows().keys()
    job.assert_exact()


@pytest.mark.parametrize("times", [1, 2])
def test_signals_end_the_nodes_cleanly_and_the_next_run_goes_on(
    job: ClusterJob, fleet: StandinFleet, times: int
) -> None:
    process = job.begin_slowly(fleet, tweets(N))

    for _ in range(times):
        process.send_signal(signal.SIGINT)
        wait_until(lambda: job.phase() != "running", CLUSTER_S, "the stop", process)
    ended = finish(process, CLUSTER_S)
    wait_until(lambda: not job.host.agents(), CLUSTER_S, "the end of the node processes")
    full_speed(fleet)
    again = job.run()

    assert ended.code == 130, ended.err
    assert ended.summary["read"] == ended.summary["embedded"] > 0
    assert again.code == 0, again.err
    job.assert_exact()


def test_sigterm_to_every_process_of_the_driver_drains_as_one_to_the_driver_alone_does(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    """`ray job stop` sends it so."""
    process = job.begin_slowly(fleet, tweets(N))

    for member in tree(psutil.Process(process.pid)):
        member.terminate()
    ended = finish(process, CLUSTER_S)
    wait_until(lambda: not job.host.agents(), CLUSTER_S, "the end of the node processes")
    full_speed(fleet)
    again = job.run()

    assert ended.code == Exit.SIGTERM, ended.err
    assert "stopped by SIGTERM after a clean stop" in ended.err
    assert not job.records("REVOKED")
    assert ended.summary["read"] == ended.summary["embedded"] > 0
    assert again.code == 0, again.err
    job.assert_exact()


def test_a_limit_is_kept_to_the_document_although_a_node_is_lost_midway(job: ClusterJob, fleet: StandinFleet) -> None:
    job.insert(tweets(N))
    job.options = SLOW
    slow_down(fleet)
    process = job.start_run("--limit", "900")
    job.wait_for_commits_of_all(process)
    job.agent("local-2").kill()
    wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
    full_speed(fleet)
    limited = finish(process, CLUSTER_S)
    marked = job.database[job.collection].count_documents({"embedded": True})
    rest = job.run()

    assert limited.code == 8, limited.err
    assert limited.summary["read"] == limited.summary["embedded"] == marked == 900
    assert rest.code == 0, rest.err
    assert rest.summary["embedded"] == job.n_queue - 900
    job.assert_exact()


def test_g2_without_marks_a_lost_nodes_documents_are_read_again_but_for_those_it_had_committed(
    job: ClusterJob, fleet: StandinFleet
) -> None:
    """The next run knows from the shards alone what is done."""
    job.insert(tweets(N))
    job.options = SLOW
    slow_down(fleet)
    process = job.start_run("--no-mark")
    job.wait_for_commits_of_all(process)
    job.agent("local-2").kill()
    wait_until(lambda: bool(job.records("REVOKED")), CLUSTER_S, "the end of its token", process)
    full_speed(fleet)
    ended = finish(process, CLUSTER_S)
    job.database[job.collection].insert_many([{"_id": 10 * N + n, "text": f"late {n}"} for n in range(50)])
    again = job.run("--no-mark")

    assert ended.code == again.code == 0, ended.err + again.err
    assert [record["token"] for record in job.records("REVOKED")] == [str(job.token_of("local-2"))]
    assert again.summary["embedded"] == 50
    job.assert_exact(marked=False)
