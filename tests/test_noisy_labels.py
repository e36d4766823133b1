"""Calibration uncertainty: known answers of Eq. 19 of arXiv:2003.11099, the pairing of two trainings, the columns."""

from __future__ import annotations

import pickle
from dataclasses import replace

import awkward as ak
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import hepcal
from hepcal.augment import smear_labels
from hepcal.closure import results
from hepcal.config import TrainingConfig
from hepcal.errors import CalibratorFileError, HepcalError, PairsError, TrainingError
from hepcal.methods.noisy_labels import learning as training
from hepcal.methods.noisy_labels.calibrator import BASELINE, SMEARED, CalibrationWidth

QUICK = {"hidden": (16, 16), "batch": 250, "learning_rate": 5e-3, "schedule": "cosine", "max_updates": 600}
TINY = {**QUICK, "hidden": (8,), "max_updates": 40}
BNN = hepcal.BNN(**QUICK, draws=20)
FRACTION, COMMON = 0.08, 0.02


def toy(n: int, seed: int = 0, **more: np.ndarray) -> hepcal.JetPairs:
    """Jets whose response is 3 to 9 % wide, by their only feature."""
    rng = np.random.default_rng(seed)
    truth, x = rng.uniform(400, 1000, n), rng.uniform(-1, 1, n)
    reco = truth / (1 + (0.06 + 0.03 * x) * rng.standard_normal(n))
    return hepcal.JetPairs.from_arrays(x[:, None], ["x"], reco=reco, truth=truth, **more)


def trained(pairs: hepcal.JetPairs, method: hepcal.NoisyLabels, **more: object) -> hepcal.Calibrator:
    return hepcal.train(pairs, method, seed=1, show=False, **more)


def inside(pairs: hepcal.JetPairs) -> hepcal.JetPairs:
    """Away from the edges of the truth spectrum, where the width of the prior is what cuts."""
    return pairs.take(np.flatnonzero((pairs.reco > 550) & (pairs.reco < 850)))


@pytest.fixture(scope="module")
def pairs() -> hepcal.JetPairs:
    return toy(12_000)


@pytest.fixture(scope="module")
def jets() -> hepcal.JetPairs:
    return inside(toy(6_000, seed=9))


@pytest.fixture(scope="module")
def calibrator(pairs):
    return trained(pairs, hepcal.NoisyLabels(method=BNN, fraction=FRACTION, common=COMMON))


@pytest.fixture(scope="module")
def prediction(calibrator, jets):
    return calibrator.predict(jets.features, jets.reco)


# -- known answers ----------------------------------------------------------------------------------------------------


def test_sigma_cal_is_what_was_smeared(calibrator, prediction, jets):
    """The closure of Eq. 19: sigma_cal / sigma_smear = 1.

    In both halves of a feature that decides on sigma_stoch, too, up to what a short training smooths over.
    """
    smeared = FRACTION * jets.truth.astype(np.float64)
    found = CalibrationWidth.of(prediction)
    assert found.error < 0.03 * found.sigma_cal
    assert found.sigma_cal == pytest.approx(np.sqrt(np.mean(smeared**2)), abs=2 * found.error)
    halves = jets.features[:, 0] < 0, jets.features[:, 0] >= 0
    for half in halves:
        squared = np.mean(prediction.sigma_cal_squared[half], dtype=np.float64)
        assert np.sqrt(squared) == pytest.approx(np.sqrt(np.mean(smeared[half] ** 2)), rel=0.06)
    low, high = (prediction.sigma_stoch[half].mean() for half in halves)
    assert high > 1.5 * low


