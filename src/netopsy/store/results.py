"""A folder of results: one Parquet data set that any reader opens, and what workers have just added.

    folder/results/part-00000.parquet    the data set: one schema in all parts, every row once
    folder/pending/<name>.parquet        finished work that is not in it yet, of any schema

Workers only add files to `pending`; one process at a time merges them. A part is replaced whole, so that a reader
never meets a half-written or doubled row, whenever a process dies.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from netopsy._checks import NetopsyError, near, shorten
from netopsy._storage import SCHEMA, check_schema, sweep_temporaries, write_atomic

PART_ROWS = 1_000_000
"""A part with this many rows is not rewritten any more when rows are added."""

OK = "ok"
NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def load_results(
    folder: Path | str,
    *,
    columns: Sequence[str] | None = None,
    where: Mapping[str, Any] | ds.Expression | None = None,
) -> pd.DataFrame:
    """Read the results of a sweep or a keyed map, those that are being written included.

    Args:
        folder: that the sweep writes to.
        columns: which; by default all.
        where: column -> a value, or a collection of values one of which the row must have; or any filter that
            `pyarrow.dataset` takes, such as `pyarrow.dataset.field("width") > 16`.

    Returns:
        A row a measurement: `key` (of the task), `point` (the same without the version of the code: each is there
        once, as it was measured last), `status` (`ok` or why it failed), `reason`, `seconds`, `code` and other
        versions, the fields of the task's configuration, and what was measured. Whole numbers with gaps are `Int64`.

    Raises:
        NetopsyError: when the folder holds no results or those of a newer netopsy, or a column does not exist.
    """
    folder = Path(folder)
    filtered = tuple(where) if isinstance(where, Mapping) else ()
    whole = columns is None or isinstance(where, ds.Expression)  # whose columns nobody tells
    table, names = _all_rows(folder, None if whole else ["key", "point", "status", *(columns or ()), *filtered])
    if table is None:
        raise NetopsyError(
            f"{folder}: expected a folder of results (results/part-*.parquet); it has none; pass the folder that a "
            "sweep writes to"
        )
    for name in (*(columns or ()), *filtered):
        if name not in names:
            raise NetopsyError(f"{folder}: no column {name!r}{near(name, names)}; it has {shorten(names, 30)}")
    if where is not None:
        try:
            table = table.filter(_expression(where) if isinstance(where, Mapping) else where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise NetopsyError(
                f"where: expected a filter that fits the columns' types; got {where} ({error})"
            ) from error
    return _frame(table.select(list(columns)) if columns is not None else table)


def add_pending(folder: Path, tables: Sequence[pa.Table]) -> None:
    """Write rows of finished tasks; whole tasks only."""
    path = folder / "pending" / f"{secrets.token_hex(8)}.parquet"
    _write(path, _joined(tables))


def statuses(folder: Path) -> dict[str, str]:
    """Task key -> status, of all that is done."""
    columns = ["key", "status"]
    pending = _pending_tables(folder, columns)  # before the parts, see `_all_rows`
    found: dict[str, str] = {}
    for table in [*(_read(path, columns) for path in _parts(folder)), *pending]:
        pairs = dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))
        found |= {key: status for key, status in pairs.items() if found.get(key) != OK}
    return found


def merge(folder: Path) -> None:
    """Move what is pending into the data set; only one process at a time may do this."""
    pending = _pending(folder)
    if not pending:
        return
    parts = [(path, _read(path)) for path in _parts(folder)]
    fresh = _fresh([_read(path) for path in pending], [table for _, table in parts])
    if fresh is not None:
        schema = _schema([fresh.schema, *(table.schema for _, table in parts)])
        last = parts[-1][1] if parts and parts[-1][1].num_rows < PART_ROWS else None
        for path, table in parts:
            kept = _without(table, fresh)
            if table is last:
                _write(path, pa.concat_tables([_cast(kept, schema), _cast(fresh, schema)]))
            elif kept.num_rows < table.num_rows or not schema.equals(table.schema):
                _write(path, _cast(kept, schema))
        if last is None:
            _write(folder / "results" / f"part-{len(parts):05d}.parquet", _cast(fresh, schema))
    for path in pending:
        path.unlink()


def clean(folder: Path) -> None:
    """Remove the unfinished files of a process that died."""
    for inner in ("results", "pending"):
        sweep_temporaries(folder / inner)


def _schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of all; whole numbers widen to floats, and what else differs becomes text."""
    kinds: dict[str, list[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            kinds.setdefault(field.name, []).append(field.type)
    return pa.schema([pa.field(name, _common(name, types)) for name, types in kinds.items()])


def _common(name: str, types: Sequence[pa.DataType]) -> pa.DataType:
    try:
        one = [pa.schema([pa.field(name, kind)]) for kind in dict.fromkeys(types)]
        return pa.unify_schemas(one, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type, safe=not pa.types.is_floating(field.type))
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    schema = _schema([table.schema for table in tables])
    return pa.concat_tables([_cast(table, schema) for table in tables])


def _fresh(pending: Sequence[pa.Table], parts: Sequence[pa.Table]) -> pa.Table | None:
    """Pending rows that are to go in: each task once, and none whose success is in a part already."""
    done = {
        key
        for table in parts
        for key, status in zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)
        if status == OK
    }
    owner: dict[str, tuple[int, str]] = {}
    for index, table in enumerate(pending):
        for key, status in zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True):
            if key not in done and (key not in owner or (owner[key][1] != OK and status == OK)):
                owner[key] = (index, status)
    if not owner:
        return None
    chosen = []
    for index, table in enumerate(pending):
        mine = pa.array([key for key, (place, _) in owner.items() if place == index], pa.string())
        chosen.append(table.filter(pc.is_in(table["key"], mine)))
    return _joined(chosen)


