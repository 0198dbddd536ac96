"""Servers that speak `/v1/embeddings` and are no TEI: strict about their vectors, tolerant about their manners.

`KNOWN` is the table of docs/servers.md, a row each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.identity import read_models
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.outcome import Outcome
from tests.parts.manners import KNOWN, MODEL, Manners, listing, serving, vectors

LONG = " ".join(f"word{number}" for number in range(700))


def settings_for(name: str, url: str, manners: Manners, **more: Any) -> ClientSettings:
    """The settings of a run on a server of the table."""
    base = "" if manners.base in ("", "/v1") else manners.base
    return ClientSettings(urls=(url + base,), **{**KNOWN[name][1], **more})


def run(name: str, texts: list[str], **more: Any) -> tuple[Outcome, Manners, Harness]:
    """A run on such a server."""
    manners = Manners(**KNOWN[name][0])
    with serving(manners) as url:
        settings = settings_for(name, url, manners, **more)
        harness = Harness(settings.urls, texts, settings=settings, batch_rows=8)
        return harness.run(), manners, harness


@pytest.mark.seconds
@pytest.mark.parametrize("name", list(KNOWN))
def test_a_server_of_the_table_is_recognised_and_every_vector_is_its_own_texts(name: str) -> None:
    outcome, manners, harness = run(name, [f"text {number}" for number in range(60)])
    outcome.check_exact(MODEL)
    facts = harness.fleet.servers[0].facts
    assert facts is not None
    assert (facts.kind, facts.form) == ("openai", "base64" if manners.knows_base64 else "openai floats")
    assert facts.is_indexed == (manners.index == "all")
    assert facts.unit_length == (manners.length == 1.0)


@pytest.mark.seconds
@pytest.mark.parametrize("name", list(KNOWN))
def test_a_text_beyond_the_context_is_cut_and_not_put_into_quarantine(name: str) -> None:
    """By the server where it can, else by the client: what comes out is the vector of a beginning of the text."""
    texts = [*(f"text {number}" for number in range(15)), LONG]
    outcome, manners, _ = run(name, texts)
    assert not outcome.quarantined
    found = outcome.rows[15] / np.linalg.norm(outcome.rows[15])
    beginnings = {text for asked in manners.asked for text in asked["input"] if LONG.startswith(text)}
    alike = [
        text
        for text in beginnings
        if np.allclose(vectors([text], manners)[0] / np.float32(manners.length), found, atol=1e-5)
    ]
    assert alike
    assert max(len(text.split()) for text in alike) > 0.9 * 512
    if manners.refuses:
        assert 15 in outcome.truncated


def test_a_text_that_a_refusing_server_takes_is_not_flagged_as_cut() -> None:
    """Whatever its bytes make one think: 480 words are within 512."""
    texts = [*(f"text {number}" for number in range(15)), " ".join(LONG.split()[:480])]
    outcome, _, _ = run("llama.cpp", texts)
    outcome.check_exact(MODEL)
    assert not outcome.truncated


@pytest.mark.seconds
@pytest.mark.parametrize("name", [name for name in KNOWN if Manners(**KNOWN[name][0]).refuses])
def test_a_text_beyond_the_context_is_too_long_when_cutting_is_not_wanted(name: str) -> None:
    texts = [*(f"text {number}" for number in range(15)), LONG]
    outcome, manners, _ = run(name, texts, truncate=False)
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {15: "too_long"}
    assert not any("truncate_prompt_tokens" in asked for asked in manners.asked)


@pytest.mark.seconds
@pytest.mark.parametrize("most_words", [40, 100, 200])
@pytest.mark.parametrize("name", ["vLLM", "llama.cpp", "Ollama"])
def test_a_short_context_is_no_reason_to_refuse_a_server(name: str, most_words: int) -> None:
    """Whether it says how long a text may be or not: the canary has to fit."""
    manners = Manners(**{**KNOWN[name][0], "most_words": most_words})
    if name == "vLLM":
        manners.listing["data"][0]["max_model_len"] = most_words
        manners.cuts_with = None
    with serving(manners) as url:
        assert examine(settings_for(name, url, manners)).dim == 768


@pytest.mark.seconds
@pytest.mark.parametrize(("wanted", "length"), [(True, 1.0), (False, 3.0)])
def test_vectors_that_are_not_normalised_are_scaled_or_taken_as_they_are(wanted: bool, length: float) -> None:
    manners = Manners(length=3.0)
    with serving(manners) as url:
        settings = ClientSettings(urls=(url,), normalize=wanted)
        harness = Harness((url,), [f"text {number}" for number in range(40)], settings=settings)
        outcome = harness.run()
    assert np.allclose([np.linalg.norm(row) for row in outcome.rows.values()], length, atol=1e-3)
    assert any("scales them" in warning for warning in harness.fleet.warnings) == wanted


def test_servers_whose_vectors_have_unlike_lengths_are_one_space_only_when_they_are_scaled() -> None:
    with (
        serving(Manners(length=3.0)) as one,
        serving(Manners()) as two,
        pytest.raises(ConfigError, match="unit_length"),
    ):
        examine(ClientSettings(urls=(one, two), normalize=False))


@pytest.mark.seconds
@pytest.mark.parametrize("base", ["/v1", ""])
def test_a_server_that_lists_no_models_is_told_which_one(base: str) -> None:
    with serving(Manners(listing=None, base=base)) as url:
        for kind in ("openai", "auto"):
            found = examine(ClientSettings(urls=(url,), server_kind=kind, model="acme/other"))
            assert found.fingerprint.model_id == "acme/other"
        with pytest.raises(ConfigError, match="--model"):
            examine(ClientSettings(urls=(url,), server_kind="openai"))


@pytest.mark.seconds
def test_a_model_that_is_served_but_not_listed_is_taken_and_warned_of() -> None:
    with serving(Manners(serves=("hidden",))) as url:
        found = examine(ClientSettings(urls=(url,), model="hidden"))
        assert found.fingerprint.model_id == "hidden"
        assert any(f"does not list a model 'hidden' (but {MODEL})" in warning for warning in found.warnings)


def test_a_model_that_is_neither_listed_nor_served_is_refused_with_what_there_is() -> None:
    with serving(Manners(serves=(MODEL,))) as url, pytest.raises(ConfigError, match=f"not found.*{MODEL}"):
        examine(ClientSettings(urls=(url,), model="other"))


def test_of_several_models_none_is_taken_unasked() -> None:
    with (
        serving(Manners(listing=listing("a", "b"))) as url,
        pytest.raises(ConfigError, match=r"several models \(a, b\)"),
    ):
        examine(ClientSettings(urls=(url,)))


@pytest.mark.parametrize(
    "entries",
    [
        [{"id": MODEL, "type": "embedding"}, {"id": "chat-model", "type": "llm"}],
        [{"id": MODEL, "capabilities": ["embed"]}, {"id": "ranker", "capabilities": ["rerank"]}],
        [{"id": MODEL, "root": "/weights"}, {"id": "alias", "root": "/weights"}],
    ],
    ids=["by type", "by ability", "two names of one"],
)
def test_the_only_embedding_model_among_others_is_taken(entries: list[dict[str, Any]]) -> None:
    with serving(Manners(listing={"data": entries})) as url:
        assert examine(ClientSettings(urls=(url,))).fingerprint.model_id == MODEL


@pytest.mark.parametrize(
    "parsed",
    [
        {"data": [{"id": "m"}]},
        {"models": [{"name": "m"}]},
        {"models": [{"model": "m"}]},
        [{"id": "m", "max_model_len": None}],
        ["m"],
        {"data": [{"id": "m"}, {"id": None}, 7, {}]},
    ],
)
def test_every_shape_of_a_listing_is_read(parsed: Any) -> None:
    assert [model.name for model in read_models(parsed)] == ["m"]


@pytest.mark.parametrize("parsed", [None, {}, {"data": None}, {"data": {}}, "m", 7, {"error": "no"}])
def test_what_is_no_listing_lists_nothing(parsed: Any) -> None:
    assert read_models(parsed) == []


@pytest.mark.seconds
def test_an_error_in_an_answer_of_status_200_is_a_refusal_of_the_text_that_it_is_about() -> None:
    texts = [f"text {number}" for number in range(39)] + ["something flagged"]
    with serving(Manners(words_refused="flagged")) as url:
        outcome = Harness((url,), texts, batch_rows=8).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {39: "rejected"}


def test_vectors_without_places_that_do_not_stand_in_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    manners = Manners(index="none")
    real = vectors
    monkeypatch.setattr("tests.parts.manners.vectors", lambda texts, how: np.ascontiguousarray(real(texts, how)[::-1]))
    with serving(manners) as url, pytest.raises(ConfigError, match="order"):
        examine(ClientSettings(urls=(url,)))


@pytest.mark.seconds
def test_a_server_that_cuts_texts_silently_is_refused_when_cutting_is_not_wanted() -> None:
    with serving(Manners(refuses=False)) as url:
        with pytest.raises(ConfigError, match=r"cuts texts .* --no-truncate forbids"):
            examine(ClientSettings(urls=(url,), truncate=False))
        warnings = examine(ClientSettings(urls=(url,))).warnings
    assert any("long texts" in warning for warning in warnings)


@pytest.mark.seconds
@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_long_texts_may_serve_a_run_that_wants_none_cut(status: int) -> None:
    with serving(Manners(refuses_with=status)) as url:
        assert examine(ClientSettings(urls=(url,), truncate=False)).dim == 768


@pytest.mark.seconds
@pytest.mark.parametrize("status", [302, 401, 403, 500])
def test_what_a_route_answers_that_is_not_needed_does_not_matter(status: int) -> None:
    manners = Manners(info=(status, b"<html>log in</html>"))
    with serving(manners) as url:
        assert examine(ClientSettings(urls=(url,))).dim == 768
        assert examine(dataclasses.replace(ClientSettings(urls=(url,)), model=MODEL)).dim == 768
