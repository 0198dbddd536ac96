"""What a merge makes of Parquet files, its own or anybody's: one schema for all, and arrays in that schema.

The schema comes from the run's ledger or, for a folder of foreign files, from its first file that holds rows
(`writers.parquet.folder_schema`): `_id` first, then the other columns in that file's order, then `embedding` as a
fixed-size list. Other files may have their columns in any order, vectors as `list`, `large_list` or `fixed_size_list`
of any float type, ids as any integer or string type; any other difference is refused with the file's name.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ConfigError, DamageError, FingerprintMismatch
from engine.memory.ids import IdType
from engine.records import Fingerprint
from writers.parquet.arrow_types import element_of, is_vector, n_leaves, without_views
from writers.parquet.canary import canaries_of, canary_differences
from writers.parquet.opening import footer_of
from writers.shards.schema import EMBEDDING, ID, KEY_CANARY, KEY_FINGERPRINT, KEY_ID_TYPE, ShardSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSchema:
    """The columns of every output, and where they come from.

    Attributes:
        arrow: `_id` first, `embedding` last.
        id_type: What stands in `_id`.
        id_source, vector_source: Names of these columns in the inputs.
        fingerprint: The one vector space of all inputs, or None when the files do not say.
        described_by: Who set the schema: the ledger, or the first file.
        canaries: Vectors of the canary texts that rows may come from (`writers.parquet.canary`), the first ones first;
            empty when they are not known.
        dim: Numbers in a vector.
        dtype, vector_type: Number type of a vector, and its name: `float32` or `float16`.
        others: All columns but the vectors.
        sources: Name in the inputs and type in the outputs of each of the others.
    """

    arrow: pa.Schema
    id_type: IdType
    id_source: str
    vector_source: str
    fingerprint: dict[str, Any] | None
    described_by: str
    canaries: tuple[str, ...] = ()
    dim: int = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    vector_type: str = field(init=False)
    others: pa.Schema = field(init=False)
    sources: tuple[tuple[str, pa.DataType], ...] = field(init=False)

    def __post_init__(self) -> None:
        # Settled once: a million small files ask for these a million times.
        vectors = self.arrow.field(EMBEDDING).type
        half = vectors.value_type == pa.float16()
        others = [item for item in self.arrow if item.name != EMBEDDING]
        named = tuple((self.id_source if item.name == ID else item.name, item.type) for item in others)
        object.__setattr__(self, "dim", int(vectors.list_size))
        object.__setattr__(self, "dtype", np.dtype(np.float16 if half else np.float32))
        object.__setattr__(self, "vector_type", "float16" if half else "float32")
        object.__setattr__(self, "others", pa.schema(others))
        object.__setattr__(self, "sources", named)

    def of_outputs(self) -> MergeSchema:
        """The same for files that a merge has written."""
        return replace(self, id_source=ID, vector_source=EMBEDDING)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in ledgers and job messages."""
        return {
            "arrow": base64.b64encode(self.arrow.serialize().to_pybytes()).decode(),
            "columns": [[item.name, str(item.type)] for item in self.arrow],
            "id_type": self.id_type.value,
            "id_source": self.id_source,
            "vector_source": self.vector_source,
            "fingerprint": self.fingerprint,
            "described_by": self.described_by,
            "canaries": list(self.canaries),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MergeSchema:
        """Read `as_dict` back."""
        arrow = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["arrow"])))
        names = ("id_source", "vector_source", "fingerprint", "described_by")
        return cls(
            arrow=arrow,
            id_type=IdType(values["id_type"]),
            canaries=tuple(values.get("canaries", ())),
            **{name: values[name] for name in names},
        )

    def differences(self, other: MergeSchema) -> list[str]:
        """One phrase for each way in which the other's rows cannot stand beside these."""
        found = []
        for name, mine, theirs in (
            ("id type", self.id_type.value, other.id_type.value),
            ("dimension", self.dim, other.dim),
            ("vector type", self.vector_type, other.vector_type),
        ):
            if mine != theirs:
                found.append(f"{name} {theirs} is not {mine}")
        if not found and not self.arrow.equals(other.arrow, check_metadata=False):
            found.append(f"columns {_columns(other.arrow)} are not {_columns(self.arrow)}")
        found += fingerprint_differences(self.fingerprint, other.fingerprint)
        for theirs in other.canaries[:1]:
            found += canary_differences(theirs, self.canaries)
        return found


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{item.name} {item.type}" for item in schema)


