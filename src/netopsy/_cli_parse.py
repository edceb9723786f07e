"""Words of the command line -> a command; and messages in its words."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import tyro

import netopsy
from netopsy._checks import NetopsyError, near
from netopsy._cli_options import Command

COMMANDS: tuple[str, ...] = tuple(get_args(part)[1].name for part in get_args(Command))

PLAIN = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
"""No `--no-overwrite`, and no option whose value may be the word None: leaving it out says the same."""


def parse(arguments: Sequence[str]) -> Any:
    """The command with its options; None where nothing was asked.

    Raises:
        NetopsyError: for a word that is no command or option.
        SystemExit: for help, and for values that cannot be read: tyro has said why.
    """
    if not arguments:
        return None
    first = arguments[0]
    if not first.startswith("-") and first not in COMMANDS:
        raise NetopsyError(f"command: expected one of {', '.join(COMMANDS)}; got {first!r}{near(first, COMMANDS)}")
    if first in COMMANDS:
        _check_options(first, arguments[1:])
    try:
        command, unknown = tyro.cli(
            Command,
            prog="netopsy",
            args=arguments,
            description=netopsy.__doc__,
            return_unknown_args=True,
            config=PLAIN,
        )
    except SystemExit:
        sys.stdout.flush()  # whoever reads the help may have enough of it: said here, not at the end of Python
        raise
    if unknown:
        raise NetopsyError(f"{first}: unknown {unknown[0]!r}; see netopsy {first} --help")
    return command


def _check_options(name: str, words: Sequence[str]) -> None:
    """Refuse unknown options first: tyro would take what follows one for something else, and complain of that."""
    [kind] = [get_args(part)[0] for part in get_args(Command) if get_args(part)[1].name == name]
    known = ["--help", *(f"--{option.replace('_', '-')}" for option in _options(kind))]
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known:
            hint = near(option, known) or f"; see netopsy {name} --help"
            raise NetopsyError(f"{name}: unknown {word.partition('=')[0]!r}{hint}")


def _options(command: Any) -> list[str]:
    """Names of a command's options, those of parts included; of its class or of one that was given."""
    names: list[str] = []
    for field in fields(command) if is_dataclass(command) else ():
        names += _options(field.default) if is_dataclass(field.default) else [field.name]
    return names


def spoken(message: str, command: object) -> str:
    """A message as the command line says it: `--overwrite` where Python has `overwrite=True`."""

    def option(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in _options(command) else match[0]

    return re.sub(r"\b(\w+)=True\b(?: \(--[a-z-]+\))?", option, message)
