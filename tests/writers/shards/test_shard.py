"""A shard: sealed whole or not at all, whatever fails on the way."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import DamageError, SinkError
from engine.ledger import durable
from engine.memory.ids import IdType, pack_variable
from engine.records import Fingerprint, ShardFacts
from writers.shards.schema import ShardSchema, combine_digests, id_array, id_digest, id_text, vector_array
from writers.shards.shard import OpenShard, ShardIdentity
from writers.shards.store import ParquetShards

DIM = 6
LEDGER = "0123456789ab"
FINGERPRINT = Fingerprint(
    model_id="m",
    model_sha=None,
    dtype="float32",
    pooling="mean",
    prompt=None,
    dim=DIM,
    normalize=True,
    server_version="1",
)
SCHEMA = ShardSchema(id_type=IdType.INT64, columns=(), dim=DIM, vector_type="float32")


def identity(name: str = "done-012345-e0001-000001") -> ShardIdentity:
    """The identity of a shard of the test's ledger."""
    return ShardIdentity(name=name, epoch=1, ledger=LEDGER, version="0", fingerprint=FINGERPRINT.as_dict())


def rows(start: int, n_rows: int, schema: ShardSchema = SCHEMA) -> pa.Table:
    """A row group as the writer stage makes it: ids `start`..., unit vectors that depend on the id."""
    ids = range(start, start + n_rows)
    matrix = np.stack([np.roll(np.eye(DIM, dtype="<f4")[0], number) for number in ids])
    if schema.id_type is IdType.INT64:
        blob = struct.pack(f"<{n_rows}q", *ids)
    elif schema.id_type is IdType.OBJECTID:
        blob = b"".join(number.to_bytes(12, "big") for number in ids)
    else:
        blob = pack_variable([f"id-{number}".encode() for number in ids])
    arrays = [id_array(schema.id_type, blob, n_rows), vector_array(schema, matrix)]
    return pa.Table.from_arrays(arrays, schema=schema.arrow())


def seal_one(folder: Path, schema: ShardSchema = SCHEMA) -> ShardFacts:
    """A shard of two row groups, seven rows."""
    shard = OpenShard(folder, identity(), schema)
    shard.append(rows(0, 4, schema), truncated=1, sequences=(5, 6))
    shard.append(rows(4, 3, schema), truncated=0, sequences=(2, 9))
    shard.seal()
    return shard.name()


@pytest.mark.parametrize("vector_type", ["float32", "float16"])
@pytest.mark.parametrize("id_type", list(IdType))
def test_a_sealed_shard_has_the_contracts_schema_and_footer(tmp_path: Path, id_type: IdType, vector_type: str) -> None:
    """Id first in its own type, fixed-size vectors that are not null, page checksums, statistics on the id only."""
    schema = ShardSchema(id_type=id_type, columns=(), dim=DIM, vector_type=vector_type)

    facts = seal_one(tmp_path, schema)

    path = tmp_path / facts.file
    table = pq.read_table(path, page_checksum_verification=True)
    metadata = pq.read_metadata(path)
    footer = metadata.metadata
    expected_id = {IdType.INT64: pa.int64(), IdType.OBJECTID: pa.binary(12)}.get(id_type, pa.string())
    element = pa.float16() if vector_type == "float16" else pa.float32()
    assert table.schema.names == ["_id", "embedding"]
    assert table.schema.field("_id").type == expected_id
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", element, nullable=False), DIM)
    assert not table.schema.field("embedding").nullable
    assert footer[b"engine.rows"] == b"7"
    assert footer[b"engine.shard"] == b"done-012345-e0001-000001"
    assert footer[b"engine.epoch"] == b"1"
    assert footer[b"id_type"] == id_type.value.encode()
    assert b"model_id" in footer[b"engine.fingerprint"]
    assert metadata.row_group(0).column(0).is_stats_set
    assert not metadata.row_group(0).column(1).is_stats_set
    assert metadata.row_group(0).column(1).compression == "ZSTD"
    assert ("BYTE_STREAM_SPLIT" in metadata.row_group(0).column(1).encodings) == (vector_type == "float32")
    np.testing.assert_array_equal(
        np.array(table.column("embedding").to_pylist(), dtype="f4"),
        np.stack([np.roll(np.eye(DIM)[0], number) for number in range(7)]),
    )


def test_the_facts_of_a_shard_are_those_of_its_file(tmp_path: Path) -> None:
    """Size, SHA-256, rows and digest: what the ledger says later is compared with these."""
    facts = seal_one(tmp_path)

    store = ParquetShards(tmp_path, SCHEMA, FINGERPRINT, LEDGER)
    store.check_committed(facts.file, facts.bytes, facts.sha256)
    assert (facts.rows, facts.truncated, facts.sequences) == (7, 1, (2, 9))
    assert (facts.first_id, facts.last_id) == ("0", "6")
    assert [number for ids in store.ids(facts.file) for number in ids] == list(range(7))


