"""What the doctor says: only what is so, and what to do about it; servers that are slow, or take little at a time."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import pytest

from bench.standin import Dialect, GpuConfig, StandinConfig, StandinFleet
from commands.doctor.report import advice, as_dict, as_text
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.batches.lane import FIRST_TIMEOUT_S, Lane
from gpu_clients.diagnosis.canary_schedule import canary_every_s
from gpu_clients.http.polling import Poller
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.measured.frontend import FrontendCost
from gpu_clients.settings import ClientSettings
from tests.conftest import outlives_tests
from tests.gpu_clients.harness import Harness

SIM = StandinConfig(backend="sim", gpu=GpuConfig(tokens_per_s=1_000_000.0, fixed_overhead_s=0.0001))
MODEL = "google/embeddinggemma-300m"


@pytest.fixture(scope="module")
def gemma() -> Iterator[StandinFleet]:
    """One TEI with Gemma on a CPU, whose GPU batches hold four texts."""
    with StandinFleet(dataclasses.replace(SIM, max_batch_requests=4)) as fleet, outlives_tests(fleet.pid):
        yield fleet


@pytest.mark.parametrize(
    ("normalize", "words"), [(True, "vectors as base64"), (False, "vectors as JSON numbers")], ids=["base64", "numbers"]
)
def test_the_form_that_is_named_is_the_one_that_a_run_will_use(
    gemma: StandinFleet, normalize: bool, words: str
) -> None:
    """Not the best that the server has."""
    found = examine(ClientSettings(urls=gemma.urls, normalize=normalize))

    assert words in as_text(found)
    assert as_dict(found)["servers"][0]["form"] == words.removeprefix("vectors as ")


def test_how_many_texts_a_gpu_batch_holds_is_shown(gemma: StandinFleet) -> None:
    """It decides how much is in flight."""
    assert "texts per GPU batch <= 4" in as_text(examine(ClientSettings(urls=gemma.urls)))


@pytest.mark.parametrize(("most", "warns"), [(4, False), (None, True)])
def test_float16_is_advised_to_servers_on_a_gpu_only(most: int | None, warns: bool) -> None:
    """On a CPU, which the size of its batches tells, it is no faster."""
    config = dataclasses.replace(SIM, model_id="BAAI/bge-base-en-v1.5", dtype="float32", max_batch_requests=most)
    with StandinFleet(config) as fleet:
        warnings = examine(ClientSettings(urls=fleet.urls)).warnings

    assert any("float16" in warning for warning in warnings) is warns


def test_localhost_and_its_address_are_one_server(gemma: StandinFleet) -> None:
    """It would get two clients, each with a window of its own."""
    port = gemma.ports[0]
    for other in (f"http://localhost:{port}/embed", f"http://LOCALHOST:{port}/v1/embeddings", f"http://0.0.0.0:{port}"):
        with pytest.raises(ConfigError, match="names one server twice"):
            examine(ClientSettings(urls=(f"http://127.0.0.1:{port}", other)))


@pytest.mark.parametrize("keys", [(), ("wrong-m4rker",)])
def test_a_missing_key_says_where_to_give_one(keys: tuple[str, ...]) -> None:
    """And so does a wrong one, without being shown."""
    where = "ENGINE_TEI_API_KEY or --tei-api-key-file"
    with (
        StandinFleet(dataclasses.replace(SIM, api_key="right-m4rker")) as fleet,
        pytest.raises(ConfigError, match=where) as caught,
    ):
        examine(ClientSettings(urls=fleet.urls, api_keys=keys))
    assert "m4rker" not in str(caught.value)


@pytest.mark.seconds
def test_a_hung_server_is_named_as_such() -> None:
    """It takes connections, so it is not down."""
    hung = dataclasses.replace(SIM, faults=("black_hole",))
    with (
        StandinFleet(hung) as fleet,
        pytest.raises(ServersUnavailable, match="it hangs, or is still loading its model"),
    ):
        examine(ClientSettings(urls=fleet.urls), timeout_s=0.5)


@pytest.mark.parametrize(
    "limits",
    [{"max_client_batch_size": 1}, {"max_client_batch_size": 2}, {"max_concurrent_requests": 2}],
    ids=["1 text", "2 texts", "2 permits"],
)
def test_a_server_that_takes_one_or_two_texts_at_a_time_works(limits: dict[str, Any]) -> None:
    """Slowly; the canary comes to it in parts."""
    texts = [f"text number {number}" for number in range(40)]
    with StandinFleet(dataclasses.replace(SIM, **limits)) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.05)
        found = examine(settings)
        outcome = Harness(fleet.urls, texts, batch_rows=found.batch_size, settings=settings, fleet=found).run()

    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    assert outcome.total("outs") == 0


def test_deadlines_and_canaries_fit_a_server_of_a_tenth_of_a_document_a_second() -> None:
    """Two requests of 32 texts take it eleven minutes; a check of three long texts half a minute."""
    facts = ServerFacts(kind="tei", model_id=MODEL, seconds_a_text=10.0)
    settings = ClientSettings(urls=("http://127.0.0.1:1",), facts=(facts,), dim=768)
    poller = Poller()
    lane = Lane(settings, 0, poller, random.Random(1))

    assert lane.timeout_s > 2 * 32 * 10.0
    assert canary_every_s(settings) >= 10 * 3 * 10.0
    poller.close()
    assert ServerFacts(kind="tei", model_id=MODEL).timeout_s(32, FIRST_TIMEOUT_S) == FIRST_TIMEOUT_S


@pytest.mark.seconds
def test_a_slow_server_is_waited_for_and_known_to_be_slow() -> None:
    """Longer than it takes to answer `/info`: the long texts of the canary are its work of seconds."""
    slow = dataclasses.replace(SIM, gpu=GpuConfig(tokens_per_s=900.0, padded=False))
    with StandinFleet(slow) as fleet:
        found = examine(ClientSettings(urls=fleet.urls), timeout_s=0.4)

    facts = found.servers[0].facts
    assert facts is not None and facts.seconds_a_text is not None
    assert facts.seconds_a_text > 0.25


def test_gemma_on_tei_is_told_of_vllm_by_the_doctor_alone(gemma: StandinFleet) -> None:
    """Advice is no warning: a run does not repeat it."""
    found = examine(ClientSettings(urls=gemma.urls))

    (sentence,) = advice(found)
    assert "bfloat16" in sentence and "engine bench --tei-urls" in sentence and "--against" in sentence
    assert f"advice: {sentence}" in as_text(found)
    assert as_dict(found)["advice"] == [sentence]
    assert not found.warnings


@pytest.mark.parametrize(("http_us", "model_us", "said"), [(300, 50, True), (20, 200, False)])
def test_more_api_servers_are_advised_where_the_http_side_is_the_limit(http_us: int, model_us: int, said: bool) -> None:
    """By figures that the doctor has measured."""
    with StandinFleet(dataclasses.replace(SIM, dialect=Dialect.VLLM)) as fleet:
        found = examine(ClientSettings(urls=fleet.urls), with_padding=True)
    server = found.servers[0]
    assert server.examination is not None
    cost = FrontendCost(http_us / 1e6, model_us / 1e6)
    examination = dataclasses.replace(server.examination, frontend=cost)
    told = dataclasses.replace(found, servers=(dataclasses.replace(server, examination=examination),))

    assert any("--api-server-count" in sentence and f"{http_us} us" in sentence for sentence in advice(told)) is said
