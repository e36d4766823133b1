"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import hepcal


def test_public_names_are_these():
    assert sorted(hepcal.__all__) == [
        "BNN", "Calibrator", "Constituents", "Dropout", "Ensemble", "Feature", "Features", "GaussianAnsatz",
        "GeneralisedInversion", "Heteroscedastic", "JetPairs", "Likelihood", "MSE", "NoisyLabels",
        "NumericalInversion", "OptimalTransport", "Prediction", "SummaryLikelihood", "augment", "cross_fit",
        "diagnostics", "load_fileset", "plot", "priors", "processors", "results", "scores", "spread", "tagging",
        "train", "truth_closure",
    ]  # fmt: skip
    assert set(dir(hepcal)) == {*hepcal.__all__, "__version__"}
    for name in hepcal.__all__:
        assert getattr(hepcal, name) is not None


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Calibrater'; it has .*Calibrator"):
        _ = hepcal.Calibrater


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("hepcal", ["torch", "dask", "distributed", "matplotlib", "coffea", "awkward", "numpy"]),
        ("hepcal.cli", ["torch", "dask", "distributed", "matplotlib", "coffea", "awkward"]),
        ("hepcal.plot", ["torch", "dask", "distributed"]),
        ("hepcal.results", ["torch", "distributed", "matplotlib"]),
        ("hepcal.pairs", ["torch", "matplotlib"]),
        ("hepcal.scores", ["torch", "dask", "matplotlib", "scoringrules"]),
        ("hepcal.intervals", ["torch", "dask", "matplotlib"]),
        ("hepcal.truth_closure", ["torch", "dask", "matplotlib"]),
        ("hepcal.transport", ["torch", "dask", "matplotlib"]),
    ],
)
def test_imports_stay_light(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
