"""What a value or a piece of code is, in a form that can be written down, compared and hashed."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import netopsy
from netopsy._checks import NetopsyError

RESULTS = ("cli", "_cli_options", "commands", "plots", "report", "store", "studies", "_storage")
"""Rooms whose code decides no number: they call, keep and show. They count for functions of their own."""


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
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, Path):
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
        return {"type": _reference(type(value))} | {f.name: canonical(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, functools.partial):
        kwargs = canonical(value.keywords)
        return {"call": _reference(value.func), "args": canonical(value.args), "kwargs": kwargs}
    if callable(value):
        return {"call": _reference(value)}
    if isinstance(number := getattr(value, "item", lambda: None)(), bool | int | float):
        return number  # a numpy number
    raise NetopsyError(
        f"configuration: expected numbers, strings, dataclasses, functions of a module and containers of these; got "
        f"{type(value).__name__}, which cannot be told from another one; leave it out, or name it by a string"
    )


def digest(value: object) -> str:
    """Hash of a value's canonical form: 32 hexadecimal digits.

    >>> digest((1, 2)) == digest([1, 2]) != digest([1, 2.0])
    True
    """
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_version(*functions: Callable[..., object]) -> str:
    """Hash of the code that decides what functions return: 16 hexadecimal digits.

    Counted are the modules the functions are defined in, and what these import, directly or not, of their own package
    and of netopsy, but for netopsy's rooms that only call, keep or show (see `RESULTS`). Comments, docstrings and
    layout do not count. Versions of other packages do not: results record them beside.

    Raises:
        NetopsyError: for a function whose source is not in a file.
    """
    start = [_module_of(function) for function in functions]
    packages = {name.partition(".")[0] for name in start} | {"netopsy"}
    rooms = {name.split(".")[1] for name in start if name.startswith("netopsy.")}
    sources: dict[str, str] = {}
    waiting = [*start]
    while waiting:
        name = waiting.pop()
        path = None if name in sources or name == "netopsy" else _source(name)
        if path is None:
            continue
        sources[name], imported = _read(name, str(path), path.stat().st_mtime_ns)
        if not name.startswith("netopsy.") and "netopsy" in imported:
            imported += tuple(netopsy._HOMES.values())  # its names are looked up when they are used
        for other in imported:
            parts = other.split(".")
            shows = parts[0] == "netopsy" and len(parts) > 1 and parts[1] in RESULTS and parts[1] not in rooms
            if parts[0] in packages and not shows:
                waiting.append(other)
    if not sources:
        raise NetopsyError(f"code: expected functions defined in files; got {functions}")
    text = "\n".join(f"{name} {sources[name]}" for name in sorted(sources))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _module_of(function: Callable[..., object]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", type(function).__module__))


def _reference(value: Any) -> str:
    """`module:name` of a function or class that a module holds under that name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or "<" in name:
        raise NetopsyError(
            f"configuration: expected a function or class defined at the top of a module; got {value!r}; give it a "
            "name there, and bind its arguments with functools.partial"
        )
    return f"{module}:{name}"


def _source(name: str) -> Path | None:
    """The file of a module; None for what is built in, or no module but a name in one."""
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if origin is None and name != "__main__":
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        origin = spec.origin if spec else None
    path = Path(origin) if origin else None
    return path if path and path.suffix == ".py" and path.is_file() else None


@functools.lru_cache(maxsize=1024)
def _read(name: str, path: str, changed: int) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's syntax tree without docstrings; the modules that it imports, anywhere in it."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    package = name if Path(path).name == "__init__.py" else name.rpartition(".")[0]
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
