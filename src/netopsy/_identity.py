"""What a value or a piece of code is, in a form that can be written down, compared and hashed."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path, PurePath
from typing import Any

import numpy as np

import netopsy
from netopsy._checks import NetopsyError

RESULTS = (
    "cli", "_cli_heatmap", "_cli_options", "_cli_output", "_cli_parse", "commands", "plots", "report", "store",
    "studies", "_storage",
)  # fmt: skip
"""Rooms whose code decides no number: they call, keep and show. They count for functions of their own."""

INSTALLED = (sysconfig.get_path("stdlib"), "site-packages", "dist-packages")
"""Where modules lie that nobody edits: their version says what they are."""


def canonical(value: object) -> Any:
    """A value as JSON: equal configurations give equal text, in every process and on every machine.

    Takes numbers, strings, None, paths, enumerations, sequences, sets, mappings with string keys, dataclasses,
    functions and classes that a module holds under their name, and `functools.partial` of these.

    Raises:
        NetopsyError: for anything else, such as a lambda, whose text does not tell it from another.

    >>> canonical({"b": (1, 2.5), "a": Path("x")})
    {'a': 'x', 'b': [1, 2.5]}
    >>> canonical(functools.partial(canonical, value=0))
    {'call': 'netopsy._identity:canonical', 'args': [], 'kwargs': {'value': 0}}
    """
    if isinstance(value, Enum):
        return canonical(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str)]
        if strange:
            raise NetopsyError(f"configuration: expected mappings with string keys; got the key {strange[0]!r}")
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, Set):
        return sorted((canonical(item) for item in value), key=repr)
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: canonical(getattr(value, field.name)) for field in fields(value)}
        return {"type": _reference(type(value)), "fields": held}
    if isinstance(value, functools.partial):
        kwargs = canonical(value.keywords)
        return {"call": _reference(value.func), "args": canonical(value.args), "kwargs": kwargs}
    if callable(value):
        return {"call": _reference(value)}
    if isinstance(value, np.generic) and isinstance(number := value.item(), bool | int | float):
        return number
    raise NetopsyError(
        f"configuration: expected numbers, strings, dataclasses, functions of a module and containers of these; got "
        f"{type(value).__name__}, which cannot be told from another one; leave it out, or name it by a string"
    )


def digest(value: object) -> str:
    """Hash of a value's canonical form: 32 hexadecimal digits.

    >>> digest((1, 2)) == digest([1, 2]) != digest([1, 2.0])
    True
    """
    text = json.dumps(canonical(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_version(*functions: Callable[..., object]) -> str:
    """Hash of the code that decides what functions return: 16 hexadecimal digits.

    Counted are the modules the functions are defined in (those bound as arguments by `functools.partial` too), and
    what these import, directly or not, of netopsy and of the folder that they are themselves imported from, but for
    netopsy's rooms that only call, keep or show (see `RESULTS`). Comments, docstrings and layout do not count. An
    installed package counts by its version, where a function is from one; results record torch's beside.

    A module that is loaded counts as it was when it was first asked for after it was loaded: an edit while a process
    works with the old code changes nothing for that process.

    Raises:
        NetopsyError: for a function whose source is not in a file.
    """
    sources: dict[str, str] = {}
    waiting: list[tuple[str, Path, str]] = []
    tops, homes, rooms = {"netopsy"}, set[Path](), set[str]()
    for function in functions_in(functions):
        name, path, package = _home(function)
        top = package.partition(".")[0] or name
        version = getattr(sys.modules.get(top), "__version__", None)
        if path is None:
            raise NetopsyError(
                f"code: expected functions defined in files; got {function!r}; define it in a module, or say the "
                "version of the code yourself (code=)"
            )
        if top == "netopsy":
            rooms.add(name.split(".")[1])
        elif _is_installed(path):
            if version is not None:
                sources[top] = str(version)
                continue
            tops.add(top)
        else:
            homes.add(_folder(top) or path.parent)
        waiting.append((name, path, package))
    hidden = {room for room in RESULTS if room not in rooms}
    seen = {"netopsy", *(name for name, _, _ in waiting)}
    folders: dict[str, Path | None] = {}
    while waiting:
        name, path, package = waiting.pop()
        text, imported = _contents(name, path, package)
        parts = name.split(".")
        if not (parts[0] == "netopsy" and parts[1] in hidden):
            sources[name] = text
        if parts[0] != "netopsy" and "netopsy" in imported:
            imported += tuple(netopsy._HOMES.values())  # its names are looked up when they are used
        for other in imported:
            if other in seen:
                continue
            seen.add(other)
            top = other.partition(".")[0]
            if top not in folders:
                folders[top] = _folder(top)
            if (top in tops or folders[top] in homes) and (found := _file(other)):
                waiting.append((other, found, _package(other, found)))
    text = "\n".join(f"{name} {sources[name]}" for name in sorted(sources))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def functions_in(value: object) -> Iterator[Callable[..., object]]:
    """The functions and classes that a value holds, bound arguments included."""
    if isinstance(value, functools.partial):
        yield from functions_in((value.func, value.args, value.keywords))
    elif isinstance(value, Mapping):
        yield from functions_in(list(value.values()))
    elif isinstance(value, Sequence | Set) and not isinstance(value, str | bytes | range):
        for item in value:
            yield from functions_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from functions_in([getattr(value, field.name) for field in fields(value)])
    elif callable(value):
        yield value


def _reference(value: Any) -> str:
    """`module:name` of a function or class that a module holds under that name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module and name and "<" not in name:
        held: Any = sys.modules.get(module)
        for part in name.split("."):
            held = getattr(held, part, None)
        if held == value or (held is None and module == "__main__"):  # a worker's __main__ is not the user's
            return f"{module}:{name}"
    raise NetopsyError(
        f"configuration: expected a function or class that a module holds under its name; got {value!r}; define it "
        "at the top of a module, and bind its arguments with functools.partial"
    )


