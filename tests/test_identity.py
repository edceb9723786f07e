"""What a configuration or code is: equal ones agree in every process, different ones never do."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from netopsy import _identity
from netopsy._checks import NetopsyError
from netopsy._identity import canonical, code_version, digest, functions_in
from tests.sweeps_for_tests import Inner, Point, measure, slow


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass(frozen=True)
class Typed:
    type: str = "a"


@dataclass(frozen=True)
class Typed2:
    type: str = "a"


class Maker:
    def __init__(self, size: int) -> None:
        self.size = size

    def make(self) -> int:
        return self.size

    @classmethod
    def default(cls) -> Maker:
        return cls(1)

    def __call__(self) -> int:
        return self.size


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return -function(*args)

    return inner


def doubled(value: int) -> int:
    return 2 * value


@decorated
def negated(value: int) -> int:
    return value


CONFIG = {
    "b": (1, 2.5, None, True),
    "a": {"words": {"x", "y", "z", "ä"}, "path": Path("one/two")},
    "point": Point(number=3, inner=Inner(lr=0.3)),
    "factory": functools.partial(measure, 1, flag=True, name="n"),
}


def test_digests_agree_across_processes_whatever_the_hash_seed() -> None:
    code = "from tests.test_identity import CONFIG; from netopsy._identity import digest; print(digest(CONFIG))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {digest(CONFIG)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (range(3), (0, 1, 2)),
        ({2, 1}, frozenset([1, 2])),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (PurePosixPath("a/b"), "a/b"),
        (functools.partial(measure, a=1, b=2), functools.partial(functools.partial(measure, b=2), a=1)),
        (Point(number=1), Point(number=1, kind="plain")),
        (Maker.default, Maker.default),
    ],
)
def test_equal_values_have_equal_digests(one: object, other: object) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (1.0, True),
        ("1", 1),
        (None, "None"),
        (0.1, 0.1 + 1e-17 + 2e-17),
        ((1, 2), (2, 1)),
        ((1, (2, 3)), (1, 2, 3)),
        ({"a": 1}, {"a": 1, "b": None}),
        (Point(), Inner()),
        (Point(inner=Inner(lr=0.2)), Point(inner=Inner(lr=0.3))),
        (Typed(), Typed2()),
        (measure, slow),
        (functools.partial(measure), functools.partial(measure, None)),
        (functools.partial(measure, a=1), functools.partial(measure, a=1.0)),
        (functools.partial(measure, a=1), functools.partial(slow, a=1)),
        (functools.partial(measure, 1), functools.partial(measure, a=1)),
        (Maker, Maker.default),
    ],
)
def test_different_values_have_different_digests(one: object, other: object) -> None:
    if one == 0.1:
        other = np.nextafter(0.1, 1)
    assert digest(one) != digest(other)


def _local() -> object:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    "value",
    [
        lambda: 0,
        _local(),
        Maker(1).make,
        Maker(1),
        decorated(doubled),
        functools.partial(lambda x: x, 1),
        functools.partial(measure, key=lambda: 0),
        torch.nn.ReLU(),
        torch.relu,
        make_dataclass("Made", ["x"])(1),
    ],
)
def test_what_no_module_holds_under_its_name_is_refused(value: object) -> None:
    with pytest.raises(NetopsyError, match=r"that a module holds under its name; got .*; define it at the top"):
        canonical({"deep": [value]})


def test_a_decorated_function_is_the_one_that_its_module_holds() -> None:
    assert canonical(negated) == {"call": "tests.test_identity:negated"}


@pytest.mark.parametrize(
    "value", [np.zeros(2), np.zeros(()), torch.zeros(2), torch.zeros(()), object(), 1j, torch.int8]
)
def test_values_without_a_text_are_refused(value: object) -> None:
    with pytest.raises(NetopsyError, match=f"got {type(value).__name__}, which cannot be told from another"):
        canonical(value)


def test_mappings_need_string_keys() -> None:
    with pytest.raises(NetopsyError, match="mappings with string keys; got the key 1"):
        canonical({1: 2})


def test_functions_are_found_wherever_a_value_holds_them() -> None:
    value = {"a": [functools.partial(measure, slow, key=(doubled,)), "text", b"x"], "b": 3}
    assert list(functions_in(value)) == [measure, slow, doubled]


FILES = {
    "pkg/__init__.py": "",
    "pkg/top.py": '"""Doc."""\nfrom . import middle\nfrom .deep import low\n\n\n'
    'def run(config, runs):\n    """Doc."""\n'
    "    return middle.VALUE\n",
    "pkg/middle.py": "from pkg.deep.low import LOW\n\nVALUE = LOW + 1\n",
    "pkg/deep/__init__.py": "",
    "pkg/deep/low.py": "LOW = 1\n\n\ndef late():\n    from ..later import LATER\n\n    return LATER\n",
    "pkg/later.py": "LATER = 1\n",
    "pkg/other.py": "OTHER = 1\n",
    "beside.py": "BESIDE = 1\n",
    "alone.py": "import beside\nimport json\n\n\ndef run(config, runs):\n    return beside.BESIDE\n",
}

Version = Callable[..., str]


@pytest.fixture
def version(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Version:
    """The code's version after some of `FILES` were changed."""

    def of(changes: dict[str, str] | None = None, module: str = "pkg.top", bound: str | None = None) -> str:
        folder = tmp_path_factory.mktemp("code")
        for name, text in (FILES | (changes or {})).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            try:
                function = importlib.import_module(module).run
                if bound:
                    function = functools.partial(function, importlib.import_module(bound).run)
                return code_version(function)
            finally:
                for name in [name for name in sys.modules if name.partition(".")[0] in ("pkg", "beside", "alone")]:
                    del sys.modules[name]

    return of


