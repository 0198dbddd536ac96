"""`engine bench --against`: two fleets tuned with the same texts, side by side, and how well their vectors agree."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import pytest

from bench.parts import tweets
from bench.standin import Dialect, GpuConfig, StandinConfig, StandinFleet
from bench.tuner.report.agreement import agreement_of
from bench.tuner.search.survey import TuneConfig
from bench.tuner.tuning import TuningPlan
from commands.bench import bench as command
from commands.bench.against import secrets_of_both
from commands.options.secrets import RunSecrets, ServerSecrets
from engine.config import RunConfig, ServersConfig, SourceConfig
from engine.errors import ConfigError, Exit, ServersUnavailable
from gpu_clients.vectors.decode import Matrix
from tests.conftest import outlives_tests

SECRETS = RunSecrets(mongo_uri="mongodb://127.0.0.1:1")
SLOW = StandinConfig(backend="sim", dim=16, gpu=GpuConfig(tokens_per_s=5_000, padded=False))
FAST = dataclasses.replace(SLOW, dialect=Dialect.VLLM, gpu=GpuConfig(tokens_per_s=20_000, padded=False))


@pytest.fixture(scope="module")
def fleets() -> Iterator[tuple[StandinFleet, StandinFleet]]:
    """A TEI, and a vLLM on a GPU four times as fast."""
    with StandinFleet(SLOW) as slow, StandinFleet(FAST) as fast, outlives_tests(*slow.pids, *fast.pids):
        yield slow, fast


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file with some hundred texts."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(text.split()) for text in tweets.texts()[:400]), encoding="utf-8")
    return path


def config(urls: tuple[str, ...], against: tuple[str, ...], texts: Path) -> command.BenchConfig:
    """A short tuning of batch size 8."""
    return command.BenchConfig(
        run=RunConfig(source=SourceConfig(), servers=ServersConfig(urls=urls, batch_size=8)),
        plan=TuningPlan(batch_sizes=(8,), tune=TuneConfig(seconds=0.3, max_seconds=8.0, seed=1)),
        texts=texts,
        out=texts.parent / "tuned.toml",
        plot=None,
        html=texts.parent / "tuning.html",
        against=against,
    )


@pytest.mark.seconds
def test_both_fleets_are_tuned_and_told_side_by_side(fleets: tuple[StandinFleet, StandinFleet], texts: Path) -> None:
    """Rates, latencies, and the vectors, which are the same here."""
    slow, fast = fleets

    result = command.find_operating_point(config(slow.urls, fast.urls, texts), SECRETS)

    assert result.exit_code is Exit.DONE
    found = command.as_dict(result)
    rates = [found[name]["docs_per_second"] for name in ("chosen",)] + [found["against"]["chosen"]["docs_per_second"]]
    assert found["ratio"] == pytest.approx(rates[1] / rates[0], rel=0.01)
    assert found["agreement"]["n_texts"] == 400
    assert found["agreement"]["lowest_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert found["agreement"]["overlap"] == 1.0
    told = command.as_text(result)
    assert "--tei-urls, tei 1.9.3" in told
    assert "--against, vllm 0.11.0" in told
    assert found["conclusions"][0] in told
    assert [path.name for path in result.written] == ["tuning.html", "tuned.toml"]
    page = (texts.parent / "tuning.html").read_text(encoding="utf-8")
    assert escape(found["conclusions"][0]) in page
    assert page.count("<h2") == len(set(re.findall(r'<h2 id="([^"]+)"', page)))


@pytest.mark.seconds
def test_a_second_fleet_that_does_not_answer_costs_no_tuning_of_the_first(
    fleets: tuple[StandinFleet, StandinFleet], texts: Path
) -> None:
    """Both are examined before either is tuned."""
    (before,) = fleets[0].reports()

    with pytest.raises(ServersUnavailable, match=r"127\.0\.0\.1:1"):
        command.find_operating_point(config(fleets[0].urls, ("http://127.0.0.1:1",), texts), SECRETS)

    (after,) = fleets[0].reports()
    assert after["inputs"] - before["inputs"] < 200


def rows(matrix: Matrix) -> dict[int, Matrix]:
    """Each row by its number."""
    return {number: matrix[number : number + 1] for number in range(len(matrix))}


def test_agreement_is_measured_text_by_text_and_neighbour_by_neighbour() -> None:
    """A turned vector shows in the lowest cosine, another space in the neighbours, whatever the lengths."""
    rng = np.random.default_rng(5)
    one = rng.standard_normal((60, 32)).astype(np.float32)
    turned = one * np.float32(3.0)
    turned[7] = -turned[7]

    same, other = agreement_of(rows(one), rows(one)), agreement_of(rows(one), rows(turned))
    unlike = agreement_of(rows(one), rows(rng.standard_normal((60, 48)).astype(np.float32)))

    assert same.lowest_cosine == pytest.approx(1.0)
    assert same.overlap == 1.0
    assert other.lowest_cosine == pytest.approx(-1.0)
    assert other.mean_cosine == pytest.approx(58 / 60)
    assert other.overlap < 1.0
    assert (unlike.lowest_cosine, unlike.dims) == (None, (32, 48))
    assert unlike.overlap < 0.4


def test_only_texts_that_both_have_embedded_are_compared() -> None:
    """A fleet may refuse some; of hardly any nothing can be said."""
    one = rows(np.eye(8, dtype=np.float32))
    some = {number: one[number] for number in (1, 3, 5, 6)}

    assert agreement_of(one, some).n_texts == 4
    with pytest.raises(ConfigError, match="only 2 texts"):
        agreement_of(one, {1: one[1], 2: one[2]})


def test_keys_are_one_for_all_or_one_for_each_server_of_both() -> None:
    """First those of `--tei-urls`."""
    mine, theirs = secrets_of_both(ServerSecrets(api_keys=("a", "b", "c")), 2, 1)

    assert (mine.api_keys, theirs.api_keys) == (("a", "b"), ("c",))
    assert secrets_of_both(ServerSecrets(api_keys=("a",)), 2, 1)[1].api_keys == ("a",)
    with pytest.raises(ConfigError, match="2 API keys for 3 servers"):
        secrets_of_both(ServerSecrets(api_keys=("a", "b")), 2, 1)
