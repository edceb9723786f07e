"""The command line: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import netopsy
from netopsy import _cli_output as show
from netopsy._checks import NetopsyError
from netopsy._cli_heatmap import print_result
from netopsy._cli_options import Compare, Demo, Inspect, Match, Plan, Report, Study, Sweep, Train, Version
from netopsy._cli_output import bars, errors, loading, pace, print_bullets, print_json, print_table, say, task
from netopsy._cli_parse import parse, spoken
from netopsy.training.config import FitConfig

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

WELCOME = """\
Where to start:
  netopsy demo                          train a small network, probe it, see what is found: seconds

Your own:
  netopsy train runs/first              train a network and keep its checkpoints
  netopsy inspect runs/first            probe it, and write a report
  netopsy compare runs/first runs/more  say where networks differ

More: netopsy --help, netopsy COMMAND --help"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    console, command = errors(), None
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        if command is None:
            print(f"{netopsy.__doc__}\n\n{WELCOME}", file=sys.stderr)
            return BAD_INPUT
        RUN[type(command)](command, console)
        sys.stdout.flush()
    except NetopsyError as error:
        console.print(Text.assemble(("error: ", "bold red"), spoken(str(error), command)), soft_wrap=True)
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
    with bars(console) as progress:
        say(progress, "starting")
        with loading():
            from netopsy.studies import demo

        made = demo.run(
            options.out or Path("runs") / f"demo-{options.data}",
            data=options.data,
            seed=options.seed,
            epochs=options.epochs,
            overwrite=options.overwrite or options.out is None,
            training=task(progress, "training, epochs"),
            probing=task(progress, "probing, test examples"),
        )
    print_result(made.result)
    print()
    print_table({what: path for what, path in made.files.items() if what != "report"})
    print()
    print_bullets(made.sentences)
    print()
    print(f"The report: {made.files['report']}")


def _train(options: Train, console: Console) -> None:
    config = FitConfig(**asdict(options.training))
    what = _chosen(options, "model", "depth", "width", "data")
    with bars(console) as progress:
        say(progress, "reading data, building the network")
        with loading():
            from netopsy.commands import train

        if options.dry_run:
            found = train.planned(config, **what)
        else:
            tell = task(progress, "training, epochs")
            run = train.train(options.out, config, overwrite=options.overwrite, progress=tell, **what)
            found = train.summary(run, options.out)
    (print_json if options.json else print_table)(found)


def _inspect(options: Inspect, console: Console) -> None:
    asked = _chosen(options, "sites", "draws", "stop", "precision", "tolerance", "epsilon", "seed")
    asked["checkpoints"] = "all" if options.checkpoints == ("all",) else options.checkpoints
    dry = options.dry_run or isinstance(options, Plan)
    with bars(console) as progress:
        say(progress, "reading the run and its data")
        with loading():
            from netopsy.commands import inspect

        subject = inspect.subject(options.run, **_chosen(options, "model", "init", "final", "data", "out"))
        probes, skipped = inspect.chosen(subject, options.probes)
        if dry or show.is_watched(console):
            say(progress, "planning")
            costs = inspect.planned(subject, probes, asked)
            probes = tuple(costs)
            if not dry:
                console.print(show.plan_table(costs, skipped))
        findings = {}
        for probe in () if dry else probes:
            say(progress, f"{probe.name}: preparing")
            findings[probe.name] = probe.run(subject, asked, task(progress, f"{probe.name}, {probe.counts}"))
    if dry:
        if options.json:
            print_json({"probes": {probe.name: cost.to_dict() for probe, cost in costs.items()}, "skipped": skipped})
        else:
            print(show.plan_lines(costs, skipped))
        return
    if not options.json:
        for finding in findings.values():  # before the report, which may fail
            show.print_finding(finding)
    with bars(console) as progress:
        say(progress, "writing the report")
        with loading():
            from netopsy.commands import report

        page = report.report([subject.home]).path
    if options.json:
        found = {name: finding.to_dict() for name, finding in findings.items()}
        print_json({"probes": found, "skipped": skipped, "report": str(page)})
    else:
        print_table({**show.files_of(findings), "report": page})


def _report(options: Report, console: Console) -> None:
    if not options.runs:
        raise NetopsyError("report: expected RUN…, the folders of one or more runs; got none")
    with bars(console) as progress:
        say(progress, "writing the report")
        with loading():
            from netopsy.commands import report

        made = report.report(options.runs, out=options.out)
    if options.json:
        print_json({"sentences": list(made.sentences), "report": str(made.path)})
        return
    print_bullets(made.sentences)
    print()
    print(made.path)


