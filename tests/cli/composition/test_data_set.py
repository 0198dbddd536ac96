"""A start continues a data set only with servers that give its vectors (G9), whatever they say of themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from bench.parts import tweets
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from commands.composition.data_set import begin_or_continue
from engine.config import RunConfig, ServersConfig, SinkConfig
from engine.errors import ConfigError, FingerprintMismatch
from engine.ledger.log import Ledger, Record, RunState, frame
from engine.memory.ids import IdType
from gpu_clients.servers.canary import Canary
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes

AS_BEFORE = StandinConfig(backend="sim", ports=(0, 0), model_id="one-model", model_sha=None, dim=24)
WITH_A_PROMPT = StandinConfig(
    backend="sim", ports=(0, 0), model_id="one-model", model_sha=None, dim=24, default_prompt="query: "
)
WITH_OTHER_WEIGHTS = StandinConfig(
    backend="sim", ports=(0, 0), model_id="one-model", model_sha=None, dim=24, faults=("other_model",)
)


def run(command: EngineCommand, config: StandinConfig) -> tuple[int, dict[str, Any], str]:
    """Exit code, summary and complaints of `engine run` beside servers that live as long as it."""
    with StandinFleet(config) as fleet:
        here = EngineCommand(
            uri=command.uri,
            database=command.database,
            collection=command.collection,
            done_field=command.done_field,
            urls=fleet.urls,
            folder=command.folder,
        )
        with here.running("run", "--json") as process:
            out, complaint = process.communicate(timeout=90)
    return process.returncode, json.loads(out), complaint


@pytest.mark.seconds
@pytest.mark.parametrize("other", [WITH_A_PROMPT, WITH_OTHER_WEIGHTS], ids=["default prompt", "weights"])
def test_g9_servers_with_other_vectors_of_the_canary_texts_are_refused_at_a_resume(
    other: StandinConfig, mongo_db: Database[dict[str, Any]], mongod: LocalMongod, tmp_path: Path
) -> None:
    """Exit 2 before anything is read, marked or recorded, with the cosine; the servers of before go on."""
    command = EngineCommand(
        uri=mongod.uri, database=mongo_db.name, collection="tweets", done_field="done", urls=(), folder=tmp_path
    )
    documents = list(tweets.documents(60, retweeted=False))
    mongo_db["tweets"].insert_many(documents[:40])
    with open_client(mongod.uri) as client:
        create_indexes(open_collection(client, mongo_db.name, "tweets"), "done")
    first = run(command, AS_BEFORE)
    mongo_db["tweets"].insert_many(documents[40:])
    ledger = next(tmp_path.glob("hot/*/ledger"))
    as_left = ledger.read_bytes()

    code, summary, complaint = run(command, other)

    assert (first[0], first[1]["embedded"]) == (0, 40), first[2]
    assert code == 2, complaint
    assert (summary["exit"], summary["read"], summary["embedded"]) == (2, 0, 0)
    last = complaint.splitlines()[-1]
    if other is WITH_A_PROMPT:
        assert "server_prompt 'query: ' is not ''" in last
    else:
        assert "the servers give other vectors of the canary texts than those it was begun with (cosine " in last
        assert "expected at least 0.999" in last
    assert str(ledger.parent) in last
    assert mongo_db["tweets"].count_documents({"done": True}) == 40
    assert ledger.read_bytes() == as_left
    code, summary, complaint = run(command, AS_BEFORE)
    assert (code, summary["resumed"], summary["embedded"]) == (0, 40, 20), complaint


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """What the doctor finds out about one server."""
    with StandinFleet(StandinConfig(backend="sim", model_id="one-model", dim=24)) as servers:
        yield examine(ClientSettings(urls=servers.urls))


def begun(tmp_path: Path, fleet: Fleet, changes: Record) -> tuple[RunConfig, Ledger[RunState]]:
    """The ledger of a data set that was begun with `fleet`, but for some fields; those that are None are left out."""
    config = RunConfig(sink=SinkConfig(hot_dir=tmp_path / "hot", cold_dir=tmp_path / "cold"))
    config.folders.make()
    ledger = Ledger(config.folders.ledger, RunState())
    go_on(ledger, config, fleet, fleet.canary)
    ledger.close()
    record = {**RunState.of(config.folders.ledger).run, **changes}  # type: ignore[dict-item]  # there is one
    config.folders.ledger.write_bytes(frame({name: value for name, value in record.items() if value is not None}))
    return config, Ledger(config.folders.ledger, RunState())


def go_on(ledger: Ledger[RunState], config: RunConfig, fleet: Fleet, canary: str) -> None:
    """Start with servers that give this canary."""
    begin_or_continue(
        ledger,
        config,
        fingerprint=fleet.fingerprint,
        id_type=IdType.INT64,
        columns=(),
        canary=canary,
        canary_brief=fleet.canary_brief,
    )


def nearby_canary(fleet: Fleet, cosine: float) -> str:
    """Vectors with such a cosine to the fleet's."""
    canary = Canary.decode(fleet.canary)
    aside = np.roll(canary.mixed, 1, axis=1)
    aside -= canary.mixed * (aside * canary.mixed).sum(axis=1, keepdims=True)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    turned = cosine * canary.mixed + np.sqrt(1 - cosine**2) * aside
    return Canary.of(turned.astype(np.float32), turned[[2, 2]].astype(np.float32)).encode()