def test_errors_of_single_jets_are_found_jet_by_jet():
    """Errors that are 3 % for half of the jets and 10 % for the others, as a column of the table."""
    pairs, jets = toy(12_000), inside(toy(6_000, seed=9))
    shares = [np.where(part.features[:, 0] < 0, 0.10, 0.03) for part in (pairs, jets)]
    pairs = replace(pairs, truth_error=(shares[0] * pairs.truth).astype(np.float32))
    method = hepcal.NoisyLabels(method=hepcal.Heteroscedastic(**QUICK))
    prediction = trained(pairs, method).predict(jets.features, jets.reco)
    for share in (0.10, 0.03):
        # Away from the step, which no network of smooth functions follows.
        rows = (shares[1] == share) & (np.abs(jets.features[:, 0]) > 0.3)
        smeared = np.mean((share * jets.truth[rows].astype(np.float64)) ** 2)
        assert np.mean(prediction.sigma_cal_squared[rows], dtype=np.float64) == pytest.approx(smeared, rel=0.25)


def test_no_smearing_gives_exactly_nothing(pairs, jets):
    method = hepcal.BNN(**TINY, draws=5)
    for fresh in (False, True):
        calibrator = trained(pairs, hepcal.NoisyLabels(method=method, fraction=0.0, fresh=fresh))
        found = calibrator.predict(jets.features, jets.reco)
        assert not found.sigma_cal_squared.any()
        assert not found.sigma_cal_squared_error.any()
        assert not found.sigma_cal.any()
        assert (
            found.sigma_tot.tobytes()
            == np.sqrt(found.sigma_stoch.astype(np.float64) ** 2 + found.sigma_pred.astype(np.float64) ** 2)
            .astype(np.float32)
            .tobytes()
        )


def test_a_common_shift_moves_the_value_and_no_sigma(pairs, jets, calibrator, prediction):
    """All labels 3 % too high: nothing in any width tells, in units of the calibrated value."""
    shifted = replace(pairs, truth=(1.03 * pairs.truth).astype(np.float32))
    found = trained(shifted, calibrator.method.model_validate(calibrator.card.settings))
    found = found.predict(jets.features, jets.reco)
    assert found.mean == pytest.approx(1.03 * prediction.mean, rel=2e-3)
    for name in ("sigma_stoch", "sigma_pred", "sigma_tot", "sigma_cal"):
        relative = [getattr(p, name).astype(np.float64).mean() / p.mean.mean() for p in (found, prediction)]
        assert relative[0] == pytest.approx(relative[1], rel=0.01)


def test_error_propagation_by_hand():
    """The slice of Tab. 2 of the paper at 4 %: sigma_stoch 57.6 and 51.5 GeV, known to 1 %."""
    found = CalibrationWidth.from_widths((57.6, 0.576), (51.5, 0.515))
    assert found.sigma_cal == pytest.approx(25.8, abs=0.05)
    assert found.error == pytest.approx(np.hypot(57.6 * 0.576, 51.5 * 0.515) / found.sigma_cal)
    assert found.error / found.sigma_cal == pytest.approx(0.064, abs=0.001)
    negative = CalibrationWidth.from_widths((50.0, 0.5), (51.0, 0.5))
    assert negative.squared == pytest.approx(-101)
    assert np.isnan(negative.sigma_cal)
    assert np.isnan(negative.error)
    assert negative.squared_error == pytest.approx(2 * np.hypot(25, 25.5))


def test_widths_of_a_selection_are_weighted_means_of_variances(prediction, jets):
    n = len(prediction)
    weight = np.random.default_rng(2).integers(0, 4, n) - 0.5
    found = CalibrationWidth.of(prediction, weight)
    each, each_0 = (part.components(slice(0, n)).variances() for part in (prediction, prediction.baseline))
    square, square_0 = (part @ weight / weight.sum() for part in (each, each_0))
    assert found.sigma_stoch == pytest.approx(np.sqrt(square.mean()))
    assert found.sigma_stoch_0 == pytest.approx(np.sqrt(square_0.mean()))
    assert found.squared == pytest.approx(square.mean() - square_0.mean())
    assert found.squared_error == pytest.approx((square - square_0).std(ddof=1))
    mean = np.average(prediction.sigma_cal_squared.astype(np.float64), weights=weight)
    assert found.squared == pytest.approx(mean, rel=1e-5)
    for sigma, error in ((square, found.sigma_stoch_error), (square_0, found.sigma_stoch_0_error)):
        assert error == pytest.approx(sigma.std(ddof=1) / (2 * np.sqrt(sigma.mean())))
    with pytest.raises(ValueError, match="sum to 0"):
        CalibrationWidth.of(prediction, np.zeros(n))
    with pytest.raises(ValueError, match="needs a baseline"):
        CalibrationWidth.of(prediction.baseline)


