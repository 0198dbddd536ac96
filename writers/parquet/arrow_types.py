"""Types of columns as others write them, and what a merge makes of them."""

from __future__ import annotations

import pyarrow as pa


def element_of(kind: pa.DataType) -> pa.DataType | None:
    """The type of a list's items; None when it is no list."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return kind.value_type
    return None


def is_vector(kind: pa.DataType) -> bool:
    """Whether it is a list of floats."""
    element = element_of(kind)
    return element is not None and bool(pa.types.is_floating(element))


def without_views(kind: pa.DataType) -> pa.DataType:
    """The type with plain strings for views of them, as arrow-rs writes: of views pyarrow cannot take rows."""
    if kind == pa.string_view():
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    fields = [kind.field(number) for number in range(kind.num_fields)]
    plain = [item.with_type(without_views(item.type)) for item in fields]
    if plain == fields:
        return kind
    if pa.types.is_struct(kind):
        return pa.struct(plain)
    if pa.types.is_map(kind):
        key, item = plain[0].type.field(0), plain[0].type.field(1)
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)
    if pa.types.is_large_list(kind):
        return pa.large_list(plain[0])
    return pa.list_(plain[0], kind.list_size) if pa.types.is_fixed_size_list(kind) else pa.list_(plain[0])


def row_bytes(schema: pa.Schema) -> int | None:
    """Bytes of a row of numbers; None when a column holds values of any length, or others than numbers and bytes."""
    kinds = [item.type for item in schema]
    if all(pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind) for kind in kinds):
        return sum(-(-int(kind.bit_width) // 8) for kind in kinds)
    return None


def n_leaves(kind: pa.DataType) -> int:
    """How many columns it has in a footer."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return sum(n_leaves(kind.field(number).type) for number in range(kind.num_fields)) if kind.num_fields else 1
