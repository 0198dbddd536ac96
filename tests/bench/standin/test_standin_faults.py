"""Each scripted fault, seen from a client's side of a real socket."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import requests

from bench.standin import FleetError, GpuConfig, StandinConfig, StandinFleet
from bench.standin.faults.script import KINDS, FaultSet, parse_fault
from engine.errors import ConfigError
from tests.bench.standin_client import (
    TIMEOUT_S,
    bare_socket,
    base64_row,
    base64_rows,
    embed,
    embed64,
    get,
    native_rows,
    read_until,
    request_bytes,
)

TEXTS = ["first text", "second text", "third text", "fourth text"]
_ASK = request_bytes("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})


class Target:
    """One server with its control line, and its sound answer to TEXTS."""

    def __init__(self, fleet: StandinFleet) -> None:
        self.fleet = fleet
        self.url, self.port = fleet.urls[0], fleet.ports[0]
        self.sound = base64_rows(embed64(self.url, TEXTS))

    def fault(self, *specs: object) -> None:
        self.fleet.control(self.port, faults=list(specs), reset_counters=True)

    def ask(self) -> requests.Response:
        return embed64(self.url, TEXTS)


@pytest.fixture(scope="module", params=["canned", "sim"])
def fleet(request: pytest.FixtureRequest) -> Iterator[StandinFleet]:
    gpu = GpuConfig(tokens_per_s=1e7, fixed_overhead_s=0.0001)
    with StandinFleet(StandinConfig(backend=request.param, gpu=gpu)) as running:
        yield running


@pytest.fixture
def target(fleet: StandinFleet) -> Iterator[Target]:
    yield Target(fleet)
    fleet.control(fleet.ports[0], clear_faults=True)


# -- answers instead of the right one ---------------------------------------------------------------------


def test_status_takes_any_code_and_the_body_shape_of_the_route(target: Target) -> None:
    target.fault("status:code=503,retry_after=21600")
    native, openai = embed(target.url, TEXTS), target.ask()
    assert (native.status_code, native.json()["error_type"]) == (503, "Unhealthy")
    assert openai.json() == {"message": "scripted failure 503", "code": 503, "type": "Unhealthy"}
    assert native.headers["retry-after"] == "21600"


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("html", "text/html", "<html>"),
        ("plain", "text/plain; charset=utf-8", "scripted failure 502"),
        ("native", "application/json", "error_type"),
        ("openai", "application/json", '"code":502'),
    ],
)
def test_status_takes_the_body_of_a_proxy_or_of_the_other_route(
    target: Target, body: str, kind: str, says: str
) -> None:
    target.fault({"kind": "status", "code": 502, "body": body})
    answer = target.ask()
    assert (answer.status_code, answer.headers["content-type"]) == (502, kind)
    assert says in answer.text


def test_status_can_have_no_body_and_a_date_as_retry_after(target: Target) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    target.fault({"kind": "status", "code": 429, "body": "empty", "retry_after": date})
    answer = target.ask()
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (429, b"", date)
    assert target.fleet.control(target.port)["answered_429"] == 1


def test_html200_looks_like_success_and_is_a_web_page(target: Target) -> None:
    target.fault("html200")
    answer = target.ask()
    assert (answer.status_code, answer.headers["content-type"][:9], "<html>" in answer.text) == (
        200,
        "text/html",
        True,
    )


def test_redirect_points_elsewhere(target: Target) -> None:
    target.fault({"kind": "redirect", "code": 307, "location": "http://127.0.0.1:9/x"})
    answer = target.ask()
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:9/x")


@pytest.mark.parametrize("chunked", [False, True])
def test_huge_body_goes_on_for_as_long_as_it_is_read(target: Target, chunked: bool) -> None:
    target.fault({"kind": "huge_body", "bytes": 2_000_000_000, "chunked": chunked})
    with bare_socket(target.port) as sock:
        sock.sendall(_ASK)
        seen = 0
        head = read_until(sock, b"\r\n\r\n")
        while seen < 20_000_000:
            seen += len(sock.recv(1 << 20))
    assert (b"chunked" in head, b"content-length: 2000000000" in head) == (chunked, not chunked)


def test_a_huge_body_of_bounded_size_ends_and_the_connection_stays_usable(target: Target) -> None:
    target.fault("huge_body:bytes=300000,first=1")
    with requests.Session() as session:
        assert len(session.post(target.url + "/embed", json={"inputs": "a"}, timeout=TIMEOUT_S).content) == 300_000
        assert session.post(target.url + "/embed", json={"inputs": "a"}, timeout=TIMEOUT_S).status_code == 200
    assert target.fleet.control(target.port)["connections_open"] <= 1


def test_gzip_bomb_is_small_on_the_wire_and_huge_inside(target: Target) -> None:
    target.fault("gzip_bomb:bytes=67108864")
    with bare_socket(target.port) as sock:
        sock.sendall(_ASK)
        head, _, body = read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += sock.recv(65536)
    assert b"content-encoding: gzip" in head
    assert length < 200_000
    assert len(zlib.decompress(body, wbits=31)) == 67_108_864


def test_endless_headers_never_end(target: Target) -> None:
    target.fault("endless_headers:interval_s=0.001")
    with bare_socket(target.port) as sock:
        sock.sendall(_ASK)
        seen = read_until(sock, b"x-filler-50:")
    assert b"\r\n\r\n" not in seen


# -- time and connection ----------------------------------------------------------------------------------


def test_delay_holds_the_answer_back(target: Target) -> None:
    target.fault("delay:s=0.2")
    began_s = time.monotonic()
    assert np.array_equal(base64_rows(target.ask()), target.sound)
    assert time.monotonic() - began_s >= 0.2


def test_drip_sends_the_body_in_drops_and_in_the_end_whole(target: Target) -> None:
    target.fault("drip:bytes_per_s=100000")
    with bare_socket(target.port) as sock:
        began_s = time.monotonic()
        sock.sendall(_ASK)
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
        sock.sendall(_ASK)
        if not sock.recv(1):
            raise ConnectionResetError
    assert target.ask().status_code == 200


@pytest.mark.parametrize("at", ["accept", "request"])
def test_black_hole_takes_a_request_and_never_answers(target: Target, at: str) -> None:
    target.fault(f"black_hole:at={at},first=1")
    with bare_socket(target.port) as sock:
        sock.sendall(_ASK)
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


# -- the right answer, damaged ----------------------------------------------------------------------------


def test_truncated_json_is_a_complete_message_with_half_a_document(target: Target) -> None:
    target.fault("truncated_json:share=0.5")
    answer = target.ask()
    assert (answer.status_code, int(answer.headers["content-length"])) == (200, len(answer.content))
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)


def test_content_type_can_be_wrong_over_a_right_body(target: Target) -> None:
    target.fault({"kind": "content_type", "value": "application/json; charset=utf-16"})
    answer = target.ask()
    assert answer.headers["content-type"] == "application/json; charset=utf-16"
    assert json.loads(answer.content)["object"] == "list"


@pytest.mark.parametrize("delta", [-1, 1])
def test_count_leaves_a_vector_out_or_adds_one(target: Target, delta: int) -> None:
    target.fault(f"count:delta={delta}")
    assert len(base64_rows(target.ask())) == len(TEXTS) + delta
    assert len(native_rows(embed(target.url, TEXTS))) == len(TEXTS) + delta


@pytest.mark.parametrize("dim", [767, 769, 0])
def test_dim_changes_the_length_of_every_vector(target: Target, dim: int) -> None:
    target.fault(f"dim:to={dim}")
    assert base64_rows(target.ask()).shape == (len(TEXTS), dim)
    assert native_rows(embed(target.url, TEXTS)).shape == (len(TEXTS), dim)


@pytest.mark.parametrize(
    ("value", "literal", "number"),
    [
        ("nan", "NaN", math.nan),
        ("inf", "Infinity", math.inf),
        ("-inf", "-Infinity", -math.inf),
        ("1e400", "1e400", math.inf),
    ],
)
def test_value_puts_an_unsound_number_into_one_vector(target: Target, value: str, literal: str, number: float) -> None:
    target.fault({"kind": "value", "value": value, "row": 1, "column": 5})
    rows = base64_rows(target.ask())
    assert np.array_equal(rows[1, 5], np.float32(number), equal_nan=True)
    assert np.isfinite(np.delete(rows, 1, axis=0)).all()
    assert embed(target.url, TEXTS).text.split("],[")[1].split(",")[5] == literal


def test_value_can_be_null_or_a_string(target: Target) -> None:
    target.fault("value:value=null,row=2")
    assert target.ask().json()["data"][2] == {"object": "embedding", "embedding": None, "index": 2}
    assert embed(target.url, TEXTS).json()[2][0] is None
    target.fault("value:value=string,row=0")
    assert embed(target.url, TEXTS).json()[0][0] == "0.25"
    with pytest.raises(ValueError, match="base64"):
        base64_row(target.ask().json()["data"][0]["embedding"])


def test_index_reorder_keeps_each_vector_with_its_index(target: Target) -> None:
    target.fault("index:how=reorder")
    data = target.ask().json()["data"]
    assert [item["index"] for item in data] == [3, 2, 1, 0]
    for item in data:
        assert np.array_equal(base64_row(item["embedding"]), target.sound[item["index"]])


@pytest.mark.parametrize(
    ("how", "indexes"),
    [("duplicate", [0, 1, 2, 0]), ("missing", [None, 1, 2, 3]), ("gap", [0, 1, 2, 4])],
)
def test_index_can_be_doubled_absent_or_out_of_range(target: Target, how: str, indexes: list[int | None]) -> None:
    target.fault(f"index:how={how}")
    assert [item.get("index") for item in target.ask().json()["data"]] == indexes


def test_zero_and_same_give_vectors_without_meaning(target: Target) -> None:
    target.fault("zero")
    assert not base64_rows(target.ask()).any()
    target.fault("same")
    assert np.array_equal(base64_rows(target.ask()), np.repeat(target.sound[:1], len(TEXTS), axis=0))


def test_previous_answers_with_the_vectors_of_the_request_before(target: Target) -> None:
    target.fault("previous:after=1")
    before = base64_rows(embed64(target.url, ["w", "x", "y", "z"], dimensions=768))
    assert np.array_equal(base64_rows(target.ask()), before)


def test_other_model_gives_sound_unit_vectors_of_another_space(target: Target) -> None:
    target.fault("other_model")
    rows = base64_rows(target.ask())
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert np.abs(np.einsum("ij,ij->i", rows, target.sound)).max() < 0.2


def test_switch_model_changes_info_and_vectors_live_and_clearing_switches_back(target: Target) -> None:
    target.fault("switch_model:model_id=other/model,after=1")
    assert np.array_equal(base64_rows(target.ask()), target.sound)
    changed = target.ask()
    assert changed.json()["model"] == "other/model"
    assert not np.array_equal(base64_rows(changed), target.sound)
    assert get(target.url, "/info").json()["model_id"] == "other/model"
    target.fleet.control(target.port, clear_faults=True)
    assert get(target.url, "/info").json()["model_id"] == "google/embeddinggemma-300m"
    assert np.array_equal(base64_rows(target.ask()), target.sound)


# -- poison and dead GPUs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [422, 424, 500])
def test_poison_fails_every_request_that_holds_the_text_and_no_other(target: Target, code: int) -> None:
    target.fault(f"poison:contains=BAD,code={code}")
    assert embed64(target.url, ["fine", "so BAD"]).status_code == code
    assert embed64(target.url, ["so BAD"]).status_code == code
    assert target.ask().status_code == 200
    assert get(target.url, "/health").status_code == 200


def test_poison_of_the_batch_fails_other_requests_in_the_same_gpu_batch() -> None:
    gpu = GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.15, tokenizer_tokens_per_s=0)
    with StandinFleet(StandinConfig(backend="sim", gpu=gpu, faults=("poison:contains=BAD,scope=batch",))) as fleet:
        url, port = fleet.urls[0], fleet.ports[0]
        statuses: dict[str, int] = {}

        def ask(name: str, text: str) -> None:
            statuses[name] = embed(url, [text]).status_code

        # the first runs alone, the second is prefetched alone, the others wait and share a batch
        threads = []
        for name, text in (("runs", "a"), ("next", "b"), ("bad", "BAD"), ("neighbour", "c")):
            threads.append(threading.Thread(target=ask, args=(name, text)))
            n_before = fleet.control(port)["embed_requests"]
            threads[-1].start()
            while fleet.control(port)["embed_requests"] == n_before:
                time.sleep(0.001)
        for thread in threads:
            thread.join()
        n_batches = fleet.control(port)["backend"]["standin_batches_total"]
    assert (statuses["runs"], statuses["bad"]) == (200, 424)
    # on a very slow machine the neighbour misses the shared batch
    assert statuses["neighbour"] == 424 or n_batches > 3


def test_a_dead_gpu_fails_fast_and_health_tells_the_truth_only_after_the_first_failure(
    target: Target,
) -> None:
    target.fault("dead_gpu")
    assert get(target.url, "/health").status_code == 200
    answer = target.ask()
    assert (answer.status_code, answer.json()["type"]) == (424, "Backend")
    sick = get(target.url, "/health")
    assert (sick.status_code, sick.json()) == (503, {"error": "unhealthy", "error_type": "Unhealthy"})
    target.fleet.control(target.port, clear_faults=True)
    assert get(target.url, "/health").status_code == 200


def test_a_dead_gpu_can_stay_green(target: Target) -> None:
    target.fault("dead_gpu:health=green")
    assert target.ask().status_code == 424
    assert get(target.url, "/health").status_code == 200


# -- selectors --------------------------------------------------------------------------------------------


def test_every_after_and_first_choose_requests_by_number(target: Target) -> None:
    target.fault("status:every=3")
    assert [target.ask().status_code for _ in range(6)] == [200, 200, 503, 200, 200, 503]
    target.fault("status:after=1,first=2")
    assert [target.ask().status_code for _ in range(4)] == [200, 503, 503, 200]
    assert target.fleet.control(target.port)["faults_fired"] == {"status": 2}


def test_contains_counts_only_requests_with_the_text(target: Target) -> None:
    target.fault("status:contains=needle,every=2")
    asked = ["needle", "hay", "a needle too", "hay"]
    assert [embed(target.url, [text]).status_code for text in asked] == [200, 200, 503, 200]


def test_probability_is_drawn_from_the_seed(target: Target) -> None:
    def draw(seed: int) -> list[int]:
        target.fault(f"status:probability=0.5,seed={seed}")
        return [target.ask().status_code for _ in range(20)]

    first = draw(1)
    assert set(first) == {200, 503}
    assert draw(1) == first
    assert draw(2) != first


def test_route_aims_at_other_routes(target: Target) -> None:
    target.fault("html200:route=/info", "status:route=/health,code=500")
    assert get(target.url, "/info").headers["content-type"].startswith("text/html")
    assert get(target.url, "/health").status_code == 500
    assert target.ask().status_code == 200
    target.fault("truncated_json:route=/info")
    with pytest.raises(json.JSONDecodeError):
        json.loads(get(target.url, "/info").content)


def test_period_and_for_s_limit_a_fault_in_time() -> None:
    faults = FaultSet()
    faults.add(parse_fault("status:period_s=2,duty=0.5,for_s=10"), 100.0)

    def hit(at_s: float) -> bool:
        return bool(faults.due_for_request("/embed", embedding=True, texts=[], now_s=at_s))

    assert [hit(100.0 + after_s) for after_s in (0.0, 0.9, 1.1, 1.9, 2.1, 10.5)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]


def test_on_aims_at_servers_by_their_place() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0, 0), faults=("status:on=0+2",))) as fleet:
        assert [embed(url, "a").status_code for url in fleet.urls] == [503, 200, 503]


def test_on_keeps_its_meaning_when_each_server_has_its_own_process() -> None:
    config = StandinConfig(ports=(0, 0, 0), faults=("status:on=1", '{"kind":"html200","on":"2"}'))
    with StandinFleet(config, processes=3) as fleet:
        answers = [embed(url, "a") for url in fleet.urls]
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert [answer.headers["content-type"][:9] for answer in answers][2] == "text/html"


def test_several_faults_act_together(target: Target) -> None:
    target.fault("delay:s=0.1", "count:delta=-1", "index:how=reorder")
    assert [item["index"] for item in target.ask().json()["data"]] == [2, 1, 0]
    assert target.fleet.control(target.port)["faults_fired"] == {"delay": 1, "count": 1, "index": 1}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nonsense", "unknown kind 'nonsense'"),
        ("status:code=abc", "code='abc'"),
        ("status:colour=red", "no parameter 'colour'"),
        ("status:code", "not name=value"),
        ("poison:code=424", "needs contains"),
        ("drip:bytes_per_s=0", "bytes_per_s='0'"),
        ("reset:at=never", "at='never'"),
        ("status:probability=2", "probability='2'"),
        ('{"kind":"status","retry_after":"a\\r\\nb"}', "one line"),
        ("{not json", "not a JSON object"),
    ],
)
def test_a_fault_that_cannot_be_used_is_one_sentence(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_fault(spec)


def test_a_bad_order_changes_nothing(target: Target) -> None:
    for orders in ({"faults": ["status", "nonsense"]}, {"unheard_of": 1}, {"slow_factor": 0}):
        with pytest.raises(FleetError, match="refused"):
            target.fleet.control(target.port, **orders)
    assert target.fleet.control(target.port)["faults"] == []


def test_every_kind_of_fault_can_be_written_with_its_defaults() -> None:
    for kind in KINDS:
        assert parse_fault({"kind": kind, "contains": "x"}).kind == kind


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
