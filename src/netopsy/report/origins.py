"""Where a result's numbers come from, and the call that measures them again: the same fold for each unit probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netopsy.report.blocks import Code, Facts, Fold


def origins(
    p: Mapping[str, Any], function: str, options: Sequence[str], given: Sequence[str] = (), *, of: str = "model"
) -> Fold:
    """Data, engine, seed, time and versions, and the call.

    Args:
        p: provenance of the result.
        function: of `netopsy`, that measured it.
        options: arguments that the provenance holds under their own names; those it does not have are left out.
        given: further arguments, as code.
        of: name of the first argument: a model, or a trajectory.
    """
    examples = "examples" if p.get("examples") is None else f"{p['examples']:,} examples"
    reasons = p.get("engine_reasons") or []
    rows = [("data", f"{examples}, fingerprint {p['data']}, torch {p['torch']}")]
    if "engine" in p:
        rows.append(("engine", p["engine"] + (f" ({'; '.join(reasons)})" if reasons else "")))
    if "stop" in p:
        rows.append(("stopping", p["stop"]))
    rows += [("seed", str(p["seed"])), ("time", f"{p['seconds']:,.1f} s"), ("netopsy", p["netopsy"])]
    lines = [f"{of},", "data,", *(f"{name}={p[name]!r}," for name in options if name in p)]
    lines += [f"{argument}," for argument in given]
    body = "".join(f"    {line}\n" for line in lines)
    return Fold(
        title="Where these numbers come from, and how to repeat them",
        blocks=(
            Facts(rows=tuple(rows)),
            Code(title="Python, with the sites= that were asked for, if any", text=f"netopsy.{function}(\n{body})"),
        ),
    )