def test_a_taken_name_is_never_replaced(tmp_path: Path) -> None:
    """A foreign file under the shard's final name stays as it is; the run ends with exit 4."""
    foreign = tmp_path / "done-012345-e0001-000001.parquet"
    foreign.write_bytes(b"somebody else's")

    with pytest.raises(DamageError, match="exists already and is not in the ledger"):
        seal_one(tmp_path)

    assert foreign.read_bytes() == b"somebody else's"
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_any_durable_call_that_fails_leaves_no_final_name_and_no_temporary(tmp_path: Path) -> None:
    """Fail the N-th durable call for N = 1, 2, 3, ... until a shard needs no more."""
    failed = 0
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        durable.arm("writer", f"durable#{number}=ENOSPC")
        try:
            facts = seal_one(folder)
        except SinkError as error:
            failed += 1
            assert "No space left" in str(error)
            left = {path.name for path in folder.iterdir()}
            assert not {name for name in left if name.endswith(".inprogress")}, f"call {number}: {left}"
            continue
        finally:
            durable.arm("writer", "")
        assert facts.rows == 7
        break
    assert failed >= 6  # create, writes, fsync, link, unlink, fsync of the folder


_KILLED = """
import sys
from pathlib import Path
from engine.ledger import durable
from tests.writers.shards.test_shard import seal_one
durable.arm("writer", sys.argv[2])
seal_one(Path(sys.argv[1]))
print("sealed")
"""


@pytest.mark.seconds
def test_killed_at_any_durable_call_a_shard_is_whole_under_its_name_or_has_none(tmp_path: Path) -> None:
    """G3, exhaustively: SIGKILL at every durable call; what has the final name can be adopted."""
    adopted = unfinished = 0
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = subprocess.run(
            [sys.executable, "-c", _KILLED, str(folder), f"durable#{number}=kill"], capture_output=True, check=False
        )
        if b"sealed" in run.stdout:
            break
        assert run.returncode == -9, run.stderr
        final = list(folder.glob("*.parquet"))
        if final:
            judgement = ParquetShards(folder, SCHEMA, FINGERPRINT, LEDGER).inspect_orphan(final[0].name)
            assert isinstance(judgement, ShardFacts), judgement
            assert judgement.rows == 7
            adopted += 1
        else:
            unfinished += 1
    assert adopted >= 2
    assert unfinished >= 4


def test_an_orphan_with_a_flipped_bit_is_adopted_only_when_its_rows_are_untouched(tmp_path: Path) -> None:
    """Wherever the bit was: either recovery refuses the file, or ids and vectors read exactly as written."""
    facts = seal_one(tmp_path)
    path = tmp_path / facts.file
    data = path.read_bytes()
    expected = pq.read_table(path)
    store = ParquetShards(tmp_path, SCHEMA, FINGERPRINT, LEDGER)
    refused = 0
    for position in range(4, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        if isinstance(store.inspect_orphan(facts.file), str):
            refused += 1
        else:
            assert pq.read_table(path).equals(expected), f"byte {position}"
    assert refused > 50


@pytest.mark.parametrize("what", ["cut", "other ledger", "other model"])
def test_an_orphan_that_is_not_whole_or_not_ours_is_not_adopted(tmp_path: Path, what: str) -> None:
    """Recovery says why, and sets such a file aside."""
    facts = seal_one(tmp_path)
    path = tmp_path / facts.file
    data = bytearray(path.read_bytes())
    fingerprint, ledger = FINGERPRINT, LEDGER
    if what == "cut":
        path.write_bytes(data[:-9])
    elif what == "other ledger":
        ledger = "ffffffffffff"
    else:
        fingerprint = Fingerprint.from_dict({**FINGERPRINT.as_dict(), "model_id": "another"})

    judgement = ParquetShards(tmp_path, SCHEMA, fingerprint, ledger).inspect_orphan(facts.file)

    assert isinstance(judgement, str)
    if what == "other model":
        assert "model_id 'another'" in judgement or "model_id 'm'" in judgement


def test_a_committed_shard_that_changed_is_refused_by_name(tmp_path: Path) -> None:
    """Documents are never marked from a file that is not what was written."""
    facts = seal_one(tmp_path)
    store = ParquetShards(tmp_path, SCHEMA, FINGERPRINT, LEDGER)
    path = tmp_path / facts.file
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)

    with pytest.raises(DamageError, match=facts.file):
        store.check_committed(facts.file, facts.bytes, facts.sha256)


def test_digests_add_up_over_parts_in_any_order() -> None:
    """What merge and verify stand on."""
    for column in (
        pa.array(range(-50, 50)),
        pa.array([f"x{number}" for number in range(100)]),
        pa.array([number.to_bytes(12, "big") for number in range(100)], pa.binary(12)),
    ):
        parts = [id_digest(column.slice(70)), id_digest(column.slice(0, 70))]
        assert combine_digests(parts) == id_digest(column)
        assert id_digest(column.slice(1)) != id_digest(column)


def test_an_id_is_named_whatever_its_bytes_are() -> None:
    """Other programs put text into string columns that is no UTF-8; a name in a record must not end a merge."""
    no_text = pa.array([b"\xffa"]).view(pa.string())[0]
    ids = [pa.scalar(-7), pa.scalar("\u00e4"), pa.scalar(b"0123456789ab", pa.binary(12)), no_text]
    assert [id_text(value) for value in ids] == ["-7", "\u00e4", "303132333435363738396162", "\ufffda"]
