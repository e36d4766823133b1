"""Masked and missing values in arrays are refused, with the name of the argument and their number."""

import dataclasses
from collections.abc import Callable
from typing import Any

import awkward as ak
import numpy as np
import pytest

import hepcal
from hepcal import augment, evaluation, statistics, tagging
from hepcal.arrays import numbers, unmasked
from hepcal.errors import HepcalError, MissingValueError
from hepcal.evaluation import spread
from hepcal.events.features import Features
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.noisy_labels.calibrator import CalibrationWidth
from hepcal.methods.transport import maps
from hepcal.tables import spectra

N = 60
RNG = np.random.default_rng(1)
PLAIN = np.linspace(100.0, 400.0, N)
MASKED = np.ma.array(PLAIN, mask=np.arange(N) % 20 == 7)  # three of sixty
INTEGERS = np.ma.array(np.arange(N), mask=MASKED.mask)
EDGES = [90.0, 250.0, 410.0]


def from_arrays(**changed: Any) -> hepcal.JetPairs:
    columns = {"features": np.zeros((N, 0)), "reco": PLAIN, "truth": PLAIN, **changed}
    return hepcal.JetPairs.from_arrays(columns.pop("features"), [], **columns)


def prediction() -> hepcal.Prediction:
    return hepcal.Prediction(PLAIN.astype(np.float32), np.full(N, 10, np.float32), None, np.ones(N, dtype=bool))


BLOCK = np.tile(np.float32([5, 3, 4, 0]), (N, 1))
# Arguments by what takes them; those of one line are masked one by one.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "from_arrays": (
        from_arrays,
        {"reco": MASKED, "truth": MASKED, "weight": MASKED, "event": INTEGERS, "truth_error": MASKED},
    ),
    "closure_in_truth": (
        lambda **changed: evaluation.closure_in_truth(
            **{"value": PLAIN, "truth": PLAIN, "weight": PLAIN, "edges": EDGES, **changed}
        ),
        {"value": MASKED, "truth": MASKED, "weight": MASKED, "by": MASKED, "event": INTEGERS, "in_range": MASKED > 0},
    ),
    "coverage_in_truth": (
        lambda **changed: evaluation.coverage_in_truth(
            **{"low": PLAIN - 1, "high": PLAIN + 1, "truth": PLAIN, "edges": EDGES, **changed}
        ),
        {"low": MASKED, "high": MASKED, "truth": MASKED, "weight": MASKED, "by": MASKED, "event": INTEGERS},
    ),
    "score": (
        lambda **changed: evaluation.score(**{"prediction": prediction(), "truth": PLAIN, "weight": PLAIN, **changed}),
        {"truth": MASKED, "weight": MASKED},
    ),
    "score_in_bins": (
        lambda **changed: evaluation.score_in_bins(
            **{"prediction": prediction(), "truth": PLAIN, "weight": None, "by": PLAIN, "edges": EDGES, **changed}
        ),
        {"truth": MASKED, "weight": MASKED, "by": MASKED},
    ),
    "weighted_mean": (lambda **c: statistics.weighted_mean(**{"values": PLAIN, "weight": PLAIN, **c}), {
        "values": MASKED, "weight": MASKED,
    }),
    "weighted_quantiles": (
        lambda **c: statistics.weighted_quantiles(**{"values": PLAIN, "weight": PLAIN, "probabilities": [0.5], **c}),
        {"values": MASKED, "weight": MASKED},
    ),
    "n_eff": (spectra.n_eff, {"weight": MASKED}),
    "flattening_weights": (
        lambda **c: spectra.flattening_weights(**{"truth": PLAIN, **c}), {"weight": MASKED, "truth": MASKED},
    ),
    "resonance_weights": (
        lambda **c: spectra.resonance_weights(**{"mass": PLAIN, **c}), {"weight": MASKED, "mass": MASKED},
    ),
    "transport": (
        lambda **c: maps.CumulativeDistribution.of(**{"sample": PLAIN, **c}),
        {"sample": MASKED, "weight": MASKED, "event": INTEGERS},
    ),
    "spread_ratio": (
        lambda **c: spread.spread_ratio(
            **{"sigma_pred": PLAIN, "trainings": RNG.normal(size=(4, N)), "by": PLAIN, "edges": EDGES, **c}
        ),
        {"sigma_pred": MASKED, "by": MASKED, "weight": MASKED},
    ),
    "auc": (
        lambda **c: tagging.auc(**{"score": PLAIN / 500, "is_signal": np.arange(N) % 2, **c}),
        {"score": MASKED / 500, "is_signal": INTEGERS % 2, "weight": MASKED},
    ),
    "augment": (
        lambda **c: augment.scale_constituents(**{"block": BLOCK, "fraction": 0.1, **c}),
        {"block": np.ma.array(BLOCK, mask=np.arange(4 * N).reshape(N, 4) == 9)},
    ),
    "pit": (lambda **c: prediction().pit(**c), {"truth": MASKED}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments]
)
def test_masked_values_are_refused_by_name(name: str, argument: str) -> None:
    call, arguments = CALLS[name]
    with pytest.raises(MissingValueError, match="are masked or missing, first at index"):
        call(**{argument: arguments[argument]})


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_mask_that_hides_nothing_does_not_matter(name: str) -> None:
    call, arguments = CALLS[name]
    for argument, values in arguments.items():
        if name in ("pit", "resonance_weights", "flattening_weights"):  # have too little to work with here
            continue
        call(**{argument: np.ma.array(np.ma.getdata(values))})


