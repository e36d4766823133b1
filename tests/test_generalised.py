"""Generalised numerical inversion: closure at fixed features, the gain they bring, no memory of the spectrum."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import hepcal
from hepcal.errors import CalibratorFileError, TrainingError
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.inversion import learning as inversion
from hepcal.networks.objectives import MembersObjective

QUICK = {"hidden": (24, 24), "max_updates": 600}
# Half width of the response over the feature, and noise, both as a share of truth.
SWING, NOISE = 0.1, 0.05


def response(feature):
    """Mean of reco / truth at a feature between -1 and 1."""
    return 0.95 * (1 + SWING * feature)


def jets(truth, seed):
    """Jets of given truth with a uniform feature."""
    rng = np.random.default_rng(seed)
    feature = rng.uniform(-1, 1, len(truth))
    return feature, truth * (response(feature) + NOISE * rng.standard_normal(len(truth)))


def table(truth, seed, **others):
    feature, reco = jets(truth, seed)
    return hepcal.JetPairs.from_arrays(feature[:, None], ["width"], reco=reco, truth=truth, **others)


def falling(n, seed):
    return 1800 + np.random.default_rng(seed).exponential(250, n)


def closure(calibrator, truth, seed=5):
    """(feature, calibrated / truth) of fresh jets of one truth."""
    feature, reco = jets(np.full(20_000, float(truth)), seed)
    return feature, calibrator.predict(feature[:, None], reco).mean / truth


@pytest.fixture(scope="module")
def trained():
    return hepcal.train(table(falling(50_000, 1), 2), hepcal.GeneralisedInversion(**QUICK), seed=1, show=False)


def test_it_closes_in_bins_of_the_feature_where_one_dimension_cannot(trained):
    flat = hepcal.train(table(falling(50_000, 1), 2), hepcal.NumericalInversion(), seed=1, show=False)
    for truth in (2000, 2300, 2700):
        feature, generalised = closure(trained, truth)
        reco = jets(np.full(20_000, float(truth)), 5)[1]
        plain = flat.predict(np.empty((len(reco), 0)), reco).mean / truth
        edges = np.linspace(-1, 1, 5)
        for low, high in pairwise(edges):
            inside = (feature >= low) & (feature < high)
            assert generalised[inside].mean() == pytest.approx(1, abs=0.008)
            expected = 1 + SWING * (low + high) / 2
            assert plain[inside].mean() == pytest.approx(expected, abs=0.008)
            assert abs(plain[inside].mean() - 1) > 0.02
        assert generalised.mean() == pytest.approx(1, abs=0.005)


def test_the_known_gain_in_resolution_is_met(trained):
    for truth in (2000, 2300, 2700):
        feature, generalised = closure(trained, truth)
        exact = np.sqrt(np.mean((NOISE / response(feature)) ** 2))
        assert generalised.std() == pytest.approx(exact, rel=0.05)
        # Without the feature, its part of the response adds to the noise.
        assert np.hypot(NOISE, 0.95 * SWING / np.sqrt(3)) / 0.95 > 1.4 * exact


def test_sigma_stoch_is_the_noise_over_the_slope_at_the_feature(trained):
    feature = np.array([-0.8, 0.0, 0.8])
    found = trained.predict(feature[:, None], 2200 * response(feature))
    np.testing.assert_allclose(found.sigma_stoch / found.mean, NOISE / response(feature), rtol=0.06)
    assert found.sigma_pred is None
    assert trained.card.figures["pull_sd"] == pytest.approx(1, abs=0.03)


def test_the_spectrum_of_the_training_does_not_matter(trained):
    flat = np.random.default_rng(3).uniform(1800, 3200, 50_000)
    other = hepcal.train(table(flat, 4), hepcal.GeneralisedInversion(**QUICK), seed=2, show=False)
    feature = np.tile(np.linspace(-0.9, 0.9, 7), 4)
    truth = np.repeat([1900.0, 2200.0, 2500.0, 2800.0], 7)
    one, two = (c.predict(feature[:, None], truth * response(feature)).mean / truth for c in (trained, other))
    # The posterior mean on the falling spectrum is 0.7 % low at 2.0 TeV and 2.4 % at 2.8 TeV.
    assert np.abs(one - two).mean() < 0.004
    assert abs(np.mean(one - two)) < 0.003


def test_the_error_of_the_second_network_is_told(trained):
    figures = trained.card.figures
    assert 0 < figures["interpolation_rms"] < 0.002
    assert figures["interpolation_rms"] < figures["interpolation_max"] < 0.02
    assert figures["not_rising"] == 0
    assert trained.card.quantity == "mean"


def test_weights_choose_the_mean_at_fixed_truth_and_feature():
    rng = np.random.default_rng(7)
    truth = rng.uniform(1000, 2000, 40_000)
    feature, heavy = rng.uniform(-1, 1, len(truth)), rng.random(len(truth)) < 0.5
    reco = truth * response(feature) * np.where(heavy, 1.1, 0.9) * (1 + 0.02 * rng.standard_normal(len(truth)))
    weight = np.where(heavy, 3.0, 1.0) * 1e-6
    pairs = hepcal.JetPairs.from_arrays(feature[:, None], ["width"], reco=reco, truth=truth, weight=weight)
    calibrator = hepcal.train(pairs, hepcal.GeneralisedInversion(**QUICK), seed=1, show=False)
    at = np.array([-0.5, 0.0, 0.5])
    found = calibrator.predict(at[:, None], 1500 * response(at) * (0.75 * 1.1 + 0.25 * 0.9)).mean
    np.testing.assert_allclose(found, 1500, rtol=0.01)


def test_a_second_estimate_of_the_truth_closes_but_costs_resolution():
    rng = np.random.default_rng(11)

    def smeared(truth):
        a, b = rng.standard_normal((2, len(truth)))
        # Noises of 40 GeV with a correlation of one half.
        return truth + 40 * a, truth + 40 * (0.5 * a + np.sqrt(0.75) * b)

    truth = rng.uniform(600, 1400, 50_000)
    reco, other = smeared(truth)
    pairs = hepcal.JetPairs.from_arrays(other[:, None], ["other"], reco=reco, truth=truth)
    method = hepcal.GeneralisedInversion(hidden=(24, 24), max_updates=1_500, learning_rate=3e-3)
    calibrator = hepcal.train(pairs, method, seed=1, show=False)
    truth = rng.uniform(700, 1300, 60_000)
    reco, other = smeared(truth)
    away = calibrator.predict(other[:, None], reco).mean - truth
    assert np.mean(away / truth) == pytest.approx(0, abs=0.002)
    # At a fixed second estimate the mean rises with half the slope: sqrt(1 - 1/4) / (1 - 1/2) of the noise.
    assert away.std() == pytest.approx(40 * np.sqrt(0.75) / 0.5, rel=0.08)


def test_it_closes_in_truth_where_it_is_curved_at_the_feature():
    rng = np.random.default_rng(21)

    def curved(truth):
        # The response bends with truth, the more so at one end of the feature: a bias of -g'' var / (2 g'^3).
        feature = rng.uniform(-1, 1, len(truth))
        mean = 1000 * (truth / 1000) ** (0.75 + 0.15 * feature)
        return feature[:, None], mean * (1 + 0.12 * rng.standard_normal(len(truth)))

    truth = rng.uniform(500, 2000, 60_000)
    feature, reco = curved(truth)
    pairs = hepcal.JetPairs.from_arrays(feature, ["width"], reco=reco, truth=truth)
    calibrator = hepcal.train(pairs, hepcal.GeneralisedInversion(**QUICK), seed=1, show=False)
    for at in (800, 1100, 1500):
        feature, reco = curved(np.full(40_000, float(at)))
        found = calibrator.predict(feature, reco).mean / at
        error = found.std() / np.sqrt(len(found))
        # Two networks alone are 0.6 to 1.1 % high.
        assert found.mean() == pytest.approx(1, abs=0.003 + 3 * error)
    assert calibrator.card.figures["residual_max"] > 0.004


def test_the_last_step_has_no_signs_of_other_rows(monkeypatch):
    weight = np.where(np.random.default_rng(4).random(4_000) < 0.05, -1.0, 1.0)
    pairs = table(falling(4_000, 1), 2, weight=weight)
    learn, seen = inversion.learn, []
    monkeypatch.setattr(inversion, "learn", lambda task: (seen.append(task), learn(task))[1])
    hepcal.train(pairs, hepcal.GeneralisedInversion(hidden=(8,), max_updates=100), seed=1, show=False)
    assert [task.cells is None or len(task.cells.signed) == len(task.fitted) for task in seen] == [True]
    assert (seen[0].fitted.weight >= 0).all()


def test_a_file_without_the_last_step_keeps_its_meaning(trained):
    tensors = {name: tensor for name, tensor in trained.tensors.items() if not name.startswith("residual")}
    before = type(trained)(trained.card, tensors)
    feature, reco = jets(falling(2_000, 8), 9)
    one, two = (c.predict(feature[:, None], reco).mean for c in (before, trained))
    assert np.median(np.abs(one / two - 1)) < 0.001
    assert not np.array_equal(one, two)


def test_jets_outside_the_truth_support_are_flagged(trained):
    low, high = trained.support
    truth = np.array([0.95 * low, 1.02 * low, 0.98 * high, 1.05 * high])
    found = trained.predict(np.zeros((4, 1)), 0.95 * truth)
    assert found.in_range.tolist() == [False, True, True, False]
    np.testing.assert_allclose(found.mean, truth, rtol=0.03)
    assert not trained.predict(np.array([[3.0]]), np.array([2000.0])).in_range[0]


def test_a_saved_calibrator_gives_the_same_bits(trained, tmp_path):
    feature, reco = jets(falling(3_000, 8), 9)
    trained.save(tmp_path / "generalised.safetensors")
    loaded = Calibrator.load(tmp_path / "generalised.safetensors")
    first = trained.predict(feature[:, None], reco)
    order = np.random.default_rng(0).permutation(len(reco))[:700]
    again = loaded.predict(feature[order, None], reco[order])
    for name in ("mean", "sigma_stoch", "in_range"):
        np.testing.assert_array_equal(getattr(first, name)[order], getattr(again, name))


@pytest.mark.parametrize("updates", [10, 55, 115], ids=["forward", "inverse", "spread"])
def test_an_interrupted_training_ends_the_same_and_leaves_one_file(tmp_path, monkeypatch, updates):
    pairs = table(falling(2_000, 1), 2)
    method = hepcal.GeneralisedInversion(hidden=(8,), max_updates=40, patience=80)
    whole = hepcal.train(pairs, method, seed=1, show=False)
    original, made = MembersObjective.backward, []

    def interrupted(self, *arguments):
        if len(made) == updates:
            raise KeyboardInterrupt
        made.append(self)
        original(self, *arguments)

    monkeypatch.setattr(MembersObjective, "backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hepcal.train(pairs, method, seed=1, show=False, checkpoint=tmp_path / "state")
    # Networks that are finished are not trained again: looks, and so checkpoints, are ten updates apart.
    repeated = []
    monkeypatch.setattr(MembersObjective, "backward", lambda *a: (repeated.append(1), original(*a)))
    resumed = hepcal.train(pairs, method, seed=1, show=False, checkpoint=tmp_path / "state")
    assert len(repeated) == 3 * 40 - updates // 10 * 10
    assert resumed.sha256 == whole.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    # A finished one gives the same at once, and deleted it blocks nothing.
    monkeypatch.setattr(MembersObjective, "backward", None)
    assert hepcal.train(pairs, method, seed=1, show=False, checkpoint=tmp_path / "state").sha256 == whole.sha256
    monkeypatch.setattr(MembersObjective, "backward", original)
    (tmp_path / "state").unlink()
    other = hepcal.train(pairs, method, seed=2, show=False, checkpoint=tmp_path / "state")
    assert other.sha256 != whole.sha256


def test_a_response_that_falls_is_refused():
    rng = np.random.default_rng(10)
    truth, feature = rng.uniform(500, 1500, 20_000), rng.uniform(-1, 1, 20_000)
    reco = (900 - 0.002 * (truth - 1000) ** 2) * (1 + 0.02 * rng.standard_normal(20_000))
    pairs = hepcal.JetPairs.from_arrays(feature[:, None], ["width"], reco=reco, truth=truth)
    with pytest.raises(TrainingError, match=r"of the jets the mean of reco p_T .* does not rise"):
        hepcal.train(pairs, hepcal.GeneralisedInversion(**QUICK), seed=1, show=False)


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("truth_range", torch.negative, "'truth_range' holds values that are not positive"),
        ("truth_range", lambda ends: ends.flip(0), "the truth range of the training is empty"),
        ("spread", lambda weights: weights[:, 1:], "'spread' is"),
        ("spread_scale", torch.negative, "the scale of the resolution is not positive"),
        ("residual_reco", lambda knots: knots.flip(0), "'residual_reco' does not rise"),
        ("spread_scale", torch.zeros_like, "the scale of the resolution is not positive"),
    ],
)
def test_a_damaged_calibrator_is_refused(trained, name, damaged, message):
    with pytest.raises(CalibratorFileError, match=message):
        type(trained)(trained.card, {**trained.tensors, name: damaged(trained.tensors[name])})


def test_it_is_no_regression_of_the_truth(trained):
    method = hepcal.GeneralisedInversion
    assert (method.follows_prior, method.can_collapse) == (False, False)
    assert "collapsed" not in trained.card.figures
