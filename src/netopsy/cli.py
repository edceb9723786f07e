"""The command line: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

import netopsy
from netopsy._checks import NetopsyError
from netopsy._cli_options import Command, Demo, Study, Version

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    command = tyro.cli(Command, prog="netopsy", args=arguments, description=netopsy.__doc__)
    console = Console(stderr=True, highlight=False)
    try:
        if isinstance(command, Demo):
            _demo(command, console)
        elif isinstance(command, Study):
            _study(command, console)
        elif isinstance(command, Version):
            print(netopsy.__version__)
    except NetopsyError as error:
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        console.print("interrupted; what was written stays")
        return INTERRUPTED
    return DONE


def _demo(options: Demo, console: Console) -> None:
    from netopsy.studies import demo

    folder = options.out or Path("runs") / f"demo-{options.data}"
    with _progress(console) as progress:
        made = demo.run(
            folder,
            data=options.data,
            seed=options.seed,
            epochs=options.epochs,
            overwrite=options.overwrite or options.out is None,
            training=_task(progress, "training, epochs"),
            probing=_task(progress, "probing, test examples"),
        )
    print(made.result)
    print()
    for sentence in made.sentences:
        print(f"• {sentence}")
    print()
    width = max(map(len, made.files))
    for what, path in made.files.items():
        print(f"{what:<{width}}  {path}")


def _study(options: Study, console: Console) -> None:
    from netopsy.studies import layers, layers_pictures

    folder = options.out or Path("runs") / options.paper
    verdicts, results = layers.run(
        folder,
        preset=options.preset,
        claims=options.claims,
        seeds=options.seeds,
        report=lambda line: console.print(line, end="\r" if console.is_terminal and "epoch" in line else "\n"),
    )
    for verdict in verdicts.values():
        print(verdict)
    for path in layers_pictures.draw(results, folder / "pictures"):
        print(path)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _task(progress: Progress, description: str) -> Callable[[int, int | None], None]:
    """A callback that shows a bar from its first call on."""
    started: dict[str, object] = {}

    def advance(done: int, total: int | None) -> None:
        if not started:
            started["id"] = progress.add_task(description, total=total)
        progress.update(started["id"], completed=done, total=total)  # type: ignore[arg-type]

    return advance


if __name__ == "__main__":
    sys.exit(main())
