"""A biopsy of a neural network: which layers, units and input directions carry the function."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "AblationResult": "netopsy.probes.ablation_result",
    "FitConfig": "netopsy.training.config",
    "LightningRecorder": "netopsy.training.lightning_recorder",
    "NetopsyError": "netopsy._checks",
    "Recorder": "netopsy.training.recorder",
    "RedundancyResult": "netopsy.probes.redundancy_result",
    "RobustnessResult": "netopsy.probes.robustness_result",
    "Sweep": "netopsy.store.sweep",
    "Task": "netopsy.network.task",
    "Trajectory": "netopsy.network.trajectory",
    "TransformersRecorder": "netopsy.training.transformers_recorder",
    "UnitCriteria": "netopsy.probes.kinds",
    "UnitTableResult": "netopsy.probes.units_result",
    "ablation_curve": "netopsy.probes.ablation",
    "evaluate": "netopsy.engine.evaluate",
    "fit": "netopsy.training.fit",
    "load_results": "netopsy.store.results",
    "plan": "netopsy.probes.plan",
    "redundancy": "netopsy.probes.redundancy",
    "robustness": "netopsy.probes.robustness",
    "run_sweep": "netopsy.store.sweep",
    "unit_table": "netopsy.probes.units",
    "write_report": "netopsy.report.run",
}

__all__ = [
    "AblationResult",
    "FitConfig",
    "LightningRecorder",
    "NetopsyError",
    "Recorder",
    "RedundancyResult",
    "RobustnessResult",
    "Sweep",
    "Task",
    "Trajectory",
    "TransformersRecorder",
    "UnitCriteria",
    "UnitTableResult",
    "__version__",
    "ablation_curve",
    "evaluate",
    "fit",
    "load_results",
    "plan",
    "redundancy",
    "robustness",
    "run_sweep",
    "unit_table",
    "write_report",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import netopsy` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'netopsy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