def test_g9_new_hardware_is_accepted_on_request_alone_and_the_ledger_says_so(tmp_path: Path, fleet: Fleet) -> None:
    """With the cosine that was measured; the next start needs to agree to nothing."""
    config, ledger = begun(tmp_path, fleet, {})
    other, far = nearby_canary(fleet, 0.997), nearby_canary(fleet, 0.9)
    agreed = dataclasses.replace(config, servers=ServersConfig(accept_vectors=0.995))
    with pytest.raises(FingerprintMismatch, match=r"cosine 0\.9970, expected at least 0\.999.*--accept-vectors"):
        go_on(ledger, config, fleet, other)
    with pytest.raises(FingerprintMismatch, match=r"cosine 0\.9000, expected at least 0\.995"):
        go_on(ledger, agreed, fleet, far)
    as_left = config.folders.ledger.read_bytes()

    go_on(ledger, agreed, fleet, other)

    (accepted,) = RunState.of(config.folders.ledger).accepted
    assert accepted["cosine"] == pytest.approx(0.997, abs=1e-4)
    whole = config.folders.ledger.read_bytes()
    assert whole.startswith(as_left)
    for canary in (other, fleet.canary):
        go_on(ledger, config, fleet, canary)
    assert config.folders.ledger.read_bytes() == whole, "what was agreed to once is not written down again"
    ledger.close()
    config.folders.ledger.write_bytes(whole[:-10])  # power went while it was written
    torn = Ledger(config.folders.ledger, RunState())
    with pytest.raises(FingerprintMismatch):
        go_on(torn, config, fleet, other)
    torn.close()


def test_a_default_prompt_that_an_older_ledger_does_not_know_is_no_difference(tmp_path: Path, fleet: Fleet) -> None:
    """Its vectors say whether there was one."""
    fingerprint = fleet.fingerprint.as_dict()
    del fingerprint["server_prompt"]
    config, ledger = begun(tmp_path, fleet, {"fingerprint": fingerprint})

    go_on(ledger, config, fleet, fleet.canary)

    with pytest.raises(FingerprintMismatch, match="canary"):
        go_on(ledger, config, fleet, other_canary(fleet))
    ledger.close()


def other_canary(fleet: Fleet) -> str:
    """Vectors of a server of another model."""
    with StandinFleet(StandinConfig(backend="sim", model_id="another", dim=fleet.dim)) as servers:
        return examine(ClientSettings(urls=servers.urls)).canary


@pytest.mark.parametrize("canary", [None, "not base64!"])
def test_a_ledger_without_a_canary_that_can_be_read_is_continued(tmp_path: Path, fleet: Fleet, canary: Any) -> None:
    """There is nothing to compare with."""
    config, ledger = begun(tmp_path, fleet, {"canary": canary})

    go_on(ledger, config, fleet, fleet.canary)

    ledger.close()


def test_the_canary_of_the_first_start_is_the_one_that_counts(tmp_path: Path, fleet: Fleet) -> None:
    """Each start is compared with the record, which no later one changes: small differences cannot add up."""
    config, ledger = begun(tmp_path, fleet, {})
    there = config.folders.ledger.read_bytes()

    go_on(ledger, config, fleet, fleet.canary)
    with pytest.raises(FingerprintMismatch, match="other vectors of the canary texts"):
        go_on(ledger, config, fleet, other_canary(fleet))

    ledger.close()
    assert config.folders.ledger.read_bytes() == there


@pytest.mark.parametrize("name", ["database", "collection", "done_field"])
def test_a_ledger_of_a_name_in_other_case_is_refused_and_a_renamed_one_is_not(
    tmp_path: Path, fleet: Fleet, name: str
) -> None:
    """Where a file system takes `Tweets` and `tweets` for one, two collections would share a folder."""
    usual = str(getattr(RunConfig().source, name))
    config, ledger = begun(tmp_path / "case", fleet, {name: usual.upper()})
    with pytest.raises(ConfigError, match="takes upper and lower case for one"):
        go_on(ledger, config, fleet, fleet.canary)
    ledger.close()

    config, ledger = begun(tmp_path / "renamed", fleet, {name: "before"})
    go_on(ledger, config, fleet, fleet.canary)
    ledger.close()
