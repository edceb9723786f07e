"""The column of checkpoints' keys in a result's tables: the user's own integers and names, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy._storage import read_table, write_table
from netopsy._typing import Key


def key_column(keys: Iterable[Key | None]) -> pd.Series[Any]:
    """Keys as `Int64` or `string`, nullable; as they are (`object`) where there are keys of both kinds.

    >>> key_column([0, None]).dtype.name, key_column(["a"]).dtype.name, key_column([0, "final"]).dtype.name
    ('Int64', 'string', 'object')
    """
    column = pd.Series(list(keys), dtype=object)
    kinds = {type(key) for key in column.dropna()}
    if len(kinds) > 1:
        return column
    return column.astype("string" if kinds == {str} else "Int64")


def write_keyed(path: Path, frame: pd.DataFrame) -> None:
    """Write a table with a column `checkpoint`; keys of two kinds, which no Parquet column can hold, as JSON."""
    mixed = frame.checkpoint.dtype == object
    if mixed:
        texts = [None if pd.isna(key) else json.dumps(key) for key in frame.checkpoint]
        frame = frame.assign(checkpoint=pd.Series(texts, index=frame.index, dtype="string"))
    write_table(path, frame, mixed_keys=bool(mixed))


def read_keyed(path: Path) -> pd.DataFrame:
    """Read what `write_keyed` wrote; raises `NetopsyError` as `read_table` does."""
    frame = read_table(path)
    if frame.attrs.get("mixed_keys"):
        keys = [None if pd.isna(text) else json.loads(text) for text in frame.checkpoint]
        frame = frame.assign(checkpoint=pd.Series(keys, index=frame.index, dtype=object))
    frame.attrs = {}
    return frame
