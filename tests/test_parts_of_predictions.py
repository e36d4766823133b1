"""Predictions of some of the jets: cut, pickled, printed, and with random numbers that belong to the jets."""

import dataclasses
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from conftest import TINY

import hepcal
from hepcal.distributions.prediction import NoDensityError, Prediction
from hepcal.errors import HepcalError, PairsError
from hepcal.methods.calibrator import Calibrator

WITH_DENSITY = (
    "bnn", "bnn_tails", "ensemble", "ensemble_parts", "hessian", "hessian_tails", "heteroscedastic", "dropout",
    "noisy_labels",
)  # fmt: skip


def numbers_of(prediction: Prediction) -> dict[str, np.ndarray]:
    """Everything that a prediction says, jets along the last axis."""
    found = {
        field.name: value
        for field in dataclasses.fields(prediction)
        if isinstance(value := getattr(prediction, field.name), np.ndarray) and field.name != "identity"
    }
    if prediction.components is not None:
        found |= {"density": prediction.density(np.array([400.0, 600.0])).T, "sample": prediction.sample(3, seed=2)}
    if prediction.components is not None or prediction.belt is not None:
        found |= dict(zip(("low", "high"), prediction.interval(0.6827), strict=True))
    try:
        found["replicas"] = prediction.replicas()
    except NoDensityError:
        assert prediction.components is None
    if prediction.baseline is not None:
        found |= {f"baseline.{name}": value for name, value in numbers_of(prediction.baseline).items()}
    return found


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_part_of_a_prediction_is_the_prediction_of_the_part(
    name: str, tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    prediction = tiny_calibrator(name).predict(tiny_pairs)
    every = numbers_of(prediction)
    mask = np.arange(len(prediction)) % 7 == 0
    for key in (slice(10, 20), mask, np.array([30, 4, 4]), slice(0, 0)):
        part = numbers_of(prediction[key])
        assert part.keys() == every.keys()
        for what in every:
            np.testing.assert_array_equal(part[what], every[what][..., np.arange(len(mask))[key]], err_msg=what)
    for what, values in numbers_of(pickle.loads(pickle.dumps(prediction))).items():  # noqa: S301
        np.testing.assert_array_equal(values, every[what], err_msg=what)


def test_a_prediction_is_not_indexed_by_a_number_or_a_mask_of_another_length(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    prediction = tiny_calibrator("mse").predict(tiny_pairs)
    with pytest.raises(TypeError, match=r"\[3:4\] is one jet"):
        prediction[3]
    with pytest.raises(IndexError):
        prediction[np.ones(3, dtype=bool)]


def test_a_prediction_prints_what_is_in_it(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    found = repr(tiny_calibrator("bnn").predict(tiny_pairs))
    assert found.startswith("<Prediction: 500 jets of ")
    assert "in range, densities; medians [GeV]: sigma_stoch" in found
    assert len(found) < 200
    assert "numbers only" in repr(tiny_calibrator("mse").predict(tiny_pairs))
    assert repr(tiny_calibrator("bnn").predict(tiny_pairs)[:0]) == "<Prediction: 0 jets>"


# -- random numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_parts_predicted_apart_have_random_numbers_of_their_own(
    name: str, tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    """Two parts of a table had the same noise by position: a correlation of 0.9998."""
    calibrator, half = tiny_calibrator(name), len(tiny_pairs) // 2
    parts = [tiny_pairs.take(np.arange(half)), tiny_pairs.take(np.arange(half, 2 * half))]
    # One draw per row moves all jets; the noise is what is left, in units of sigma_stoch.
    samples = [calibrator.predict(part.features, part.reco).sample(200, seed=1) for part in parts]
    first, second = (sample - sample.mean(axis=0) for sample in samples)
    noise = [part - part.mean(axis=1, keepdims=True) for part in (first, second)]
    correlation = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*(part.T for part in noise), strict=True)])
    assert abs(correlation) < 0.02


