"""Batching for a source that is not MongoDB: it is told all it needs of ids, and loads nothing of a database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from engine.memory.ids import IdType, pack_variable, unpack
from engine.memory.slots import Header, VectorLayout, body_of, meta_of
from engine.ports import IdList
from readers.batching.columns import ColumnReader, infer_columns
from readers.batching.encode import BatchEncoder
from readers.batching.ports import IdTypeMismatch, SourceIds, ValueTypes
from readers.batching.screening import Screening, TextPolicy
from readers.batching.skip import QuarantineLog, SkipSet
from readers.batching.window import BatchLimits, Window

PYTHON_TYPES = ValueTypes(
    kinds={int: "int64", float: "double", bool: "bool", str: "string"}, milliseconds=int, json=str
)


class NameIds:
    """Ids that are names, and the same whatever their case."""

    def key(self, value: Any) -> Hashable:
        return value.casefold() if isinstance(value, str) else repr(value)

    def keys(self, values: list[Any]) -> Sequence[Hashable]:
        return [self.key(value) for value in values]

    def key_of_text(self, text: str) -> Hashable:
        return self.key(json.loads(text))

    def text(self, value: Any) -> str:
        return json.dumps(value)

    def fit(self, values: list[Any]) -> bool:
        return all(isinstance(value, str) for value in values)

    def misfit(self, value: Any) -> str | None:
        return None if isinstance(value, str) else f"{value!r} is no name"

    def column(self, values: Sequence[Any]) -> IdList:
        return list(values)

    def pack(self, values: Sequence[Any]) -> bytes:
        if not self.fit(list(values)):
            raise IdTypeMismatch
        return pack_variable([value.encode() for value in values])


def test_documents_of_any_source_become_slots(tmp_path: Path) -> None:
    """Ids, columns and quarantine follow the source's own rules; an id in quarantine is known by its key."""
    quarantine = tmp_path / "quarantine.jsonl"
    quarantine.write_text(json.dumps({"_id": "KNOWN", "reason": "rejected"}) + "\n")
    ids: SourceIds = NameIds()
    pages = [
        [{"_id": "Ada", "text": "first", "age": 36}, {"_id": "ada", "text": "the same one"}, {"_id": 7, "text": "x"}],
        [{"_id": "known", "text": "in quarantine"}, {"_id": "Bob", "text": ""}, {"_id": "Eve", "text": "third"}],
    ]
    columns = infer_columns([page[0] for page in pages], ("age",), PYTHON_TYPES).columns
    policy = TextPolicy(
        text_field="text",
        prompt="",
        max_text_bytes=1000,
        max_characters=None,
        max_tokens=None,
        truncate=True,
        keep_text=False,
    )
    skip = SkipSet(QuarantineLog(str(quarantine), ids.key_of_text), None, ids)
    skip.follow_quarantine()
    screening = Screening(policy, ids, skip, ColumnReader(columns, PYTHON_TYPES, lambda *_: None))
    window = Window(
        BatchLimits(max_texts=8, max_rows=8, max_characters=1000, max_tokens=None),
        ids.keys,
        max_rows=8,
        bucketing=True,
        dedup=True,
    )
    for page in pages:
        rows, _ = screening.screen(page, None)
        window.add(rows)
    encoder = BatchEncoder(
        ids, VectorLayout(dim=2, max_rows=8, meta_capacity_bytes=1000), 8192, 8000, screening.refuse_sent
    )
    (encoded,) = [piece for batch in window.batches(flush=True) for piece in encoder.encode(batch)]
    slot = memoryview(bytearray(8192))
    encoded.write(slot, generation=1, sequence=0)

    header = Header.unpack_from(slot, 1)
    meta = meta_of(slot, header)
    assert unpack(IdType.STRING, meta.ids, header.n_rows) == [b"Ada", b"Eve"]
    assert json.loads(bytes(body_of(slot, header))) == ["first", "third"]
    assert json.loads(bytes(meta.columns)) == [[36], [None]]
    assert {entry.id: entry.reason for entry in screening.quarantined} == {"7": "id_type", '"Bob"': "empty"}
    assert skip.skipped == 1


def test_batching_loads_no_database_library() -> None:
    """Neither bson nor pymongo: another source must not need them."""
    names = [f"readers.batching.{path.stem}" for path in Path("readers/batching").glob("[a-z]*.py")]
    assert len(names) > 5
    script = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert not {"bson", "pymongo", "pyarrow"} & set(done.stdout.split())