def fingerprint_differences(mine: dict[str, Any] | None, theirs: dict[str, Any] | None) -> list[str]:
    """What differs between two fingerprints; a file without one is not the same as a file with one."""
    if mine is None or theirs is None:
        return [] if mine is theirs else ["one carries a model fingerprint and the other does not"]
    return Fingerprint.from_dict(mine).differences(Fingerprint.from_dict(theirs))


def schema_of_run(run: dict[str, Any], ledger: str, accepted: Iterable[dict[str, Any]] = ()) -> MergeSchema:
    """The schema that a run's RUN record names.

    Args:
        accepted: Its ACCEPTED records: other vectors of the canary texts that the user has agreed to.
    """
    described = run["schema"]
    shard = ShardSchema(
        id_type=IdType(described["id_type"]),
        columns=tuple((str(name), str(kind)) for name, kind in described["columns"]),
        dim=int(described["dim"]),
        vector_type=str(described["vector_type"]),
        truncated=bool(described["truncated"]),
    )
    return MergeSchema(
        arrow=shard.arrow(),
        id_type=shard.id_type,
        id_source=ID,
        vector_source=EMBEDDING,
        fingerprint=run["fingerprint"],
        described_by=f"the ledger {ledger}",
        canaries=tuple(brief for record in (run, *accepted) if (brief := record.get("canary_brief"))),
    )


def schema_of_file(name: str, parquet: pq.ParquetFile, id_column: str | None, vector_column: str | None) -> MergeSchema:
    """The schema that the first file of a folder sets for all.

    Raises:
        ConfigError: no id column or no vector column can be told, its type cannot be taken, or names are there twice.
    """
    theirs: pa.Schema = parquet.schema_arrow
    if twice := _names_twice(theirs):
        raise ConfigError(f"{name} has several columns {twice[0]!r}: rename them")
    id_source = _choose(name, theirs, "id", id_column, [ID, "id"])
    lists = [item.name for item in theirs if is_vector(item.type)]
    likely = [EMBEDDING] if EMBEDDING in lists else lists
    vector_source = _choose(name, theirs, "vector", vector_column, likely if len(likely) == 1 else [])
    pairs = footer_of(parquet)
    id_type, id_field = _id_field(name, theirs.field(id_source), pairs.get(KEY_ID_TYPE))
    fields = [id_field]
    for carried in theirs:
        if carried.name in (id_source, vector_source):
            continue
        if carried.name in (ID, EMBEDDING):
            raise ConfigError(f"{name}: the column {carried.name!r} stands where the engine writes its own; rename it")
        kind = without_views(carried.type)
        fields.append(carried.remove_metadata().with_type(kind).with_nullable(True))  # a later file may hold nulls
    half = element_of(theirs.field(vector_source).type) == pa.float16()
    element = pa.field("element", pa.float16() if half else pa.float32(), nullable=False)
    vectors = pa.list_(element, _dim_of(name, parquet, vector_source))
    fields.append(pa.field(EMBEDDING, vectors, nullable=False))
    return MergeSchema(
        arrow=pa.schema(fields),
        id_type=id_type,
        id_source=id_source,
        vector_source=vector_source,
        fingerprint=_fingerprint(name, pairs),
        described_by=name,
        canaries=canaries_of(pairs),
    )


def _fingerprint(name: str, pairs: dict[bytes, bytes]) -> dict[str, Any] | None:
    if KEY_FINGERPRINT not in pairs:
        return None
    try:
        fingerprint = orjson.loads(pairs[KEY_FINGERPRINT]) or None
    except orjson.JSONDecodeError as error:
        raise DamageError(f"{name}: the fingerprint in the footer is not JSON: the file is damaged") from error
    if not isinstance(fingerprint, dict | None):
        raise DamageError(f"{name}: the fingerprint in the footer is not an object: the file is damaged")
    return fingerprint


def _id_type_said(pairs: dict[bytes, bytes]) -> IdType | None:
    """What a footer says of the ids; others may use the same key for something else."""
    said = pairs.get(KEY_ID_TYPE, b"").decode(errors="replace")
    return IdType(said) if said in set(IdType) else None