def test_the_same_jet_has_the_same_noise_in_any_chunk_and_order(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    calibrator = tiny_calibrator("bnn_tails")
    whole = calibrator.predict(tiny_pairs).sample(4, seed=9)
    order = np.random.default_rng(0).permutation(len(tiny_pairs))
    shuffled = tiny_pairs.take(order)
    np.testing.assert_array_equal(calibrator.predict(shuffled).sample(4, seed=9), whole[:, order])
    by_arrays = [
        calibrator.predict(part.features, part.reco, event=part.event).sample(4, seed=9)
        for part in (shuffled.take(np.arange(120)), shuffled.take(np.arange(120, 500)))
    ]
    np.testing.assert_array_equal(np.concatenate(by_arrays, axis=1), whole[:, order])
    # Without events, jets are told apart by their inputs.
    known = calibrator.predict(tiny_pairs.features, tiny_pairs.reco).sample(4, seed=9)
    part = calibrator.predict(tiny_pairs.features[40:60], tiny_pairs.reco[40:60]).sample(4, seed=9)
    np.testing.assert_array_equal(part, known[:, 40:60])


def test_jets_that_are_equal_in_everything_do_not_share_their_noise(
    tiny_calibrator: Callable[[str], Calibrator],
) -> None:
    prediction = tiny_calibrator("heteroscedastic").predict(np.zeros((300, 2)), np.full(300, 500.0))
    sample = prediction.sample(2, seed=4)
    assert len(np.unique(sample)) == 600
    assert np.std(sample) == pytest.approx(prediction.sigma_stoch[0], rel=0.15)


def test_a_negative_number_of_rows_is_refused() -> None:
    ones = np.ones(3, dtype=np.float32)
    with pytest.raises(ValueError, match="the number of rows is not negative, found -1"):
        Prediction(ones, ones, None, ones > 0).sample(-1, seed=1)


def test_a_generator_is_passed_on_from_part_to_part(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    prediction, rng = tiny_calibrator("heteroscedastic").predict(tiny_pairs), np.random.default_rng(3)
    first, second = prediction.sample(2, rng=rng), prediction.sample(2, rng=rng)
    assert not np.any(first == second)
    np.testing.assert_array_equal(prediction.sample(2, rng=np.random.default_rng(3)), first)
    with pytest.raises(ValueError, match="a seed or a generator"):
        prediction.sample(2)
    with pytest.raises(ValueError, match="a seed or a generator"):
        prediction.sample(2, seed=1, rng=rng)


def test_noise_of_a_prediction_is_not_that_of_smeared_labels(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    prediction = tiny_calibrator("heteroscedastic").predict(tiny_pairs)
    label = (hepcal.augment.smear_labels(tiny_pairs, 0.04, seed=1).truth / tiny_pairs.truth - 1) / 0.04
    noise = (prediction.sample(1, seed=1)[0] - prediction.mean) / prediction.sigma_stoch
    assert abs(np.corrcoef(label, noise)[0, 1]) < 0.15


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TINY))
def test_predict_takes_a_table_and_picks_its_own_columns(
    name: str, tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    calibrator = tiny_calibrator(name)
    more = hepcal.JetPairs.from_arrays(
        np.stack([tiny_pairs.features[:, 1], np.ones(500), tiny_pairs.features[:, 0]], axis=1),
        ["width", "other", hepcal.Feature(name="eta", transform="abs")],
        reco=tiny_pairs.reco,
        truth=tiny_pairs.truth,
    )
    by_hand = tiny_pairs.select(calibrator.card.features)
    expected = calibrator.predict(by_hand.features, by_hand.reco).mean
    np.testing.assert_array_equal(calibrator.predict(tiny_pairs).mean, expected)
    np.testing.assert_array_equal(calibrator.predict(more).mean, expected)


def test_predict_refuses_what_is_no_table_of_its_inputs(
    tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    calibrator = tiny_calibrator("bnn")
    with pytest.raises(PairsError, match=r"needs the inputs eta, width \(p_T: pt\), but the table holds width"):
        calibrator.predict(tiny_pairs.select(tiny_pairs.spec.selected(["width"])))
    raw = dataclasses.replace(tiny_pairs, spec=tiny_pairs.spec.model_copy(update={"pt": "raw"}))
    with pytest.raises(PairsError, match=r"\(p_T: raw\)"):
        calibrator.predict(raw)
    with pytest.raises(HepcalError, match="brings its p_T"):
        calibrator.predict(tiny_pairs, tiny_pairs.reco)
    with pytest.raises(HepcalError, match=r"predict\(features, reco\)"):
        calibrator.predict(tiny_pairs.features)
    with pytest.raises(ValueError, match="integer event ids"):
        calibrator.predict(tiny_pairs.features, tiny_pairs.reco, event=np.zeros(3, dtype=int))
