"""The command line: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

import netopsy
from netopsy._checks import NetopsyError
from netopsy._cli_options import Command, Demo, Inspect, Plan, Study, Sweep, Train, Version

if TYPE_CHECKING:
    from netopsy.store.keyed import Progress as Pace

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    command = tyro.cli(Command, prog="netopsy", args=arguments, description=netopsy.__doc__)
    console = Console(stderr=True, highlight=False)
    try:
        if isinstance(command, Demo):
            _demo(command, console)
        elif isinstance(command, Train):
            _train(command, console)
        elif isinstance(command, Inspect):
            _inspect(command, console)
        elif isinstance(command, Sweep):
            _sweep(command, console)
        elif isinstance(command, Study):
            _study(command, console)
        elif isinstance(command, Version):
            print(netopsy.__version__)
        sys.stdout.flush()
    except NetopsyError as error:
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        anew = isinstance(command, Demo) or (isinstance(command, Train) and command.overwrite)
        goes_on = "" if anew else ", and the same command goes on from there"
        console.print(f"interrupted; what was written stays{goes_on}")
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    _print_table(made.files)


def _train(options: Train, console: Console) -> None:
    from netopsy.commands import train

    what = _chosen(options, "model", "depth", "width", "data")
    if options.dry_run:
        _print_table(train.planned(options.fit, **what), as_json=options.json)
        return
    with _progress(console) as progress:
        run = train.train(
            options.out,
            options.fit,
            overwrite=options.overwrite,
            progress=_task(progress, "training, epochs"),
            **what,
        )
    _print_table(train.summary(run, options.out), as_json=options.json)


def _inspect(options: Inspect, console: Console) -> None:
    from netopsy.commands import inspect

    subject = inspect.subject(options.run, **_chosen(options, "model", "init", "final", "data", "out"))
    asked = _chosen(options, "sites", "draws", "stop", "precision", "tolerance", "seed")
    asked["checkpoints"] = "all" if options.checkpoints == ("all",) else options.checkpoints
    if options.dry_run or isinstance(options, Plan):
        plan = inspect.planned(subject, asked)
        print(json.dumps(plan.to_dict(), indent=2) if options.json else plan)
        return
    with _progress(console) as progress:
        result, files = inspect.inspect(subject, asked, _task(progress, "probing, examples"))
    if options.json:
        rows = json.loads(result.to_frame().to_json(orient="records"))
        paths = {what: str(path) for what, path in files.items()}
        print(json.dumps({"rows": rows, "files": paths}, indent=2))
        return
    print(result)
    print()
    _print_table(files)


def _sweep(options: Sweep, console: Console) -> None:
    from netopsy.commands import sweeps

    first, *rest = options.target or ("",)
    if first == "status" and len(rest) <= 1:
        states = sweeps.statuses(rest[0] if rest else None, options.out)
        print(
            json.dumps([sweeps.plain(s) for s in states], indent=2) if options.json else "\n\n".join(map(str, states))
        )
        return
    if rest or not first:
        got = " ".join(options.target) or "nothing"
        raise NetopsyError(f"sweep: expected pkg.mod:sweep, or status [FOLDER or pkg.mod:sweep]; got {got}")
    sweep = sweeps.find_sweep(first)
    folder = options.out or sweeps.home(sweep)
    if options.dry_run:
        state = sweeps.state(sweep, options.out)
        print(json.dumps(sweeps.plain(state), indent=2) if options.json else f"{state}\n\n{sweeps.described(sweep)}")
        return
    with _progress(console) as progress:
        tell = partial(_pace(progress), sweep.name)
        state = sweeps.run(
            sweep, folder, jobs=options.jobs, threads=options.threads, retry=options.retry, progress=tell
        )
    print(json.dumps(sweeps.plain(state), indent=2) if options.json else state)
    if not options.json:
        print(folder / "results")


def _study(options: Study, console: Console) -> None:
    from netopsy.studies import layers, layers_pictures

    folder = options.out or Path("runs") / options.paper
    with _progress(console) as progress:
        study = layers.run(
            folder,
            preset=options.preset,
            claims=options.claims,
            seeds=options.seeds,
            jobs=options.jobs,
            retry=options.retry,
            report=_pace(progress),
        )
    for verdict in study.verdicts.values():
        print(verdict)
    for path in layers_pictures.draw(study, folder / "pictures"):
        print(path)


def _chosen(options: object, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _print_table(values: Any, *, as_json: bool = False) -> None:
    """Names and what they are, one a line, numbers for the eye; as JSON, exact."""
    if as_json:
        print(json.dumps(values, indent=2, default=str))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        print(f"{name:<{width}}  {shown}")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _pace(progress: Progress) -> Callable[[str, Pace], None]:
    """A callback that shows a bar for each sweep, with its rate."""
    started: dict[str, TaskID] = {}

    def advance(name: str, pace: Pace) -> None:
        if name not in started:
            started[name] = progress.add_task(name, total=pace.total)
        speed = f"{pace.rate:.3g}/s" if pace.rate >= 1 else f"{60 * pace.rate:.3g}/min"
        failed = f", {pace.failed} failed" if pace.failed else ""
        progress.update(started[name], completed=pace.done, description=f"{name}, {speed}{failed}")

    return advance


def _task(progress: Progress, description: str) -> Callable[[int, int | None], None]:
    """A callback that shows a bar from its first call on."""
    started: dict[str, TaskID] = {}

    def advance(done: int, total: int | None) -> None:
        if not started:
            started["id"] = progress.add_task(description, total=total)
        progress.update(started["id"], completed=done, total=total)

    return advance


if __name__ == "__main__":
    sys.exit(main())