# -- pairing ----------------------------------------------------------------------------------------------------------


def noise_of(calibrator: hepcal.Calibrator, part: str) -> torch.Tensor:
    draws, mean, sigma = (
        calibrator.tensors[f"{part}.{name}"] for name in ("draws", "posterior_mean", "posterior_sigma")
    )
    return (draws - mean) / sigma


def test_both_trainings_share_their_random_numbers(pairs):
    """A smearing of next to nothing changes next to nothing; the baseline is the training of the method alone."""
    method = hepcal.BNN(**TINY, draws=5)
    tensors = trained(pairs, hepcal.NoisyLabels(method=method, fraction=1e-6)).tensors
    for name in ("posterior_mean", "posterior_sigma", "draws"):
        assert torch.allclose(tensors[f"{SMEARED}.{name}"], tensors[f"{BASELINE}.{name}"], atol=1e-4)
    alone = trained(pairs, method)
    for name in ("posterior_mean", "posterior_sigma"):
        assert torch.equal(tensors[f"{BASELINE}.{name}"], alone.tensors[name])


def test_draws_stay_paired_when_one_training_takes_longer(pairs):
    method = hepcal.BNN(**{**TINY, "schedule": "plateau", "patience": 40, "max_updates": 8_000}, draws=5)
    calibrator = trained(pairs.take(np.arange(1_000)), hepcal.NoisyLabels(method=method, fraction=0.1))
    updates = {part: card.history[-1][0] for part, card in calibrator.card.parts.items()}
    assert updates[BASELINE] != updates[SMEARED]
    assert torch.allclose(noise_of(calibrator, SMEARED), noise_of(calibrator, BASELINE), atol=1e-3)


def test_paired_draws_make_the_error_smaller(prediction):
    found = CalibrationWidth.of(prediction)
    apart = CalibrationWidth.from_widths(
        (found.sigma_stoch, found.sigma_stoch_error), (found.sigma_stoch_0, found.sigma_stoch_0_error)
    )
    assert apart.sigma_cal == pytest.approx(found.sigma_cal)
    assert found.error < 0.8 * apart.error


def test_the_second_training_is_that_of_smeared_labels(pairs):
    """Held-out labels are smeared, too: the same as a training on a table of such labels."""
    method = hepcal.Heteroscedastic(**TINY)
    calibrator = trained(pairs, hepcal.NoisyLabels(method=method, fraction=0.1))
    alone = trained(smear_labels(pairs, 0.1, seed=1), method)
    assert torch.equal(calibrator.tensors[f"{SMEARED}.draws"], alone.tensors["draws"])
    assert calibrator.card.history == alone.card.history


# -- fresh labels -----------------------------------------------------------------------------------------------------


def test_fresh_labels_agree_in_width_and_leave_less_open(pairs, jets, prediction):
    method = hepcal.NoisyLabels(method=BNN, fraction=FRACTION, fresh=True)
    found = trained(pairs, method).predict(jets.features, jets.reco)
    fixed, fresh = (CalibrationWidth.of(each) for each in (prediction, found))
    assert fresh.sigma_stoch == pytest.approx(fixed.sigma_stoch, abs=2 * np.hypot(fixed.error, fresh.error))
    # The baseline knows nothing of it.
    assert found.baseline.mean.tobytes() == prediction.baseline.mean.tobytes()
    assert found.sigma_pred.mean() < 1.05 * prediction.sigma_pred.mean()


