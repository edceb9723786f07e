"""The public surface: a few exact names, imported when they are first used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import netopsy


def test_public_names() -> None:
    names = [
        "AblationResult",
        "BlockInfluence",
        "BoundaryDensity",
        "CKAResult",
        "ComplexityResult",
        "CriticalityResult",
        "EllipseProfile",
        "FineTuningResult",
        "FitConfig",
        "JacobianBounds",
        "JacobianNorms",
        "JointCriticalityResult",
        "LayerDynamics",
        "LightningRecorder",
        "LotteryResult",
        "NetopsyError",
        "NormBiases",
        "PathTransitions",
        "Plane",
        "Recorder",
        "RedundancyResult",
        "RegionSlice",
        "ResetTogether",
        "RobustnessResult",
        "SpectraResult",
        "StudentDynamics",
        "Sweep",
        "Task",
        "TeacherStudentConfig",
        "TeacherStudentResult",
        "Trajectory",
        "TransformersRecorder",
        "Transitions",
        "UnitCriteria",
        "UnitMatch",
        "UnitTableResult",
        "ValleyResult",
        "WinnerRanks",
        "__version__",
        "ablation_curve",
        "adversarial_accuracy",
        "block_influence",
        "boundary_density",
        "cka",
        "compare",
        "complexity",
        "conv_singular_values",
        "convex_path",
        "criticality",
        "curvature",
        "deterministic_bound",
        "ellipse_profile",
        "evaluate",
        "fine_tuning",
        "fit",
        "fit_population",
        "jacobian_bounds",
        "jacobian_norm",
        "joint_criticality",
        "layer_dynamics",
        "load_results",
        "lottery",
        "match_units",
        "model_loss",
        "noisy_error",
        "norm_biases",
        "norm_drift",
        "pac_bayes_bound",
        "path_transitions",
        "paths",
        "placed",
        "plan",
        "plane_through",
        "randomized_classifier",
        "rank_measures",
        "recursive_gradients",
        "redundancy",
        "region_slice",
        "reset_together",
        "rewound",
        "robustness",
        "run_sweep",
        "spectra",
        "student_dynamics",
        "teacher_student",
        "transitions",
        "unit_table",
        "valley",
        "winner_ranks",
        "write_report",
    ]
    assert netopsy.__all__ == dir(netopsy) == names
    for name in set(names) - {"LightningRecorder", "TransformersRecorder"}:  # seconds to import; tested by themselves
        assert getattr(netopsy, name) is not None
    assert netopsy.__version__.count(".") == 2
    assert inspect.isfunction(inspect.unwrap(netopsy.robustness))
    assert issubclass(netopsy.NetopsyError, ValueError)


def test_the_signature_of_robustness() -> None:
    parameters = inspect.signature(netopsy.robustness).parameters
    assert list(parameters)[:2] == ["trajectory", "data"]
    options = {
        "sites": "modules",
        "checkpoints": (0,),
        "draws": 1,
        "groups": None,
        "metrics": ("error", "loss"),
        "stop": "exact",
        "precision": 0.02,
        "tolerance": 0.05,
        "confidence": 0.99,
        "seed": 0,
        "engine": "auto",
    }
    assert list(parameters)[2 : 2 + len(options)] == list(options)
    for name, value in options.items():
        assert parameters[name].default == value
    assert {p.kind for p in list(parameters.values())[2:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'netopsy' has no attribute 'sensitivity'"):
        netopsy.sensitivity  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        "import netopsy; dir(netopsy)",
        "from netopsy.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: assert end.code == 0",
        "from netopsy.cli import main; assert main(['version']) == 0",
    ],
    ids=["import", "help", "version"],
)
def test_torch_is_not_imported(use: str) -> None:
    code = f"import sys\n{use}\nassert not {{'torch', 'pandas', 'matplotlib'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