def test_comments_docstrings_and_layout_do_not_count(version: Version) -> None:
    text = FILES["pkg/top.py"].replace("Doc.", "Other words.\n\nMore.") + "\n\n# a comment\n"
    text = text.replace("return middle.VALUE", "return (\n        middle.VALUE  # here\n    )")
    assert version({"pkg/top.py": text}) == version()


@pytest.mark.parametrize(
    "name", ["pkg/top.py", "pkg/middle.py", "pkg/deep/low.py", "pkg/later.py", "pkg/deep/__init__.py"]
)
def test_whatever_is_imported_counts(version: Version, name: str) -> None:
    changed = FILES[name].replace("= 1", "= 2").replace("VALUE", "OTHER") if FILES[name] else "LOW = 3\n"
    assert version({name: changed}) != version()


def test_what_is_not_imported_does_not_count(version: Version) -> None:
    assert version({"pkg/other.py": "OTHER = 2\n"}) == version()


def test_a_module_beside_a_script_counts(version: Version) -> None:
    assert version({"beside.py": "BESIDE = 2\n"}, "alone") != version(None, "alone")


def test_the_code_of_bound_arguments_counts(version: Version) -> None:
    changes = {"beside.py": "BESIDE = 2\n"}
    assert version(changes, bound="alone") != version(None, bound="alone") != version()


def test_hashing_imports_nothing(version: Version) -> None:
    loud = {"pkg/later.py": 'raise RuntimeError("imported")\n'}
    assert version(loud) != version()


def _changing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if this module's code were another."""
    contents = _identity._contents

    def other(module: str, *args: Any) -> tuple[str, tuple[str, ...]]:
        text, imported = contents(module, *args)
        return ("other" if module == name else text), imported

    monkeypatch.setattr(_identity, "_contents", other)


def test_netopsy_code_counts_for_a_package_that_imports_it(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = {"pkg/later.py": "import netopsy\nnetopsy.robustness\n"}
    one, two = version(), version(lazy)
    _changing(monkeypatch, "netopsy.engine.evaluate")
    assert version() == one
    assert version(lazy) != two


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("training.fit", True),
        ("training.epoch", True),  # reached through store/runs.py alone
        ("engine.evaluate", True),
        ("data.digits", True),
        ("studies.layers_sweeps", True),
        ("store.runs", False),
        ("store.results", False),
        ("plots.style", False),
        ("_storage", False),
        ("cli", False),
    ],
)
def test_which_rooms_decide_a_study(module: str, counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None: ...

    run.__module__ = "netopsy.studies.layers_sweeps"
    before = code_version(run)
    _changing(monkeypatch, f"netopsy.{module}")
    assert (code_version(run) != before) == counts


def test_an_edit_under_a_running_process_changes_its_version_after_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edited_module.py"
    path.write_text("def run():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("edited_module")
    before = code_version(module.run)
    path.write_text("def run():\n    return 20\n")
    assert code_version(module.run) == before
    importlib.reload(module)
    assert code_version(module.run) != before


def test_a_script_has_one_version_in_all_processes(tmp_path: Path) -> None:
    (tmp_path / "helper_of_script.py").write_text("VALUE = 1\n")
    text = (
        "from joblib import Parallel, delayed\n"
        "from netopsy._identity import canonical, code_version, digest\n"
        "import helper_of_script\n"
        "def run(config, runs):\n    return helper_of_script.VALUE\n"
        "def what():\n    return [code_version(run), digest(run)]\n"
        "if __name__ == '__main__':\n    print(what(), *Parallel(2)([delayed(what)()]), sep='\\n')\n"
    )
    (tmp_path / "script.py").write_text(text)

    def lines() -> list[str]:
        found = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return found.stdout.splitlines()

    here, there = lines()
    assert here == there
    (tmp_path / "helper_of_script.py").write_text("VALUE = 2\n")
    assert lines()[0] != here


def test_an_installed_function_counts_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_version(torch.nn.functional.relu)
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert code_version(torch.nn.functional.relu) != before


def test_functions_without_a_file_are_refused() -> None:
    space: dict[str, Any] = {"__name__": "typed_at_a_prompt"}
    exec("def run(): ...", space)
    for function in (space["run"], len):
        with pytest.raises(NetopsyError, match=r"expected functions defined in files; got .*say the version"):
            code_version(function)