def test_fresh_labels_are_new_in_every_batch_and_the_same_in_every_run():
    """Without features, the labels decide on everything: those of the table, and those of a batch."""
    y, w, error = torch.linspace(1, 2, 100), torch.ones(100), torch.full((100,), 0.1)
    objective = hepcal.Heteroscedastic(**TINY).objective(
        training.TrainingSet(1, 100, y, np.arange(100)), torch.Generator().manual_seed(0)
    )
    one, two = (training._PairedObjective(objective, 1, error) for _ in range(2))
    other = training._PairedObjective(objective, 2, error)
    table, rows = (torch.zeros((100, 1)), y, w), torch.arange(50)
    first = one.batch(table, rows)[1]
    assert torch.equal(first, two.batch(table, rows)[1])
    assert not torch.equal(first, other.batch(table, rows)[1])
    assert not torch.equal(first[:49], one.batch(table, rows[:49])[1])
    assert torch.equal(first, one.batch(table, rows)[1])
    drawn = torch.stack([one.batch(table, torch.roll(rows, k))[1].roll(-k) for k in range(50)]) - y[:50]
    assert float(drawn.std()) == pytest.approx(0.1, rel=0.05)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert torch.equal(y, torch.linspace(1, 2, 100))


@pytest.mark.parametrize("sample", ["bootstrap", "parts"])
def test_fresh_labels_reach_every_network_of_an_ensemble(sample, pairs):
    method = hepcal.Ensemble(**TINY, n=3, sample=sample)
    fixed, fresh, again = (
        trained(pairs, hepcal.NoisyLabels(method=method, fraction=0.1, fresh=f)).tensors for f in (False, True, True)
    )
    assert torch.equal(fixed[f"{BASELINE}.draws"], fresh[f"{BASELINE}.draws"])
    assert torch.equal(again[f"{SMEARED}.draws"], fresh[f"{SMEARED}.draws"])
    for network, plain in zip(fresh[f"{SMEARED}.draws"], fixed[f"{BASELINE}.draws"], strict=True):
        assert not torch.equal(network, plain)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("stage", [BASELINE, SMEARED])