def _compare(options: Compare, console: Console) -> None:
    if len(options.runs) < 2:
        got = " ".join(map(str, options.runs)) or "none"
        raise NetopsyError(f"compare: expected RUN RUN…, the folders of two or more runs; got {got}")
    with bars(console) as progress:
        say(progress, "comparing")
        with loading():
            from netopsy.commands import compare, probes

        made = compare.compare(options.runs, **_chosen(options, "split", "sharpness", "out"))
    if options.json:
        ranking = made.measures.ranking
        measures = {
            "rows": probes.plain_rows(made.measures.table),
            "ranking": None if ranking is None else probes.plain_rows(ranking),
            "cautions": list(made.measures.cautions),
        }
        rows = probes.plain_rows(made.comparison.to_frame())
        print_json({"rows": rows, "measures": measures, "comparison": str(made.path)})
        return
    print(made.comparison)
    print()
    print(made.measures)
    print()
    print(made.path)


def _match(options: Match, console: Console) -> None:
    if len(options.runs) != 2:
        got = " ".join(map(str, options.runs)) or "none"
        raise NetopsyError(f"match: expected RUN_A RUN_B, the folders of two runs; got {got}")
    with bars(console) as progress:
        say(progress, "reading the runs and their data")
        with loading():
            from netopsy.commands import match, probing

        asked = _chosen(options, "sites", "other_sites", "model", "other_model", "data", "split", "out")
        made = match.match(options.runs, **asked, progress=partial(task, progress))
    if options.json:
        tables = {"layers": made.layers, "units": made.match.to_frame(), "winners": made.ranks.to_frame()}
        files = {what: str(path) for what, path in made.files.items()}
        rows = {what: probing.plain_rows(table) for what, table in tables.items()}
        print_json({**rows, "sentences": list(made.sentences), "files": files, "report": str(made.path)})
        return
    print(made)
    print()
    print_bullets(made.sentences)
    print()
    print_table({**made.files, "report": made.path})


def _sweep(options: Sweep, console: Console) -> None:
    first, *rest = options.target or ("",)
    status = first == "status" and len(rest) <= 1
    if not status and (rest or not first):
        got = " ".join(options.target) or "nothing"
        raise NetopsyError(f"sweep: expected pkg.mod:sweep, or status [FOLDER or pkg.mod:sweep]; got {got}")
    with bars(console) as progress:
        say(progress, "counting what is done")
        with loading():
            from netopsy.commands import sweeps

        if status:
            states = sweeps.statuses(rest[0] if rest else None, options.out)
            lines = "\n\n".join(map(str, states))
            found: Any = [sweeps.plain(state) for state in states]
        else:
            sweep = sweeps.find_sweep(first)
            folder = options.out or sweeps.home(sweep)
            if options.dry_run:
                state = sweeps.state(sweep, options.out)
                lines = f"{state}\n\n{sweeps.described(sweep)}"
            else:
                how = _chosen(options, "jobs", "threads", "retry")
                state = sweeps.run(sweep, folder, progress=partial(pace(progress), sweep.name), **how)
                lines = f"{state}\n{folder / 'results'}"
            found = sweeps.plain(state)
    print_json(found) if options.json else print(lines)


def _study(options: Study, console: Console) -> None:
    folder = options.out or Path("runs") / options.paper
    with bars(console) as progress:
        say(progress, "starting")
        with loading():
            from netopsy.commands import studies

        how = _chosen(options, "preset", "seeds", "jobs", "retry")
        if options.claims is not None:
            how["claims"] = options.claims
        drawing = partial(say, progress, "drawing")
        found = studies.run(options.paper, folder, report=pace(progress), drawing=drawing, **how)
    for line in found:
        print(line)


def _version(options: Version, console: Console) -> None:
    print(netopsy.__version__)


RUN: Mapping[type, Callable[[Any, Console], None]] = {
    Demo: _demo,
    Train: _train,
    Inspect: _inspect,
    Plan: _inspect,
    Report: _report,
    Compare: _compare,
    Match: _match,
    Sweep: _sweep,
    Study: _study,
    Version: _version,
}


def _chosen(options: object, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


if __name__ == "__main__":
    sys.exit(main())