def _home(function: Any) -> tuple[str, Path | None, str]:
    """The module of a function or class, its file, and the package that its relative imports start from."""
    name = str(getattr(function, "__module__", None) or type(function).__module__)
    if name != "__main__":
        path = _file(name)
        return name, path, _package(name, path) if path else ""
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None) or getattr(getattr(inner, "__init__", None), "__code__", None)
    space = getattr(inner, "__globals__", None) or getattr(getattr(inner, "__init__", None), "__globals__", {})
    path = Path(code.co_filename) if code else _file(name)  # in a worker, the module's file is the worker's own
    return name, path if path and path.is_file() else None, space.get("__package__") or ""


def _file(name: str) -> Path | None:
    """The file of a module; None for what is built in, or no module but a name in one. Imports nothing."""
    origin = getattr(sys.modules.get(name), "__file__", None)
    if origin is None:
        spec = _spec(name)
        origin = spec.origin if spec else None
    path = Path(origin) if origin else None
    return path if path and path.suffix == ".py" and path.is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(name)
        above = _spec(parent)
        places = above.submodule_search_locations if above else None
        return PathFinder.find_spec(name, places) if places else None
    except (ImportError, ValueError):
        return None


def _folder(top: str) -> Path | None:
    """The folder that a package or module is imported from; None for installed ones and what has none."""
    spec = _spec(top) if top else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(places[0]) if places else Path(spec.origin) if spec and spec.origin else None
    return None if path is None or _is_installed(path) else path.parent


def _is_installed(path: Path) -> bool:
    library, *names = INSTALLED
    return path.is_relative_to(library) or any(name in path.parts for name in names)


def _package(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


_LOADED: dict[str, tuple[object, tuple[str, tuple[str, ...]]]] = {}
"""Module -> what loaded it, and its contents then: of this process's code, which a file may have run ahead of."""


def _contents(name: str, path: Path, package: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's syntax tree without docstrings; the modules that it imports, anywhere in it."""
    if name not in sys.modules:
        return _read(str(path), package, path.stat().st_mtime_ns)
    loader = getattr(sys.modules[name], "__spec__", None)  # another one after a reload
    if name not in _LOADED or _LOADED[name][0] is not loader:
        _LOADED[name] = loader, _read(str(path), package, path.stat().st_mtime_ns)
    return _LOADED[name][1]


@functools.lru_cache(maxsize=4096)
def _read(path: str, package: str, changed: int) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    imported = tuple(dict.fromkeys(_imports(tree, package)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)  # a name may be a module
