"""Results of the unit probes made up by hand: what the report and the pictures have to be able to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from netopsy.probes.ablation_result import ALL, AblationResult
from netopsy.probes.kinds import KINDS, UnitCriteria
from netopsy.probes.redundancy_result import RedundancyResult
from netopsy.probes.units_result import UnitTableResult

RUN = {
    "netopsy": "0.1.0", "torch": "2.13.0", "data": "0123456789abcdef", "examples": 360, "engine": "exported",
    "engine_reasons": [], "stop": "exact", "precision": 0.02, "tolerance": 0.05, "confidence": 0.99, "seed": 0,
    "estimand": "population", "seconds": 1.5,
}  # fmt: skip


def table(sizes: Mapping[str, int], *, kinds: Sequence[str] = KINDS, seed: int = 0) -> UnitTableResult:
    """Kinds in turn, effects at random; units without variance have no R²."""
    source, parts = np.random.default_rng(seed), []
    for site, units in sizes.items():
        kind = pd.Series([kinds[place % len(kinds)] for place in range(units)], dtype="string")
        still = kind.isin(["silent", "constant"]).to_numpy(dtype=bool)
        effect = np.where(still, 0.0, source.random(units) ** 3 / 10)
        part = {
            "site": site,
            "unit": np.arange(units),
            "activity": source.random(units),
            "mean": 1.0,
            "variance": np.where(still, 0.0, 1.0),
            "r2": np.where(still, np.nan, source.random(units)),
            "similar": pd.array([None if flat else 3 for flat in still], dtype="Int64"),
            "selectivity": 0.5,
            "effect": effect,
            "effect_low": np.maximum(effect - 0.02, 0),
            "effect_high": effect + 0.02,
            "accuracy_change": -effect / 2,
            "accuracy_change_low": -effect,
            "accuracy_change_high": 0.0,
            "logit_change": effect,
            "effect_similar": 2 * effect,
            "accuracy_change_similar": -effect,
            "kind": kind,
            "n": 360,
            "status": "ok",
        }
        parts.append(pd.DataFrame(part))
    whole = {"unit": "Int64", "n": "Int64", "site": "string", "status": "string"}
    frame = pd.concat(parts, ignore_index=True).astype(whole)
    statistics = dict.fromkeys(sizes, "ok")
    provenance = {"probe": "units", **RUN, "similar": 0.5, "statistics": statistics, "variants": len(frame)}
    return UnitTableResult(frame=frame, criteria=UnitCriteria(), provenance=provenance)


def curves(
    values: Mapping[str, Sequence[Sequence[float]]], fractions: Sequence[float], **more: Any
) -> AblationResult:
    """Of each site a list for each order; ten units a layer."""
    layers = [site for site in values if site != ALL]
    rows = [
        (site, share, order, round(share * 10 * (len(layers) if site == ALL else 1)), value)
        for site, orders in values.items()
        for order, line in enumerate(orders)
        for share, value in zip(fractions, line, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["site", "fraction", "order", "ablated", "unchanged"])
    frame = frame.assign(
        unchanged_low=frame.unchanged - 0.01, unchanged_high=frame.unchanged + 0.01, accuracy=0.9 * frame.unchanged,
        accuracy_change=0.9 * frame.unchanged - 0.9, accuracy_change_low=-1.0, accuracy_change_high=0.0, n=360,
        status=pd.array(["no-op" if off == 0 else "ok" for off in frame.ablated], dtype="string"),
    ).astype({"site": "string"})  # fmt: skip
    orders = int(frame.order.nunique())
    known = {"probe": "ablation", **RUN, "order": "random", "orders": orders, "metric": "unchanged"}
    provenance = {**known, "fractions": list(fractions), "variants": len(frame), **more}
    return AblationResult(frame=frame, units=dict.fromkeys(layers, 10), provenance=provenance)


def compressed(rows: Mapping[str, Mapping[str, Any]], **more: Any) -> RedundancyResult:
    """A row a layer; what is not said is of a layer of ten units of which five components are needed."""
    ordinary = {
        "units": 10, "components": 5, "compressibility": 0.5, "similar_per_unit": 2.0, "similar_share": 2 / 9,
        "silent": 0, "constant": 0, "samples": 360, "ridge": 1e-6, "status": "ok", "samplings": 1,
    }  # fmt: skip
    sd = dict.fromkeys(
        [f"{name}_sd" for name in ("components", "compressibility", "similar_per_unit", "similar_share")], np.nan
    )
    frame = pd.DataFrame([{"site": site, **ordinary, **sd, **row} for site, row in rows.items()])
    frame = frame.astype({"site": "string", "status": "string", "components": "Int64", "units": "Int64"})
    units = pd.DataFrame(
        [{"site": site, "sampling": 0, "unit": unit, "r2": unit / 9} for site in rows for unit in range(10)]
    )
    pairs = pd.DataFrame(
        [
            {"site": site, "sampling": 0, "low": low / 50, "high": (low + 1) / 50, "pairs": 50 - low}
            for site in rows
            for low in range(50)
        ]
    )
    known = {"level": 0.95, "similar": 0.5, "convention": "channels", "most": 2000, "samplings": 3, "ridge": 1e-6}
    provenance = {"probe": "redundancy", **RUN, **known, **more}
    return RedundancyResult(frame=frame, units=units, pairs=pairs, samplings=frame, provenance=provenance)