def _names_twice(schema: pa.Schema) -> list[str]:
    return [name for number, name in enumerate(schema.names) if name in schema.names[:number]]


def _choose(name: str, schema: pa.Schema, what: str, named: str | None, candidates: list[str]) -> str:
    if named is not None:
        if named not in schema.names:
            raise ConfigError(f"{name} has no column {named!r}; it has {', '.join(schema.names)}: name another one")
        return named
    for candidate in candidates:
        if candidate in schema.names:
            return candidate
    raise ConfigError(
        f"{name}: cannot tell which column is the {what} (columns: {', '.join(schema.names) or 'none'}): "
        f"name it with --{what}-column"
    )


def _id_field(name: str, column: pa.Field, said: bytes | None) -> tuple[IdType, pa.Field]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) and kind != pa.uint64():
        id_type = IdType.INT64
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        id_type = IdType.EXTJSON if said == b"extjson" else IdType.STRING
    elif pa.types.is_fixed_size_binary(kind) and kind.byte_width == 12:
        id_type = IdType.OBJECTID
    else:
        raise ConfigError(
            f"{name}: the id column {column.name!r} has type {column.type}; expected integers, strings or 12 bytes"
        )
    shard = ShardSchema(id_type=id_type, columns=(), dim=1, vector_type="float32")
    return id_type, shard.arrow().field(ID)


def _dim_of(name: str, parquet: pq.ParquetFile, column: str) -> int:
    kind = parquet.schema_arrow.field(column).type
    if not is_vector(kind):
        raise ConfigError(f"{name}: the vector column {column!r} has type {kind}; expected a list of floats")
    if pa.types.is_fixed_size_list(kind):
        if not kind.list_size:
            raise ConfigError(f"{name}: the vectors in {column!r} have no numbers: name another --vector-column")
        return int(kind.list_size)
    for batch in parquet.iter_batches(batch_size=1, columns=[column], use_threads=False):
        if not batch.num_rows:
            continue
        first = batch.column(0)[0]
        if not first.is_valid or not len(first):
            raise ConfigError(f"{name}: the first vector in {column!r} is null or empty; remove that row")
        return len(first)
    raise ConfigError(f"no file has a row to tell the dimension from; {name} is the first: add files with rows")


_REMEMBERED = 8
"""Ways to write the same columns, and to say the same of them, that are known at once."""


class Matcher:
    """Compares files with the schema of a merge; what passed once passes quickly again.

    A folder of a million files has one or two ways to write the same columns; only those are taken apart.
    """

    def __init__(self, schema: MergeSchema) -> None:
        self.schema = schema
        self._passed: list[tuple[pa.Schema, int]] = []
        self._passed_pairs: set[tuple[bytes | None, ...]] = set()
        self._canaries = schema.canaries

    def check(self, name: str, parquet: pq.ParquetFile, pairs: dict[bytes, bytes]) -> int:
        """Check one file (`check_columns` says what raises); returns the number of its vectors' leaf in the footer.

        `pairs` are the key-value metadata of the footer (`footer_of`).
        """
        leaf = self._vector_leaf(name, parquet)
        _check_numbers(name, parquet, leaf, self.schema)
        self._check_pairs(name, pairs)
        return leaf

    def _vector_leaf(self, name: str, parquet: pq.ParquetFile) -> int:
        theirs: pa.Schema = parquet.schema_arrow
        for passed, leaf in self._passed:
            if passed.equals(theirs):
                return leaf
        leaf = check_columns(name, parquet, self.schema)
        self._passed = [*self._passed[1 - _REMEMBERED :], (theirs, leaf)]
        return leaf

    def _check_pairs(self, name: str, pairs: dict[bytes, bytes]) -> None:
        said = (pairs.get(KEY_ID_TYPE), pairs.get(KEY_FINGERPRINT), pairs.get(KEY_CANARY))
        if said not in self._passed_pairs:
            _check_footer(name, pairs, self.schema, self._canaries)
            self._canaries = self._canaries or canaries_of(pairs)  # the first that has one speaks for those without
            if len(self._passed_pairs) < _REMEMBERED:
                self._passed_pairs.add(said)


