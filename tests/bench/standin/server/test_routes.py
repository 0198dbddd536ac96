"""The routes beside embedding, as the real server has them: info, health, metrics, tokenise, decode, keys."""

from __future__ import annotations

import pytest

from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.standin.backends import tokens
from tests.bench.standin.client import FAST_GPU, bare_socket, embed, get, post, request_bytes, wait_until


def test_info_has_every_field_of_the_real_server(url: str) -> None:
    info = get(url, "/info").json()
    assert info == {
        "model_id": "google/embeddinggemma-300m",
        "model_sha": "0000000000000000000000000000000000000001",
        "model_dtype": "float32",
        "served_model_name": "google/embeddinggemma-300m",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 512,
        "max_input_length": 64,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": 32,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": "1.9.3",
        "sha": None,
        "docker_label": None,
    }


def test_the_older_dialect_says_so_in_info(old: StandinFleet) -> None:
    info = get(old.urls[0], "/info").json()
    assert (info["version"], info["auto_truncate"]) == ("1.8.3", False)
    assert "served_model_name" not in info


@pytest.mark.parametrize("route", ["/health", "/", "/ping"])
def test_a_sound_server_is_healthy_on_all_three_routes(url: str, route: str) -> None:
    answer = get(url, route)
    assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_of_a_fresh_server_are_an_empty_page_and_then_count_requests_and_inputs() -> None:
    with StandinFleet(StandinConfig(backend="sim", gpu=FAST_GPU)) as fleet:
        url = fleet.urls[0]
        assert get(url, "/metrics").content == b""
        embed(url, ["one", "two", "three"])
        embed(url, "alone")
        embed(url, [""])
        page = dict(line.rsplit(" ", 1) for line in get(url, "/metrics").text.splitlines() if not line.startswith("#"))
    assert page['te_request_count{method="batch"}'] == "2"
    assert page['te_request_count{method="single"}'] == "1"
    assert page['te_request_failure{err="tokenization"}'] == "1"
    assert page["te_embed_success"] == "4"
    assert page["te_request_input_length_count"] == "4"
    assert page["te_queue_size"] == "0"
    n_tokens = sum(tokens.n_tokens(text) for text in ("one", "two", "three", "alone"))
    assert float(page["te_batch_next_tokens_sum"]) == n_tokens
    assert float(page["standin_real_tokens_total"]) == n_tokens
    assert float(page["te_request_duration_count"]) == 2
    assert page['te_embed_inference_duration_bucket{le="+Inf"}'] == "4"


def test_tokenize_shows_pieces_with_their_places_and_counts_like_embed(url: str) -> None:
    text = "ten chars!"
    rows = post(url, "/tokenize", {"inputs": text}).json()
    assert [token["text"] for token in rows[0]] == ["[CLS]", "ten ", "char", "s!", "[SEP]"]
    assert rows[0][1] == {"id": rows[0][1]["id"], "text": "ten ", "special": False, "start": 0, "stop": 4}
    bare = post(url, "/tokenize", {"inputs": [text, text], "add_special_tokens": False}).json()
    assert [len(row) for row in bare] == [3, 3]
    assert len(rows[0]) == int(embed(url, text).headers["x-compute-tokens"])


def test_tokenize_applies_a_named_prompt(url: str) -> None:
    plain, prompted = (
        post(url, "/tokenize", body).json()[0]
        for body in ({"inputs": "word"}, {"inputs": "word", "prompt_name": "query"})
    )
    assert len(prompted) == len(plain) + 2
    assert post(url, "/tokenize", {"inputs": "word", "prompt_name": "nobody"}).status_code == 422


def test_decode_gives_one_text_per_list_of_ids(url: str) -> None:
    assert len(post(url, "/decode", {"ids": [[101, 7, 8, 102], [9]]}).json()) == 2
    with_special = post(url, "/decode", {"ids": [101, 7, 102], "skip_special_tokens": False}).json()
    assert with_special == ["[CLS]0007[SEP]"]
    assert post(url, "/decode", {"ids": "abc"}).status_code == 422


@pytest.mark.parametrize("route", ["/embed_sparse", "/predict", "/rerank"])
def test_routes_of_other_kinds_of_model_answer_424(url: str, route: str) -> None:
    answer = post(url, route, {"inputs": "a", "query": "a", "texts": ["b"]})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")


def test_a_busy_server_answers_health_after_the_running_batch() -> None:
    gpu = GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.3)
    with StandinFleet(StandinConfig(backend="sim", gpu=gpu)) as fleet, bare_socket(fleet.ports[0]) as busy:
        busy.sendall(request_bytes("/embed", {"inputs": "a"}))
        wait_until(lambda: fleet.control(fleet.ports[0])["backend"]["standin_batches_total"] == 1)
        assert get(fleet.urls[0], "/health").status_code == 200
        spent_s = fleet.control(fleet.ports[0])["backend"]["standin_busy_seconds_total"]
    assert spent_s == pytest.approx(0.3, rel=0.01)


def test_unknown_routes_are_404_and_wrong_methods_405(url: str) -> None:
    assert get(url, "/nowhere").status_code == 404
    refused = get(url, "/embed")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_an_api_key_guards_everything_but_health_and_metrics() -> None:
    with StandinFleet(StandinConfig(api_key="s3cret")) as fleet:
        url = fleet.urls[0]
        for answer in (get(url, "/info"), embed(url, "a"), get(url, "/info", Authorization="Bearer wrong")):
            assert (answer.status_code, answer.content) == (401, b"")
        for route in ("/health", "/", "/ping", "/metrics"):
            assert get(url, route).status_code == 200
        assert get(url, "/info", Authorization="Bearer s3cret").status_code == 200
        assert post(url, "/embed", {"inputs": "a"}, Authorization="Bearer s3cret").status_code == 200