def _without(table: pa.Table, fresh: pa.Table) -> pa.Table:
    """Rows that fresh ones do not replace: those of failures tried again, and of the same point under other code."""
    for name in ("key", "point"):
        if name in table.column_names and name in fresh.column_names:
            again = pa.array(set(fresh[name].to_pylist()), pa.string())
            table = table.filter(pc.invert(pc.is_in(table[name], again)))
    return table


def _all_rows(folder: Path, columns: list[str] | None) -> tuple[pa.Table | None, list[str]]:
    """What is in the data set and what is pending; and the names of all columns.

    Pending files are read first: one that vanishes meanwhile is in a part by then.
    """
    pending = _pending_tables(folder)
    files = [_open(path) for path in _parts(folder)]
    names = list(dict.fromkeys(name for schema in (*files, *pending) for name in _names(schema)))
    parts = [_rows(file, columns) for file in files]
    fresh = _fresh(pending, parts) if pending else None
    if fresh is not None:
        parts = [*(_without(table, fresh) for table in parts), fresh]
    return (_joined(parts) if parts else None), names


def _names(table: pa.Table | pq.ParquetFile) -> list[str]:
    return list(table.schema_arrow.names if isinstance(table, pq.ParquetFile) else table.column_names)


def _frame(table: pa.Table) -> pd.DataFrame:
    gaps = {name for name in table.column_names if table[name].null_count}
    columns = {
        name: table[name].to_pandas(types_mapper=NULLABLE.get if name in gaps else None)
        for name in table.column_names
    }
    return pd.DataFrame(columns)


def _expression(where: Mapping[str, Any]) -> ds.Expression:
    terms = [
        ds.field(name).isin(list(value))
        if isinstance(value, Collection) and not isinstance(value, str)
        else ds.field(name).is_null()
        if value is None
        else ds.field(name) == value
        for name, value in where.items()
    ]
    whole = ds.scalar(True)
    for term in terms:
        whole = whole & term
    return whole


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / "results").glob("part-*.parquet"))


def _pending(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "pending").glob("*.parquet") if not path.name.startswith("."))


def _write(path: Path, table: pa.Table) -> None:
    tagged = table.replace_schema_metadata({"netopsy_schema": str(SCHEMA)})
    write_atomic(path, lambda temporary: pq.write_table(tagged, temporary))


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise NetopsyError(f"{path}: expected Parquet written by netopsy; it cannot be read ({error})") from error
    check_schema(path, (file.schema_arrow.metadata or {}).get(b"netopsy_schema", b"").decode())
    return file


def _rows(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    names = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
    return file.read(columns=names).replace_schema_metadata(None)


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    return _rows(_open(path), columns)


def _pending_tables(folder: Path, columns: Sequence[str] | None = None) -> list[pa.Table]:
    """Of the files that are there; one that vanishes meanwhile was merged."""
    tables = []
    for path in _pending(folder):
        with suppress(FileNotFoundError):
            tables.append(_read(path, columns))
    return tables