def check_columns(name: str, parquet: pq.ParquetFile, schema: MergeSchema) -> int:
    """Refuse a file whose columns cannot stand beside the others'; returns the number of its vector leaf.

    Raises:
        ConfigError: names the file and each difference.
        FingerprintMismatch: likewise, when the vector spaces differ.
    """
    theirs: pa.Schema = parquet.schema_arrow
    found = [f"several columns {twice!r}" for twice in _names_twice(theirs)]
    for source in (schema.id_source, schema.vector_source):
        if source not in theirs.names:
            found.append(f"no column {source!r}")
    if not found:
        found = _type_differences(name, theirs, schema)
    if found:
        raise _misfit(name, schema, found)
    return leaf_number(parquet, schema.vector_source)


def _misfit(name: str, schema: MergeSchema, found: list[str]) -> ConfigError:
    return ConfigError(
        f"{name} does not fit the others, whose schema {schema.described_by} sets: {'; '.join(found)}: "
        "merge it into a folder of its own"
    )


def _check_footer(name: str, pairs: dict[bytes, bytes], schema: MergeSchema, canaries: tuple[str, ...]) -> None:
    said = _id_type_said(pairs)
    if said is not None and said is not schema.id_type:
        raise _misfit(name, schema, [f"id type {said.value} is not {schema.id_type.value}"])
    differences = fingerprint_differences(schema.fingerprint, _fingerprint(name, pairs))
    for theirs in canaries_of(pairs):
        differences += canary_differences(theirs, canaries)
    if differences:
        raise FingerprintMismatch(
            f"{name} is in another vector space than {schema.described_by}: {'; '.join(differences)}: "
            "merge it into a folder of its own"
        )


def _type_differences(name: str, theirs: pa.Schema, schema: MergeSchema) -> list[str]:
    found = []
    try:
        id_type, _ = _id_field(name, theirs.field(schema.id_source), schema.id_type.value.encode())
        if id_type is not schema.id_type:
            found.append(f"id type {id_type.value} is not {schema.id_type.value}")
    except ConfigError:
        found.append(f"id type {theirs.field(schema.id_source).type} is not {schema.id_type.value}")
    kind = theirs.field(schema.vector_source).type
    if not is_vector(kind):
        found.append(f"vector type {kind} is not a list of floats")
    elif (element_of(kind) == pa.float16()) != (schema.vector_type == "float16"):
        found.append(f"vector type {element_of(kind)} is not {schema.vector_type}")
    elif pa.types.is_fixed_size_list(kind) and kind.list_size != schema.dim:
        found.append(f"dimension {kind.list_size} is not {schema.dim}")
    carried = {item.name: item.type for item in schema.others}
    del carried[ID]
    sources = (schema.id_source, schema.vector_source)
    rest = {item.name: without_views(item.type) for item in theirs if item.name not in sources}
    found += [f"no column {missing!r}" for missing in carried if missing not in rest]
    found += [f"an extra column {extra!r}" for extra in rest if extra not in carried]
    found += [
        f"column {column!r} is {rest[column]}, not {kind}"
        for column, kind in carried.items()
        if column in rest and rest[column] not in (without_views(kind), pa.null())
    ]
    return found


def _check_numbers(name: str, parquet: pq.ParquetFile, leaf: int, schema: MergeSchema) -> None:
    """Compare counts of numbers in the footer; a vector of another length within a file shows when it is read."""
    metadata = parquet.metadata
    values = 0
    for group in range(metadata.num_row_groups):
        values += metadata.row_group(group).column(leaf).num_values
    if values != metadata.num_rows * schema.dim:
        mean = values / metadata.num_rows if metadata.num_rows else 0
        found = f"{metadata.num_rows} vectors have {mean:g} numbers each on average, not {schema.dim}"
        raise _misfit(name, schema, [found])


def leaf_number(parquet: pq.ParquetFile, column: str) -> int:
    """Number of the (first) leaf of a top-level column in the footer; names may have dots, as paths have."""
    theirs: pa.Schema = parquet.schema_arrow
    before = sum(n_leaves(theirs.field(number).type) for number in range(theirs.get_field_index(column)))
    path = parquet.schema.column(before).path if before < len(parquet.schema.names) else ""
    if path != column and not path.startswith(f"{column}."):
        raise DamageError(f"the footer has no leaf for the column {column!r}: the file is damaged")
    return before
