"""What a task returned, as a table whose columns every reader knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa

from netopsy._checks import NetopsyError, shorten


def to_table(rows: object) -> pa.Table:
    """What a task returned, as a table: a mapping, a sequence of mappings, or a frame.

    Raises:
        NetopsyError: for anything else, or values that no column of a table can hold.
    """
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, pd.DataFrame):
        names = list(rows.columns)
    elif isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
    else:
        raise NetopsyError(
            f"measure: expected a mapping, a list of mappings or a DataFrame; it returned {type(rows).__name__}"
        )
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise NetopsyError(f"measure: expected column names that are strings and differ; got {shorten(names)}")
    try:
        if isinstance(rows, pd.DataFrame):
            table = pa.Table.from_pandas(rows, preserve_index=False)
        else:
            table = pa.table({name: [_plain(row.get(name)) for row in rows] for name in names})
        table = table.replace_schema_metadata(None)
        return table.cast(pa.schema([_simple(field) for field in table.schema]))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise NetopsyError(f"measure: expected columns of one type each; {error}") from error


def _plain(value: object) -> object:
    """A Python number for those of numpy and torch."""
    item = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "ndim", None) == 0 else value


def _simple(field: pa.Field) -> pa.Field:
    """Types that every reader knows, and that widen into each other or into text."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_unsigned_integer(kind):
        kind = pa.int64()
    elif pa.types.is_float16(kind):
        kind = pa.float32()
    known = (
        pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string,
        pa.types.is_timestamp, pa.types.is_date,
    )  # fmt: skip
    if not any(is_kind(kind) for is_kind in known):
        raise NetopsyError(
            f"measure: expected numbers, text, truth values or times; column {field.name!r} holds {kind}; make it "
            "rows or text"
        )
    return pa.field(field.name, kind)
