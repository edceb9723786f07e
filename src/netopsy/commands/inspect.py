"""Probe a run, or anybody's model: which probes apply, what they will cost, and what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netopsy._checks import NetopsyError, near
from netopsy._identity import digest
from netopsy._storage import read_json
from netopsy.commands.inputs import (
    DATA,
    function,
    pretrained,
    probed_splits,
    read_data,
    recorded_factory,
    trained_factory,
)
from netopsy.commands.next_labels import next_labels
from netopsy.commands.probes import PROBES, Cost, OneModel, Options, Probe, Subject
from netopsy.commands.train_data import trained_on
from netopsy.network.pretrained_folders import is_causal
from netopsy.network.trajectory import Trajectory


def subject(
    run: Path | None,
    *,
    model: str | None,
    init: Path | None,
    final: Path | None,
    data: str | None,
    out: Path | None,
) -> Subject:
    """Open a run folder, with its own model and data or those named; or a model and two checkpoints.

    Two folders that `save_pretrained` wrote need no model: the fine-tuned one's configuration names it. Where that is
    a causal language model, its labels are moved: see `next_labels`.

    Raises:
        NetopsyError: when something is missing, and where it must come from.
    """
    if run is None:
        own = model is None and final is not None and not final.is_file()
        given = {"model": final if own else model, "init": init, "final": final, "data": data}
        missing = [f"--{name}" for name, value in given.items() if value is None]
        if missing or init is None or final is None or data is None:
            raise NetopsyError(
                f"inspect: expected RUN, or --model, --init, --final and --data; missing {', '.join(missing)}"
            )
        folder = out or Path("runs") / "inspected" / _name_of(model, init, final)
        if model is None:
            trajectory: Trajectory = OneModel.from_states(*pretrained(init, final))
            splits = next_labels(read_data(data)) if is_causal(final) else read_data(data)
        else:
            trajectory = OneModel.from_files(function("model", model), initial=init, final=final)
            splits = read_data(data)
        return _subject(trajectory, splits, {}, folder=folder, home=folder)
    if final is not None:
        raise NetopsyError("inspect: expected RUN, or --model, --init, --final and --data; got RUN and --final")
    if not run.is_dir():
        raise NetopsyError(f"inspect: expected the folder of a run; there is no folder {run}")
    manifest = read_json(run / "manifest.json") if (run / "manifest.json").is_file() else {}
    factory, name = recorded_factory(manifest), _entry(manifest, "about", "data")
    if model is not None:
        factory = function("model", model)
    needed = [] if factory is not None else ["--model pkg.mod:factory" + _was(_entry(manifest, "factory", "call"))]
    needed += [] if data is not None or name in DATA else ["--data NAME or pkg.mod:loader" + _was(name)]
    if factory is None or needed:
        raise NetopsyError(
            f"{run}: only netopsy's own models and data are loaded because a folder says so; pass "
            f"{' and '.join(needed)}"
        )
    trajectory = OneModel.from_folder(trained_factory(factory, manifest), run, initial=init)
    given = read_data(str(name) if data is None else data)
    return _subject(trajectory, given, manifest, folder=out or run / "results", home=out or run)


def _subject(trajectory: Trajectory, data: Any, manifest: Mapping[str, Any], *, folder: Path, home: Path) -> Subject:
    train, why = trained_on(data, manifest)
    return Subject(
        trajectory=trajectory, data=probed_splits(data), folder=folder, home=home, train=train, no_train=why
    )


def _name_of(model: str | None, init: Path, final: Path) -> str:
    """Of the folder of results: another one for other networks, whose report would else hold them all."""
    key = digest({"model": model, "init": str(init.resolve()), "final": str(final.resolve())})
    return f"{final.resolve().stem}-{key[:8]}"


def _entry(manifest: Mapping[str, Any], part: str, name: str) -> str | None:
    inner = manifest.get(part)
    value = inner.get(name) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else None


def _was(name: str | None) -> str:
    return f" (it was {name})" if name else ""


def chosen(subject: Subject, names: Sequence[str]) -> tuple[tuple[Probe, ...], dict[str, str]]:
    """The probes that were named, or all that apply; and why each of the others does not.

    Raises:
        NetopsyError: for an unknown name, a named probe that does not apply, or when none does.
    """
    known = [probe.name for probe in PROBES]
    for name in names:
        if name not in known:
            raise NetopsyError(f"probes: expected some of {', '.join(known)}; got {name!r}{near(name, known)}")
    asked = [probe for probe in PROBES if probe.name in names or not names]
    reasons = {probe.name: probe.applies(subject) for probe in asked}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    if skipped and (names or len(skipped) == len(asked)):
        told = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise NetopsyError(f"probes: expected probes that apply to this network; {told}")
    return tuple(probe for probe in asked if probe.name not in skipped), skipped


def planned(subject: Subject, probes: Sequence[Probe], options: Options) -> dict[Probe, Cost]:
    """What each probe will cost, cheapest first; but those that add others' results to their own come last."""
    names = {probe.name for probe in probes}
    costs = [(probe, probe.plan(subject, options)) for probe in probes]
    return dict(sorted(costs, key=lambda pair: (not names.isdisjoint(pair[0].after), pair[1].seconds)))
