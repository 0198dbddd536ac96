"""Permits: what is admitted at a time, in both dialects."""

from __future__ import annotations

import threading

from bench.standin import StandinConfig, StandinFleet
from tests.bench.standin.client import bare_socket, embed, embed64, request_bytes, wait_until


def test_a_request_that_cannot_have_all_its_permits_at_once_is_429_even_on_an_idle_server() -> None:
    with StandinFleet(StandinConfig(max_concurrent_requests=4)) as fleet:
        url, port = fleet.urls[0], fleet.ports[0]
        assert embed(url, ["x"] * 4).status_code == 200
        answer = embed(url, ["x"] * 5)
        assert answer.status_code == 429
        assert answer.json() == {"error": "Model is overloaded", "error_type": "Overloaded"}
        assert "retry-after" not in answer.headers
        assert embed64(url, ["x"] * 5).json() == {
            "message": "Model is overloaded",
            "code": 429,
            "type": "Overloaded",
        }
        report = fleet.control(port)
        assert (report["answered_429"], report["in_flight_inputs"], report["in_flight_inputs_max"]) == (
            2,
            0,
            4,
        )


def test_permits_are_counted_in_inputs_held_while_computing_and_given_back() -> None:
    config = StandinConfig(backend="sim", max_concurrent_requests=10, faults=("delay:s=600,first=1",))
    with StandinFleet(config) as fleet, bare_socket(fleet.ports[0]) as slow:
        url, port = fleet.urls[0], fleet.ports[0]
        slow.sendall(request_bytes("/embed", {"inputs": ["held"] * 8}))
        wait_until(lambda: fleet.control(port)["in_flight_inputs"] == 8)
        assert embed(url, ["x"] * 3).status_code == 429
        assert embed(url, ["x"] * 2).status_code == 200
        slow.close()
        wait_until(lambda: fleet.control(port)["in_flight_inputs"] == 0)
        assert embed(url, ["x"] * 10).status_code == 200


def test_in_the_older_dialect_lists_wait_for_permits_and_single_strings_do_not(old: StandinFleet) -> None:
    url, port = old.urls[0], old.ports[0]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(embed(url, ["x", "y", "z"]).status_code)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert old.control(port)["in_flight_inputs_max"] <= 4
    assert embed(url, ["x"] * 9).status_code == 200
    old.control(port, faults=["delay:s=600,first=1"])
    with bare_socket(port) as slow:
        slow.sendall(request_bytes("/embed", {"inputs": ["x"] * 4}))
        wait_until(lambda: old.control(port)["in_flight_inputs"] == 4)
        assert embed(url, "alone").status_code == 429
    old.control(port, clear_faults=True)