def test_an_interrupted_training_ends_in_the_same_calibrator(pairs, fresh, stage, tmp_path, monkeypatch):
    method = hepcal.NoisyLabels(method=hepcal.BNN(**{**TINY, "patience": 80}, draws=5), fraction=0.1, fresh=fresh)
    whole = trained(pairs, method)
    original, looks = hepcal.networks.optimisation.Loop.look, []

    def stop(loop):
        looks.append(loop.update)
        # Four looks per training.
        if len(looks) == (2 if stage == BASELINE else 6):
            raise KeyboardInterrupt
        return original(loop)

    monkeypatch.setattr("hepcal.networks.optimisation.Loop.look", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(pairs, method, checkpoint=tmp_path / "state")
    monkeypatch.undo()
    assert trained(pairs, method, checkpoint=tmp_path / "state").sha256 == whole.sha256


def test_fresh_labels_that_might_not_be_positive_are_refused(pairs):
    method = hepcal.NoisyLabels(method=hepcal.Heteroscedastic(**TINY), fraction=0.3, fresh=True)
    with pytest.raises((TrainingError, PairsError), match=r"would not (all )?be positive"):
        trained(pairs, method)
    with pytest.raises(TrainingError, match=r"relative errors up to 0\.16"):
        trained(pairs.take(np.arange(500)), method.model_copy(update={"fraction": 0.16}))


# -- prediction and columns -------------------------------------------------------------------------------------------


def test_variances_add_up_and_nothing_counts_twice(calibrator, jets):
    prediction = calibrator.predict(jets.features[:200], jets.reco[:200])
    parts = [getattr(prediction, f"sigma_{name}").astype(np.float64) for name in ("stoch", "pred", "tot")]
    stoch, pred, tot = parts
    squared = prediction.sigma_cal_squared.astype(np.float64)
    assert tot**2 == pytest.approx(stoch**2 + squared + pred**2, rel=1e-6)
    assert prediction.sigma_cal.astype(np.float64) ** 2 == pytest.approx(squared, rel=1e-6)
    # Which is the width of the smeared training plus sigma_pred².
    n = len(prediction)
    smeared = prediction.components(slice(0, n))
    assert tot**2 == pytest.approx(smeared.variances().mean(axis=0) + pred**2, rel=1e-5)
    assert prediction.mean == pytest.approx(smeared.means().mean(axis=0), rel=1e-6)
    baseline = prediction.baseline.components(slice(0, n))
    assert stoch**2 == pytest.approx(baseline.variances().mean(axis=0), rel=1e-5)
    assert prediction.baseline.sigma_pred == pytest.approx(baseline.means().std(axis=0, ddof=1), rel=1e-4)
    expected = (smeared.variances() - baseline.variances()).std(axis=0, ddof=1)
    assert prediction.sigma_cal_squared_error == pytest.approx(expected, rel=1e-5)
    assert prediction.replicas() == pytest.approx(smeared.means(), rel=1e-6)
    low, high = prediction.interval()
    low_0, high_0 = prediction.baseline.interval()
    assert np.mean(high - low) > 1.3 * np.mean(high_0 - low_0)


def test_a_negative_square_keeps_its_sign(calibrator, jets):
    """The two trainings exchanged: what was added is now taken away."""
    other = {BASELINE: SMEARED, SMEARED: BASELINE}

    def renamed(name):
        part, dot, rest = name.partition(".")
        return other[part] + dot + rest if part in other else name

    card = calibrator.card.model_copy(
        update={"parts": {other[name]: part for name, part in calibrator.card.parts.items()}}
    )
    exchanged = type(calibrator)(card, {renamed(name): tensor for name, tensor in calibrator.tensors.items()})
    found, before = (c.predict(jets.features, jets.reco) for c in (exchanged, calibrator))
    assert found.sigma_cal_squared.tobytes() == (-before.sigma_cal_squared).tobytes()
    assert np.isnan(found.sigma_cal).all()
    assert np.isnan(exchanged._columns(jets.features, jets.reco)["pt_calib_sigma_cal"]).all()
    smeared = found.components(slice(0, len(found))).variances().mean(axis=0)
    total = smeared + found.sigma_pred.astype(np.float64) ** 2
    assert found.sigma_tot.astype(np.float64) ** 2 == pytest.approx(total, rel=1e-5)
    assert CalibrationWidth.of(found).squared < 0


def test_columns_are_those_of_the_card(calibrator, prediction, jets):
    sigmas = tuple(f"pt_calib_sigma_{name}" for name in ("stoch", "pred", "cal", "tot", "scale"))
    assert calibrator.columns == ("pt_calib", *sigmas, "pt_calib_in_range")
    assert calibrator.uncertainties == ("calib_pred", "calib_cal")
    n = len(jets)
    flat = ak.zip({"pt": jets.reco, "mass": np.full(n, 50, np.float32), "x": jets.features[:, 0]})
    out = calibrator(ak.unflatten(flat, [2, 0, n - 2]))
    column = {name: ak.to_numpy(ak.flatten(out[name])) for name in calibrator.columns}
    for name in ("stoch", "pred", "cal", "tot"):
        assert column[f"pt_calib_sigma_{name}"].tobytes() == getattr(prediction, f"sigma_{name}").tobytes()
    scale = column["pt_calib_sigma_scale"]
    assert scale == pytest.approx(COMMON * prediction.mean, rel=1e-6)
    for side, sign in (("up", 1), ("down", -1)):
        shifted = ak.flatten(out.calib_cal[side])
        assert ak.to_numpy(shifted.pt) == pytest.approx((1 + sign * COMMON) * prediction.mean, rel=1e-6)
        assert ak.to_numpy(shifted.mass / shifted.pt) == pytest.approx(50 / jets.reco, rel=1e-5)
        shifted = ak.flatten(out.calib_pred[side])
        assert ak.to_numpy(shifted.pt) == pytest.approx(prediction.mean + sign * prediction.sigma_pred, rel=1e-6)


def test_an_error_common_to_all_jets_is_in_no_sigma(pairs, calibrator, jets, prediction):
    settings = {**calibrator.card.settings, "common": 0.0}
    without = type(calibrator)(calibrator.card.model_copy(update={"settings": settings}), calibrator.tensors)
    assert without.uncertainties == ("calib_pred",)
    assert set(calibrator.columns) - set(without.columns) == {"pt_calib_sigma_scale"}
    found = without.predict(jets.features, jets.reco)
    assert found.sigma_tot.tobytes() == prediction.sigma_tot.tobytes()


@pytest.mark.parametrize(
    ("method", "sigmas"),
    [
        (hepcal.Ensemble(**TINY, n=3, head="mixture"), ("stoch", "pred", "cal", "tot")),
        (hepcal.Dropout(**TINY, draws=3), ("stoch", "pred", "cal", "tot")),
        (hepcal.Hessian(**TINY, draws=4, directions=3, head="tails", curvature=300), ("stoch", "pred", "cal", "tot")),
        (hepcal.Heteroscedastic(**TINY, head="tails"), ("stoch", "cal", "tot")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_methods_with_a_stochastic_width_can_be_paired(method, sigmas, pairs, jets, tmp_path):
    calibrator = trained(pairs, hepcal.NoisyLabels(method=method, fraction=0.1))
    assert calibrator.columns == ("pt_calib", *(f"pt_calib_sigma_{name}" for name in sigmas), "pt_calib_in_range")
    assert calibrator.uncertainties == (("calib_pred",) if "pred" in sigmas else ())
    calibrator.save(tmp_path / "c.safetensors")
    found, again = (
        c.predict(jets.features, jets.reco) for c in (calibrator, hepcal.Calibrator.load(tmp_path / "c.safetensors"))
    )
    for name in ("mean", "sigma_stoch", "sigma_tot", "sigma_cal_squared"):
        assert getattr(found, name).tobytes() == getattr(again, name).tobytes()
    assert (found.sigma_cal_squared_error is None) == (method.name in ("heteroscedastic", "hessian"))
    assert (found.sigma_pred is None) == (method.name == "heteroscedastic")
    if method.name == "heteroscedastic":
        assert np.isnan(CalibrationWidth.of(found).error)


# -- as data ----------------------------------------------------------------------------------------------------------


def everything(prediction: hepcal.Prediction) -> bytes:
    names = ("mean", "sigma_stoch", "sigma_pred", "sigma_cal_squared", "sigma_cal_squared_error", "sigma_tot")
    return np.stack([*(getattr(prediction, name) for name in names), prediction.baseline.mean]).tobytes()


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 1_500))
def test_a_jet_gets_the_same_bits_in_any_company(calibrator, jets, prediction, seed, size):
    rows = np.random.default_rng(seed).permutation(len(jets))[:size]
    found = calibrator.predict(jets.features[rows], jets.reco[rows])
    expected = replace(
        prediction,
        **{
            name: getattr(prediction, name)[rows]
            for name in ("mean", "sigma_stoch", "sigma_pred", "sigma_cal_squared", "sigma_cal_squared_error")
        },
        baseline=replace(prediction.baseline, mean=prediction.baseline.mean[rows]),
    )
    assert everything(found) == everything(expected)


def test_a_calibrator_travels_and_tells_what_it_is(calibrator, jets, prediction, tmp_path):
    calibrator.save(tmp_path / "c.safetensors")
    for again in (
        hepcal.Calibrator.load(tmp_path / "c.safetensors"),
        pickle.loads(pickle.dumps(calibrator)),  # noqa: S301 - our own
        calibrator.to("cpu"),
    ):
        assert again.sha256 == calibrator.sha256
        assert again.columns == calibrator.columns
        assert everything(again.predict(jets.features, jets.reco)) == everything(prediction)
    rows = dict(results.describe_card(calibrator))
    assert rows["method"] == "noisy_labels"
    assert rows["systematics"] == "calib_pred, calib_cal"
    assert "pt_calib_sigma_cal" in rows["columns"]
    assert f"fraction={FRACTION}" in rows["settings"]
    figures = calibrator.card.figures
    assert figures["sigma_cal"] == pytest.approx(figures["sigma_smear"], abs=3 * figures["sigma_cal_error"])
    # The labels of the table have no noise; the smeared ones pull by one.
    assert figures["pull_sd"] < 0.9
    assert figures["label_pull_sd"] == pytest.approx(1, abs=0.1)


def test_a_file_without_one_of_the_trainings_is_refused(calibrator):
    card = calibrator.card.model_copy(update={"parts": {BASELINE: calibrator.card.parts[BASELINE]}})
    with pytest.raises(CalibratorFileError, match="the card has no 'smeared' training of the method 'bnn'"):
        type(calibrator)(card, calibrator.tensors)
    with pytest.raises(HepcalError, match="use draws"):
        calibrator.with_inference("moments")


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_name_their_method(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "method: noisy_labels\n"
        "settings: {method: {method: ensemble, n: 5, validation: 0.2}, fraction: 0.08, common: 0.01}"
    )
    method = TrainingConfig.read(tmp_path / "c.yaml").build()
    expected = hepcal.NoisyLabels(method=hepcal.Ensemble(n=5, validation=0.2), fraction=0.08, common=0.01)
    assert method == expected
    assert method.validation == 0.2
    assert hepcal.NoisyLabels.model_validate(method.model_dump(mode="json")) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": hepcal.MSE()}, "method"),
        ({"method": {"method": "mse"}}, "noisy labels need 'method', one of bnn"),
        ({"fraction": -0.1}, "fraction"),
        ({"common": 1.0}, "common"),
        ({"method": hepcal.BNN(validation=0.2), "validation": 0.1}, "validation is 0.1 here and 0.2 in the method"),
    ],
)
def test_nonsense_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        hepcal.NoisyLabels(**settings)


