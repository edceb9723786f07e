"""The folder of results: any reader opens it, whoever dies while it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from netopsy._checks import NetopsyError
from netopsy.store import results
from netopsy.store.results import add_pending, clean, load_results, merge, statuses
from netopsy.store.tables import to_table


def rows(key: str, status: str = "ok", **columns: list[Any]) -> pa.Table:
    count = max((len(values) for values in columns.values()), default=1)
    return pa.table({"key": [key] * count, "status": [status] * count, **columns})


def add(folder: Path, *tables: pa.Table) -> None:
    add_pending(folder, tables)


def direct(folder: Path) -> pd.DataFrame:
    """What somebody sees who reads the Parquet files without netopsy."""
    files = sorted((folder / "results").glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files]) if files else pd.DataFrame({"key": []})


def values(folder: Path) -> list[tuple[str, Any]]:
    frame = load_results(folder)
    return sorted(zip(frame.key, frame.value.tolist(), strict=True))


def test_merging_moves_each_row_once_and_again_changes_nothing(tmp_path: Path) -> None:
    add(tmp_path, rows("a", value=[1, 2]), rows("b", value=[3]))
    assert values(tmp_path) == [("a", 1), ("a", 2), ("b", 3)]  # those pending are seen
    merge(tmp_path)
    assert not list((tmp_path / "pending").iterdir())
    before = (tmp_path / "results" / "part-00000.parquet").read_bytes()
    add(tmp_path, rows("a", value=[1, 2]))  # as after a crash between the write and the removal
    merge(tmp_path)
    merge(tmp_path)
    assert values(tmp_path) == [("a", 1), ("a", 2), ("b", 3)]
    assert (tmp_path / "results" / "part-00000.parquet").read_bytes() == before


class Crash(BaseException):
    """A process that ends here."""


@pytest.mark.parametrize("part_rows", [2, 4, 100])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    monkeypatch.setattr(results, "PART_ROWS", part_rows)

    def steps(folder: Path, stop: int) -> int:
        """Add, merge, fail, retry, widen; crash at the `stop`-th change of the folder; the number of changes."""
        left = [stop]

        def counted(method: Callable[..., Any], after: bool) -> Callable[..., Any]:
            def inner(path: Path, *args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] == 0 and not after:
                    raise Crash
                found = method(path, *args, **kwargs)
                if left[0] == 0:
                    raise Crash
                return found

            return inner

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", counted(Path.replace, after=stop % 2 == 0))
            patch.setattr(Path, "unlink", counted(Path.unlink, after=stop % 2 == 0))
            work(folder)
        return stop - left[0]

    def work(folder: Path) -> None:
        known = statuses(folder)
        for key, table in wanted.items():
            if key not in known:
                add(folder, failed if key == "c" else table)
                merge(folder)
                check(folder)
        if statuses(folder)["c"] != "ok":
            add(folder, wanted["c"])
        merge(folder)
        check(folder)

    def check(folder: Path) -> None:
        seen = Counter(direct(folder).get("key", pd.Series(dtype=str)))
        assert all(count == (2 if key in "bc" and key != "c" else 1) for key, count in seen.items()), seen

    wanted = {
        "a": rows("a", value=[1]),
        "b": rows("b", value=[2, 3]),
        "c": rows("c", value=[4], more=["new"]),
        "d": rows("d", value=[0.5]),
        "e": rows("e", value=[6]),
    }
    failed = rows("c", "exception", reason=["why"])
    total = steps(tmp_path / "undisturbed", 10**6)
    expected = [("a", 1), ("b", 2), ("b", 3), ("c", 4), ("d", 0.5), ("e", 6)]
    assert values(tmp_path / "undisturbed") == expected
    assert total > 20
    for stop in range(1, total + 1):
        folder = tmp_path / str(stop)
        with pytest.raises(Crash):
            steps(folder, stop)
        clean(folder)
        if list(folder.glob("*/*")):
            frame = load_results(folder)
            assert not frame.duplicated(["key", "value"]).any()
        check(folder)
        work(folder)
        assert values(folder) == expected, stop
        assert sorted(path.name for path in folder.glob("*/.*")) == []


def test_columns_are_joined_and_widened(tmp_path: Path) -> None:
    add(tmp_path, rows("a", whole=[1], mixed=[1], text=["x"], nothing=[None], flag=[True]))
    merge(tmp_path)
    add(tmp_path, rows("b", whole=[0.5], mixed=["y"], new=[7], nothing=[1.5]))
    merge(tmp_path)
    for frame in (load_results(tmp_path), direct(tmp_path)):
        frame = frame.set_index("key")
        assert frame.whole.tolist() == [1.0, 0.5]
        assert frame.mixed.tolist() == ["1", "y"]
        assert frame.text.isna().tolist() == [False, True]
        assert frame.nothing.tolist()[1] == 1.5
    frame = load_results(tmp_path)
    assert (frame.new.dtype, frame.flag.dtype) == ("Int64", "boolean")
    assert frame.new.tolist() == [pd.NA, 7]


def test_a_failure_is_replaced_by_a_success_and_never_the_reverse(tmp_path: Path) -> None:
    add(tmp_path, rows("a", "exception", value=[None]))
    merge(tmp_path)
    assert statuses(tmp_path) == {"a": "exception"}
    add(tmp_path, rows("a", value=[1, 2]))
    assert statuses(tmp_path) == {"a": "ok"}
    assert values(tmp_path) == [("a", 1), ("a", 2)]
    merge(tmp_path)
    add(tmp_path, rows("a", "exception", value=[None]))
    assert statuses(tmp_path) == {"a": "ok"}
    assert values(tmp_path) == [("a", 1), ("a", 2)]
    merge(tmp_path)
    assert values(tmp_path) == [("a", 1), ("a", 2)]


def test_of_two_failures_the_later_one_stays(tmp_path: Path) -> None:
    add(tmp_path, rows("a", "diverged", value=[1]))
    merge(tmp_path)
    add(tmp_path, rows("a", "out of memory", value=[2]))
    assert statuses(tmp_path) == {"a": "out of memory"}
    assert values(tmp_path) == [("a", 2)]
    merge(tmp_path)
    assert statuses(tmp_path) == {"a": "out of memory"}


def test_pandas_polars_and_duckdb_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PART_ROWS", 2)
    for index in range(5):
        add(tmp_path, rows(f"k{index}", value=[index + 0.5], **({"late": ["x"]} if index > 2 else {})))
        merge(tmp_path)
    add(tmp_path, rows("k5", value=[6], late=["y"]))
    merge(tmp_path)
    assert len(list((tmp_path / "results").iterdir())) == 3
    pattern = str(tmp_path / "results" / "*.parquet")
    expected = load_results(tmp_path).sort_values("key").reset_index(drop=True)
    for frame in (
        pd.read_parquet(tmp_path / "results"),
        pl.read_parquet(pattern).to_pandas(),
        duckdb.sql(f"select * from '{pattern}'").df(),
        ds.dataset(tmp_path / "results").to_table().to_pandas(),
    ):
        found = frame.sort_values("key").reset_index(drop=True)[expected.columns.tolist()]
        found = found.astype({"late": object}).where(found.notna(), None)
        pd.testing.assert_frame_equal(found, expected.astype({"late": object}).where(expected.notna(), None))


def test_a_part_with_enough_rows_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PART_ROWS", 2)
    add(tmp_path, rows("a", value=[1, 2, 3]))
    merge(tmp_path)
    first = tmp_path / "results" / "part-00000.parquet"
    changed = first.stat().st_mtime_ns
    for key in "bcd":
        add(tmp_path, rows(key, value=[1]))
        merge(tmp_path)
    assert first.stat().st_mtime_ns == changed
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "results").iterdir())]
    assert sizes == [3, 2, 1]


def filled(folder: Path) -> None:
    add(
        folder,
        *(
            rows(key, width=[width], data=[data], note=[note])
            for key, width, data, note in (("a", 16, "x", None), ("b", 32, "y", "n"), ("c", 64, "x", "n"))
        ),
    )


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({"width": 32}, "b"),
        ({"data": "x"}, "ac"),
        ({"data": "x", "width": (16, 32)}, "a"),
        ({"width": np.array([16, 64]).tolist()}, "ac"),
        ({"width": range(30, 70)}, "bc"),
        ({"note": None}, "a"),
        ({"width": []}, ""),
        (ds.field("width") > 16, "bc"),
        (None, "abc"),
    ],
)
def test_where_picks_rows(tmp_path: Path, where: Any, keys: str, merged: bool) -> None:
    filled(tmp_path)
    if merged:
        merge(tmp_path)
    frame = load_results(tmp_path, where=where, columns=["data", "key"])
    assert "".join(frame.key) == keys
    assert list(frame) == ["data", "key"]


def test_a_column_that_does_not_exist_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(NetopsyError, match=r"no column 'widht'; did you mean width\?; it has key, status, width"):
        load_results(tmp_path, columns=["widht"])
    with pytest.raises(NetopsyError, match=r"no column 'dat'; did you mean data or"):
        load_results(tmp_path, where={"dat": 1})
    with pytest.raises(NetopsyError, match=r"where: .*No match for FieldRef.*nowhere"):
        load_results(tmp_path, where=ds.field("nowhere") > 1)


def test_a_filter_of_another_type_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(NetopsyError, match="where: expected a filter that fits the columns' types; got"):
        load_results(tmp_path, where={"width": "x"})
    with pytest.raises(NetopsyError, match="where: expected a filter that fits"):
        load_results(tmp_path, where={"width": ["x", "y"]})
    with pytest.raises(NetopsyError, match="where: expected a filter that fits"):
        load_results(tmp_path, where={"width": object()})


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"expected a folder of results .* it has none; pass the folder"):
        load_results(tmp_path / "nowhere")
    assert statuses(tmp_path) == {}


def test_results_of_a_newer_version_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    part = tmp_path / "results" / "part-00000.parquet"
    part.parent.mkdir()
    pq.write_table(rows("a").replace_schema_metadata({"netopsy_schema": "99"}), part)
    with pytest.raises(NetopsyError, match="schema 99, this netopsy reads up to 1; upgrade"):
        load_results(tmp_path)
    pq.write_table(rows("a"), part)
    with pytest.raises(NetopsyError, match="it has no schema version"):
        load_results(tmp_path)
    part.write_bytes(b"PAR1 half of it")
    with pytest.raises(NetopsyError, match=r"part-00000.parquet: expected Parquet written by netopsy; it cannot be"):
        load_results(tmp_path)
    with pytest.raises(NetopsyError, match="cannot be read"):
        statuses(tmp_path)


def test_a_pending_file_that_vanishes_while_it_is_read_is_in_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (("a", 1), ("b", 2)):
        add(tmp_path, rows(key, value=[value]))
    read = results._read

    def merged_first(path: Path, *args: Any) -> pa.Table:
        monkeypatch.setattr(results, "_read", read)
        merge(tmp_path)
        return read(path, *args)

    monkeypatch.setattr(results, "_read", merged_first)
    assert values(tmp_path) == [("a", 1), ("b", 2)]
    add(tmp_path, rows("c", value=[3]))
    monkeypatch.setattr(results, "_read", merged_first)
    assert statuses(tmp_path) == {"a": "ok", "b": "ok", "c": "ok"}


def test_unfinished_files_are_removed_and_read_by_nobody(tmp_path: Path) -> None:
    filled(tmp_path)
    merge(tmp_path)
    for inner in ("results", "pending"):
        (tmp_path / inner / f".part.parquet.{'0' * 16}").write_bytes(b"PAR1")
    assert len(load_results(tmp_path)) == len(pd.read_parquet(tmp_path / "results")) == 3
    clean(tmp_path)
    assert not list(tmp_path.glob("*/.*"))


def test_what_a_task_returns_becomes_a_table() -> None:
    assert to_table({"a": np.float32(0.5), "b": torch.tensor(2)}).to_pylist() == [{"a": 0.5, "b": 2}]
    assert to_table([{"a": 1}, {"b": "x"}]).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    frame = pd.DataFrame({"kind": pd.Categorical(["u", "v"]), "text": pd.array(["p", None], "string")})
    table = to_table(frame)
    assert table.schema.types == [pa.string(), pa.string()]
    assert table.to_pylist() == [{"kind": "u", "text": "p"}, {"kind": "v", "text": None}]
    assert to_table([]).num_rows == 0
    small = to_table(pd.DataFrame({"a": np.zeros(1, np.float16), "b": np.zeros(1, np.uint8)}))
    assert small.schema.types == [pa.float32(), pa.int64()]


def test_large_whole_numbers_beside_fractions_are_rounded(tmp_path: Path) -> None:
    add(tmp_path, rows("a", value=[2**60 + 1]))
    add(tmp_path, rows("b", value=[0.5]))
    merge(tmp_path)
    assert values(tmp_path) == [("a", float(2**60)), ("b", 0.5)]


def test_what_no_table_can_hold_is_refused() -> None:
    with pytest.raises(
        NetopsyError, match="expected a mapping, a list of mappings or a DataFrame; it returned float"
    ):
        to_table(1.0)
    with pytest.raises(NetopsyError, match="expected columns of one type each"):
        to_table([{"a": 1.0}, {"a": "text"}])
    with pytest.raises(NetopsyError, match="expected columns of one type each"):
        to_table({"a": object()})
    with pytest.raises(NetopsyError, match="column names that are strings and differ; got"):
        to_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(NetopsyError, match="column names that are strings and differ; got"):
        to_table({1: 2})
    for value in (np.zeros(2), [1, 2], {"b": 1}, b"bytes"):
        with pytest.raises(NetopsyError, match="numbers, text, truth values or times; column 'a' holds"):
            to_table({"a": value})
    with pytest.raises(NetopsyError, match="expected columns of one type each"):
        to_table({"a": 2**63})