def test_rows_are_not_chosen_by_a_mask_that_has_a_mask() -> None:
    """Values under the mask chose rows."""
    chosen = np.ma.array(np.ones(N, dtype=bool), mask=MASKED.mask)
    with pytest.raises(MissingValueError, match="3 of 60 values of 'rows' are masked or missing, first at index 7"):
        from_arrays().take(chosen)
    with pytest.raises(MissingValueError, match="3 of 60 values of 'key' are masked or missing, first at index 7"):
        prediction()[chosen]
    assert len(prediction()[[]]) == 0
    assert prediction()[ak.Array([0, 2])].mean.tolist() == PLAIN[[0, 2]].astype(np.float32).tolist()


@pytest.mark.parametrize(
    "values", [np.ones(3) + 1j, np.array(["2026-11-26"], dtype="M8[D]"), np.ones(2, dtype="m8[s]")]
)
def test_what_is_no_real_number_is_not_made_one(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'pt' must hold real numbers, found"):
        numbers("pt", values)


def test_predict_and_train_refuse_masked_arrays(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    calibrator, n = tiny_calibrator("mse"), len(tiny_pairs)
    features = np.ma.array(tiny_pairs.features, mask=np.zeros((n, 2), dtype=bool))
    calibrator.predict(features, np.ma.array(tiny_pairs.reco))
    features[3, 1] = np.ma.masked
    with pytest.raises(MissingValueError, match=rf"1 of {2 * n} values of 'features' .* at index \(3, 1\)"):
        calibrator.predict(features, tiny_pairs.reco)
    with pytest.raises(MissingValueError, match=f"2 of {n} values of 'reco'"):
        calibrator.predict(tiny_pairs.features, np.ma.masked_less(tiny_pairs.reco, np.sort(tiny_pairs.reco)[2]))
    data = np.ma.masked_greater(tiny_pairs.reco, 900)
    with pytest.raises(MissingValueError, match="values of 'data' are masked"):
        hepcal.train(tiny_pairs, hepcal.OptimalTransport(), data=data, show=False)
    table = dataclasses.replace(tiny_pairs, weight=np.ma.masked_equal(np.arange(n) % 5 + 0.5, 0.5))
    with pytest.raises(MissingValueError, match=f"{n // 5} of {n} values of 'weight'"):
        hepcal.train(table, hepcal.MSE(), show=False)
    with pytest.raises(MissingValueError, match="'weight'"):
        CalibrationWidth.of(tiny_calibrator("noisy_labels").predict(tiny_pairs), table.weight)


def test_missing_values_of_other_libraries_and_lists_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    for values, missing in (
        (ak.Array([1.0, None, 3.0]), 1),
        ([1.0, None, None], 2),
        (pandas.Series([1, None, 3], dtype="Int64"), 1),
        (pandas.Series([1.5, pandas.NA, pandas.NA], dtype="Float64"), 2),
        ([np.ma.array([1.0, 2.0], mask=[True, False]), np.ma.array([1.0, 2.0])], 1),
    ):
        with pytest.raises(MissingValueError, match=f"^{missing} of . values of 'x' are masked or missing"):
            numbers("x", values)
    np.testing.assert_array_equal(numbers("x", pandas.Series([1, 2], dtype="Int64")), [1, 2])
    np.testing.assert_array_equal(numbers("x", ak.Array([1, 2])), [1, 2])
    np.testing.assert_array_equal(numbers("x", ak.Array([1, None])[:1]), [1])
    assert unmasked("x", PLAIN) is PLAIN


def test_missing_fields_of_jets_are_refused() -> None:
    """A field of an option type lost its mask: what lay under it was calibrated."""
    jets = ak.Array({"pt": [100.0, 200.0], "eta": [0.5, None]})
    with pytest.raises(HepcalError, match="1 of 2 values of 'eta' are masked or missing"):
        Features(inputs=("eta",), pt="pt").table(jets)


def test_data_with_none_are_refused(tiny_pairs: hepcal.JetPairs) -> None:
    with pytest.raises(MissingValueError, match="1 of 2 values of 'data'"):
        hepcal.train(tiny_pairs, hepcal.OptimalTransport(), data=[600.0, None], show=False)


@pytest.mark.parametrize("values", [PLAIN + 1j, np.full(N, np.datetime64("2020-01-01")), ["heavy"] * N, [{}] * N])
def test_what_is_no_real_number_is_refused_by_name(values: Any) -> None:
    with pytest.raises(HepcalError, match="'weight' must hold real numbers, found"):
        from_arrays(weight=values)
    with pytest.raises(HepcalError, match=r"a threshold is a positive p_T .* found '20'"):
        from_arrays(threshold="20")
