"""A biopsy of a neural network: which layers, units and input directions carry the function."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "AblationResult": "netopsy.probes.ablation_result",
    "CKAResult": "netopsy.probes.cka_result",
    "ComplexityResult": "netopsy.probes.complexity_result",
    "CriticalityResult": "netopsy.probes.criticality_result",
    "FitConfig": "netopsy.training.config",
    "JointCriticalityResult": "netopsy.probes.joint_criticality",
    "LightningRecorder": "netopsy.training.lightning_recorder",
    "NetopsyError": "netopsy._checks",
    "Recorder": "netopsy.training.recorder",
    "RedundancyResult": "netopsy.probes.redundancy_result",
    "RobustnessResult": "netopsy.probes.robustness_result",
    "SpectraResult": "netopsy.probes.spectra_result",
    "Sweep": "netopsy.store.sweep",
    "Task": "netopsy.network.task",
    "Trajectory": "netopsy.network.trajectory",
    "TransformersRecorder": "netopsy.training.transformers_recorder",
    "UnitCriteria": "netopsy.probes.kinds",
    "UnitMatch": "netopsy.probes.matching_result",
    "UnitTableResult": "netopsy.probes.units_result",
    "ValleyResult": "netopsy.probes.valley_result",
    "WinnerRanks": "netopsy.probes.winner_ranks",
    "ablation_curve": "netopsy.probes.ablation",
    "cka": "netopsy.probes.cka",
    "compare": "netopsy.probes.comparing",
    "complexity": "netopsy.probes.complexity",
    "conv_singular_values": "netopsy.probes.singular_values",
    "convex_path": "netopsy.probes.valley",
    "criticality": "netopsy.probes.criticality",
    "deterministic_bound": "netopsy.probes.deterministic_bound",
    "evaluate": "netopsy.engine.evaluate",
    "fit": "netopsy.training.fit",
    "joint_criticality": "netopsy.probes.joint_criticality",
    "load_results": "netopsy.store.results",
    "match_units": "netopsy.probes.matching",
    "noisy_error": "netopsy.probes.noisy_error",
    "pac_bayes_bound": "netopsy.probes.bounds",
    "plan": "netopsy.probes.plan",
    "rank_measures": "netopsy.probes.ranking",
    "redundancy": "netopsy.probes.redundancy",
    "rewound": "netopsy.network.rewind",
    "robustness": "netopsy.probes.robustness",
    "run_sweep": "netopsy.store.sweep",
    "spectra": "netopsy.probes.spectra",
    "unit_table": "netopsy.probes.units",
    "valley": "netopsy.probes.valley",
    "winner_ranks": "netopsy.probes.winner_ranks",
    "write_report": "netopsy.report.run",
}

__all__ = [
    "AblationResult",
    "CKAResult",
    "ComplexityResult",
    "CriticalityResult",
    "FitConfig",
    "JointCriticalityResult",
    "LightningRecorder",
    "NetopsyError",
    "Recorder",
    "RedundancyResult",
    "RobustnessResult",
    "SpectraResult",
    "Sweep",
    "Task",
    "Trajectory",
    "TransformersRecorder",
    "UnitCriteria",
    "UnitMatch",
    "UnitTableResult",
    "ValleyResult",
    "WinnerRanks",
    "__version__",
    "ablation_curve",
    "cka",
    "compare",
    "complexity",
    "conv_singular_values",
    "convex_path",
    "criticality",
    "deterministic_bound",
    "evaluate",
    "fit",
    "joint_criticality",
    "load_results",
    "match_units",
    "noisy_error",
    "pac_bayes_bound",
    "plan",
    "rank_measures",
    "redundancy",
    "rewound",
    "robustness",
    "run_sweep",
    "spectra",
    "unit_table",
    "valley",
    "winner_ranks",
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
