"""Faults of time and of the connection: delays, drips, resets, closed ports, ended processes."""

from __future__ import annotations

import json
import socket
import time

import numpy as np
import pytest
import requests

from bench.standin import FleetError, GpuConfig, StandinConfig, StandinFleet
from tests.bench.standin.client import TIMEOUT_S, bare_socket, base64_row, base64_rows, embed, read_until, request_bytes
from tests.bench.standin.target import ASK, Target


def test_delay_holds_the_answer_back(target: Target) -> None:
    target.fault("delay:s=0.2")
    began_s = time.monotonic()
    assert np.array_equal(base64_rows(target.ask()), target.sound)
    assert time.monotonic() - began_s >= 0.2


def test_drip_sends_the_body_in_drops_and_in_the_end_whole(target: Target) -> None:
    target.fault("drip:bytes_per_s=100000")
    with bare_socket(target.port) as sock:
        began_s = time.monotonic()
        sock.sendall(ASK)
        head, _, body = read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += sock.recv(1 << 20)
    assert time.monotonic() - began_s >= 0.5 * length / 100_000
    assert np.array_equal(base64_row(json.loads(body)["data"][0]["embedding"]), target.sound[0])


@pytest.mark.parametrize("at", ["request", "headers", "body"])
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_reset_breaks_the_connection_before_or_within_the_answer(target: Target, at: str, how: str) -> None:
    target.fault(f"reset:at={at},how={how},first=1")
    try:
        answer = target.ask()
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        pass
    else:
        # this client takes half of the headers and an orderly end for a whole answer without a body
        assert (at, how, answer.content) == ("headers", "fin", b"")
    assert target.ask().status_code == 200


def test_reset_at_accept_ends_a_connection_before_any_request(target: Target) -> None:
    target.fault("reset:at=accept,first=1")
    with pytest.raises(OSError), bare_socket(target.port) as sock:
        sock.sendall(ASK)
        if not sock.recv(1):
            raise ConnectionResetError
    assert target.ask().status_code == 200


@pytest.mark.parametrize("at", ["accept", "request"])
def test_black_hole_takes_a_request_and_never_answers(target: Target, at: str) -> None:
    target.fault(f"black_hole:at={at},first=1")
    with bare_socket(target.port) as sock:
        sock.sendall(ASK)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert target.ask().status_code == 200


def test_refuse_closes_the_port_at_once_and_opens_it_again(target: Target) -> None:
    with bare_socket(target.port) as old:
        target.fault("refuse:down_s=600")
        assert _ends(old)
        with pytest.raises(ConnectionRefusedError), bare_socket(target.port):
            pass
        assert target.fleet.control(target.port, clear_faults=True)["listening"] is True
    with bare_socket(target.port) as old:
        target.fault("refuse:down_s=0.2")
        assert _ends(old)
    _until_listening(target)
    assert target.ask().status_code == 200


def test_refuse_can_be_triggered_by_a_text_and_ended_early(target: Target) -> None:
    target.fault("refuse:down_s=600,contains=trip wire")
    assert target.ask().status_code == 200
    with pytest.raises(requests.ConnectionError):
        embed(target.url, ["trip wire"])
    with pytest.raises(requests.ConnectionError):
        target.ask()
    target.fleet.control(target.port, clear_faults=True)
    assert target.ask().status_code == 200


def test_close_ends_a_kept_alive_connection_after_every_kth_answer_without_notice(target: Target) -> None:
    target.fault("close:every=3")
    with bare_socket(target.port) as sock:
        for number in range(1, 4):
            sock.sendall(request_bytes("/embed", {"inputs": "a"}))
            head = read_until(sock, b"]]")
            assert b"connection: close" not in head, number
        assert _ends(sock)


def test_exit_takes_a_single_server_s_process_down_when_the_text_comes() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0), faults=("exit:contains=POISON",)), processes=2) as fleet:
        assert embed(fleet.urls[0], ["fine"]).status_code == 200
        with pytest.raises(requests.ConnectionError):
            embed(fleet.urls[0], ["some POISON inside"])
        assert fleet.wait(fleet.ports[0]) == 139
        assert embed(fleet.urls[1], ["fine"]).status_code == 200
        with pytest.raises(FleetError, match="does not answer"):
            fleet.control(fleet.ports[0])


def test_exit_takes_only_its_own_port_down_when_servers_share_a_process() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0), faults=("exit:contains=POISON,down_s=600",))) as fleet:
        with pytest.raises(requests.ConnectionError):
            embed(fleet.urls[0], ["POISON"])
        with pytest.raises(requests.ConnectionError):
            embed(fleet.urls[0], ["fine"])
        assert embed(fleet.urls[1], ["fine"]).status_code == 200


def test_slow_stretches_the_batches_of_the_modelled_gpu() -> None:
    gpu = GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.001)
    with StandinFleet(StandinConfig(backend="sim", gpu=gpu)) as fleet:
        url, port = fleet.urls[0], fleet.ports[0]
        embed(url, "a")
        fast_s = fleet.control(port)["backend"]["standin_busy_seconds_total"]
        fleet.control(port, faults=["slow:factor=50"])
        embed(url, "a")
        slow_s = fleet.control(port)["backend"]["standin_busy_seconds_total"] - fast_s
        assert slow_s == pytest.approx(50 * fast_s)
        fleet.control(port, slow_factor=2)
        embed(url, "a")
        total_s = fleet.control(port)["backend"]["standin_busy_seconds_total"]
        assert total_s == pytest.approx(53 * fast_s)


def _ends(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def _until_listening(target: Target) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not target.fleet.control(target.port)["listening"]:
        assert time.monotonic() < deadline, "the port did not open again"
        time.sleep(0.005)
