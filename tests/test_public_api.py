"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import hepcal


def test_public_names_are_these():
    assert sorted(hepcal.__all__) == [
        "BNN", "Calibrator", "Column", "Constituents", "Dropout", "Ensemble", "Feature", "Features", "GaussianAnsatz",
        "GeneralisedInversion", "Hessian", "Heteroscedastic", "Identity", "JetPairs", "Likelihood", "MSE",
        "NoisyLabels", "NumericalInversion", "OptimalTransport", "Prediction", "SummaryLikelihood", "augment",
        "closure", "cross_fit", "evaluation", "load_fileset", "plot", "processors", "statistics", "tagging", "train",
    ]  # fmt: skip
    assert set(dir(hepcal)) == {*hepcal.__all__, "__version__"}
    for name in hepcal.__all__:
        assert getattr(hepcal, name) is not None


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Calibrater'; it has .*Calibrator"):
        _ = hepcal.Calibrater


@pytest.mark.parametrize("name", ["diagnostics", "priors", "results", "scores", "spread", "truth_closure"])
def test_a_name_that_moved_says_where(name):
    with pytest.raises(AttributeError, match=f"no attribute {name!r}: it is hepcal.(evaluation|closure)"):
        getattr(hepcal, name)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("hepcal", ["torch", "dask", "distributed", "matplotlib", "coffea", "awkward", "numpy"]),
        ("hepcal.cli.commands", ["torch", "dask", "distributed", "matplotlib", "coffea", "awkward"]),
        ("hepcal.plot", ["torch", "dask", "distributed"]),
        ("hepcal.closure.results", ["torch", "distributed", "matplotlib"]),
        ("hepcal.tables.pairs", ["torch", "matplotlib"]),
        ("hepcal.evaluation", ["torch", "dask", "matplotlib", "scoringrules"]),
        ("hepcal.distributions.intervals", ["torch", "dask", "matplotlib"]),
        ("hepcal.closure", ["torch", "dask", "matplotlib", "hist"]),
        ("hepcal.methods.registry", ["torch", "pydantic", "numpy"]),
        ("hepcal.methods.transport.maps", ["torch", "dask", "matplotlib"]),
    ],
)
def test_imports_stay_light(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