def test_unknown_errors_of_labels_are_refused(pairs):
    with pytest.raises(PairsError, match="no column 'truth_error'"):
        trained(pairs, hepcal.NoisyLabels(method=hepcal.Heteroscedastic(**TINY)))


def test_methods_without_a_baseline_have_no_calibration_uncertainty(pairs, jets):
    found = trained(pairs, hepcal.Heteroscedastic(**TINY)).predict(jets.features, jets.reco)
    assert found.sigma_cal is None
    assert found.baseline is None


def test_the_method_may_stand_in_front() -> None:
    """As README.md writes it."""
    assert hepcal.NoisyLabels(hepcal.BNN(draws=7), fraction=0.04) == hepcal.NoisyLabels(
        method=hepcal.BNN(draws=7), fraction=0.04
    )
    assert hepcal.NoisyLabels().method == hepcal.BNN()
    with pytest.raises(TypeError, match="twice"):
        hepcal.NoisyLabels(hepcal.BNN(), method=hepcal.BNN())


def test_each_pair_of_networks_has_a_bootstrap_sample_of_its_own():
    """An ensemble alone has two starts on each; in pairs, the spread over networks is that of the samples."""
    made = [hepcal.NoisyLabels(hepcal.Ensemble(n=4)), hepcal.NoisyLabels(method={"method": "ensemble", "n": 4})]
    assert [each.method.starts_per_sample for each in made] == [1, 1]
    assert hepcal.Ensemble(n=4).starts_per_sample == 2
    assert hepcal.NoisyLabels.model_validate(made[0].model_dump(mode="json")) == made[0]
