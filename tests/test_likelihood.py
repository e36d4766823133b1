"""The likelihood calibration: densities of the response, their inversion, and what the calibrator promises."""

from __future__ import annotations

import dataclasses
import math
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import norm

import hepcal
from hepcal.errors import CalibratorFileError, ConditionsWarning, PairsError, TrainingError
from hepcal.methods.likelihood.forward import ForwardDensity, LogResponse
from hepcal.methods.likelihood.inverse import ConditionalInverse, TabulatedInverse
from hepcal.methods.likelihood.learning import slopes
from hepcal.methods.likelihood.summary import SummaryLikelihood
from hepcal.methods.likelihood.trust import Comparison, range_of_gain
from hepcal.methods.training.task import raw_inputs
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import MixtureHead
from hepcal.networks.members import Members
from hepcal.networks.objectives import MembersObjective

QUICK = {"hidden": (16, 16), "n": 3, "max_updates": 500, "components": 3}
SUMMARY = hepcal.Ensemble(hidden=(16, 16), n=3, max_updates=500, schedule="cosine", batch=500, learning_rate=5e-3)
EMPTY = torch.empty((0, 0))


def random_response(networks: int, jets: int, seed: int) -> LogResponse:
    """Mixtures that overlap, as those of a response do: components within two widths of each other."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn((networks, 12, jets), generator=generator)
    return LogResponse.of(outputs, 4, -0.05, 0.08)


@pytest.mark.parametrize("probability", [1e-3, 0.1586553, 0.5, 0.8413447, 0.999])
def test_a_quantile_of_a_mixture_has_its_probability_below(probability: float) -> None:
    response = random_response(3, 2_000, 1)
    u = response.quantile(probability)
    assert response.cdf(u).numpy() == pytest.approx(probability, abs=1e-4)
    near = response.quantile(probability, u + 0.005 * torch.randn(u.shape, generator=torch.Generator().manual_seed(2)))
    assert np.quantile((near - u).abs().numpy(), 0.999) < 1e-4


def test_a_density_is_the_derivative_of_its_distribution_and_the_mean_is_that_of_the_exponential() -> None:
    response = random_response(2, 50, 2)
    u = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    parts = [(getattr(response, name)).double() for name in ("share", "mean", "sigma")]
    fine = LogResponse(*(part[:, :, :1] for part in parts))
    density = np.exp(fine.log_density(u.expand(2, -1)).numpy())
    step = float(u[1] - u[0])
    assert density.sum(axis=1) * step == pytest.approx(1, abs=1e-4)
    assert np.log((density * np.exp(u.numpy())).sum(axis=1) * step) == pytest.approx(
        fine.log_mean()[:, 0].numpy(), abs=1e-4
    )


def density_of(inputs: int, seed: int, networks: int = 5, slope: float = 0.2) -> ForwardDensity:
    """Random smooth response densities; the median moves by a fraction of ``slope`` of a width per unit of input."""
    generator = torch.Generator().manual_seed(seed)
    layout = DenseLayout((inputs, 16, 15))
    base = torch.randn(layout.count, generator=generator) * slope
    draws = base + 0.02 * torch.randn((networks, layout.count), generator=generator)
    return ForwardDensity(layout, draws, 5, (7.0, 0.3), (6.2, 8.2), (-0.05, 0.08), torch.device("cpu"))


def bisected(density: ForwardDensity, log_x: torch.Tensor, conditions: torch.Tensor, p: float) -> torch.Tensor:
    """F(x | z) = p by plain bisection in ln z."""
    low = log_x.expand(density.count, -1) - 0.8
    high = log_x.expand(density.count, -1) + 0.8
    for _ in range(30):
        middle = 0.5 * (low + high)
        below = torch.stack([density(row, conditions).cdf((log_x - row).float())[k] for k, row in enumerate(middle)])
        # A larger truth makes the measured value more of a downward fluctuation.
        low, high = torch.where(below > p, middle, low), torch.where(below > p, high, middle)
    return 0.5 * (low + high)


@pytest.mark.parametrize("p", [0.1586553, 0.5, 0.8413447])
def test_both_inverses_find_what_bisection_finds(p: float) -> None:
    """Inside the support; at its ends the slope jumps, where one Newton step cannot know on which side it ends."""
    log_x = torch.linspace(6.4, 7.9, 256, dtype=torch.float64)[None]
    none = torch.empty((0, 256))
    for seed in (1, 2):
        alone, with_condition = density_of(1, seed), density_of(2, seed)
        expected = bisected(alone, log_x, none, p)
        assert TabulatedInverse(alone)(log_x, none, p)[0].numpy() == pytest.approx(expected.numpy(), abs=2e-5)
        conditions = torch.randn((1, 256), generator=torch.Generator().manual_seed(seed))
        for density, given in ((alone, none), (with_condition, conditions)):
            expected = bisected(density, log_x, given, p)
            found = ConditionalInverse(density)(log_x, given, p)[0]
            # The width of the response is 0.08: one percent of it where these random densities bend most.
            assert found.numpy() == pytest.approx(expected.numpy(), abs=8e-4)
            assert float((found - expected).abs().median()) < 4e-5


def constant_response(mean: float, sigma: float) -> ForwardDensity:
    """ln(x / z) is N(mean, sigma) whatever the truth."""
    layout = DenseLayout((1, 4, 2))
    draws = torch.zeros((2, layout.count))
    layout.set_output_bias(draws, torch.tensor([mean / sigma, math.log(math.expm1(1 - 1e-3))]))
    return ForwardDensity(layout, draws, 1, (7.0, 0.3), (6.0, 8.0), (0.0, sigma), torch.device("cpu"))


@pytest.mark.parametrize("inverse", [TabulatedInverse, ConditionalInverse])
def test_readings_of_a_constant_response_are_those_of_its_closed_form(inverse: type) -> None:
    """z = x exp(-mu) for median and maximum, and x exp(-mu - sigma²/2) for the mean; far outside the support, too."""
    mu, sigma = -0.05, 0.1
    density = constant_response(mu, sigma)
    log_x = torch.linspace(4.0, 9.0, 1024, dtype=torch.float64)[None]
    none = torch.empty((0, 1024))
    solve = inverse(density)
    expected = log_x.numpy().repeat(2, axis=0) - mu
    median, mean, upper, mode = (zeta.numpy() for zeta in solve(log_x, none, 0.5, "mean", 0.84, "mode"))
    assert median == pytest.approx(expected, abs=1e-6)
    assert mean == pytest.approx(expected - sigma**2 / 2, abs=1e-6)
    assert upper == pytest.approx(expected - sigma * norm.ppf(0.84), abs=1e-5)
    assert mode == pytest.approx(expected, abs=1e-4)
    # However far away: a straight line.
    far = torch.linspace(-15, 25, 1024, dtype=torch.float64)[None]
    assert solve(far, none, 0.5)[0].numpy() == pytest.approx(far.numpy().repeat(2, axis=0) - mu, abs=1e-6)


def toy_pairs(n: int, seed: int, spectrum: str = "falling") -> hepcal.JetPairs:
    """A falling spectrum with the Gaussian response 0.95 z +- 0.05 z, and a condition that changes nothing."""
    rng = np.random.default_rng(seed)
    truth = 1800 + rng.exponential(250, n) if spectrum == "falling" else rng.uniform(1800, 4000, n)
    reco = truth * (0.95 + 0.05 * rng.standard_normal(n))
    return hepcal.JetPairs.from_arrays(rng.normal(size=(n, 1)), ["eta"], reco=reco, truth=truth)


@pytest.fixture(scope="module")
def calibrator() -> hepcal.Calibrator:
    return hepcal.train(toy_pairs(20_000, 1), hepcal.Likelihood(**QUICK), seed=1, show=False)


def test_the_median_closes_at_every_truth_and_the_belt_covers(calibrator: hepcal.Calibrator) -> None:
    rng = np.random.default_rng(5)
    for z in (2000.0, 2400.0, 2800.0):
        reco = z * (0.95 + 0.05 * rng.standard_normal(20_000))
        prediction = calibrator.predict(np.empty((len(reco), 0)), reco)
        # 20,000 training jets fix the scale at 2.8 TeV to 0.3 %.
        assert np.median(prediction.mean) / z == pytest.approx(1, abs=0.01)
        assert np.mean(prediction.sigma_stoch) / z == pytest.approx(0.0526, rel=0.1)
        for probability in (0.6827, 0.95):
            low, high = prediction.interval(probability)
            assert np.mean((low < z) & (z < high)) == pytest.approx(probability, abs=0.03)


def test_another_spectrum_gives_the_same_calibration(calibrator: hepcal.Calibrator) -> None:
    """Squared error moves by the difference of the priors, the likelihood by its statistical error."""
    other = toy_pairs(20_000, 2, "flat")
    test = toy_pairs(5_000, 3)
    likelihood = hepcal.train(other, hepcal.Likelihood(**QUICK), seed=2, show=False)
    quick = {"hidden": (16, 16), "max_updates": 500, "schedule": "cosine", "learning_rate": 5e-3}
    squared = [hepcal.train(pairs, hepcal.MSE(**quick), seed=2, show=False) for pairs in (toy_pairs(20_000, 1), other)]
    first, second = (c.predict(test.features[:, :0], test.reco) for c in (calibrator, likelihood))
    both = first.in_range & second.in_range
    assert both.mean() > 0.8
    assert np.mean((second.mean / first.mean)[both]) == pytest.approx(1, abs=0.004)
    first, second = (c.predict(test.features, test.reco) for c in squared)
    assert np.mean((second.mean / first.mean)[both]) > 1.006


def test_what_the_calibrator_declares(calibrator: hepcal.Calibrator, tmp_path) -> None:
    assert calibrator.card.quantity == "median"
    assert calibrator.card.features.names == ()
    assert calibrator.uncertainties == ("calib_pred",)
    test = toy_pairs(3_000, 4)
    prediction = calibrator.predict(test.features[:, :0], test.reco)
    replicas = prediction.replicas()
    assert replicas.shape == (3, 3_000)
    assert prediction.mean == pytest.approx(replicas.mean(axis=0), rel=1e-6)
    assert prediction.sigma_pred == pytest.approx(replicas.std(axis=0, ddof=1), rel=1e-3)
    calibrator.save(tmp_path / "c.safetensors")
    for again in (hepcal.Calibrator.load(tmp_path / "c.safetensors"), pickle.loads(pickle.dumps(calibrator))):  # noqa: S301
        other = again.predict(test.features[:, :0], test.reco)
        assert np.array_equal(other.mean, prediction.mean)
        assert np.array_equal(other.interval()[0], prediction.interval()[0])
    with pytest.raises(hepcal.distributions.prediction.NoDensityError):
        prediction.density(np.array([2000.0]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrator.interval(test.features[:, :0], test.reco, 1.5)


def test_jets_outside_the_truth_support_are_flagged(calibrator: hepcal.Calibrator) -> None:
    reco = np.array([900.0, 1500.0, 1900.0, 2500.0])
    prediction = calibrator.predict(np.empty((4, 0)), reco)
    # Below 1800 GeV of truth there was nothing to learn from.
    assert prediction.in_range.tolist() == [False, False, True, True]
    assert np.all(np.diff(prediction.mean) > 0)


@pytest.mark.parametrize("conditions", [(), ("eta",)])
def test_a_jet_gets_the_same_bits_in_any_company(conditions: tuple[str, ...]) -> None:
    method = hepcal.Likelihood(**QUICK | {"max_updates": 50}, conditions=conditions)
    found = hepcal.train(toy_pairs(3_000, 1), method, seed=1, show=False)
    test = toy_pairs(2_500, 2)
    features = test.features[:, : len(conditions)]
    together = found.predict(features, test.reco)
    for rows in (np.arange(2_500)[::-1], np.arange(7), np.arange(1_000, 1_001)):
        alone = found.predict(features[rows], test.reco[rows])
        for name in ("mean", "sigma_stoch", "sigma_pred"):
            assert np.array_equal(getattr(alone, name), getattr(together, name)[rows])


def test_a_trained_inversion_with_conditions_is_that_of_bisection() -> None:
    method = hepcal.Likelihood(**QUICK, conditions=("shape",))
    found = hepcal.train(featured_pairs(20_000, 1), method, seed=1, show=False)
    test = featured_pairs(500, 2)
    values = found.predict(test.features, test.reco).replicas()
    inputs = found.inputs(torch.from_numpy(np.concatenate([test.reco[None], test.features.T])))
    log_x = torch.from_numpy(np.log(test.reco.astype(np.float64)))[None]
    expected = bisected(found._inverse.density, log_x, inputs[1:], 0.5).exp().numpy()
    inside = found.predict(test.features, test.reco).in_range
    # The spectrum begins at 1 TeV: one jet in ten fluctuates below, and is flagged.
    assert inside.mean() > 0.85
    wrong = np.abs(values / expected - 1)[:, inside]
    # The width of the response is 5 % here, and the networks differ by 0.3 %.
    assert np.median(wrong) < 1e-4
    assert np.quantile(wrong, 0.99) < 1e-3


def test_readings_are_declared_and_differ_as_they_must() -> None:
    """For 0.95 z +- 0.05 z: median and mean close, the maximum of the likelihood is at -0.28 % (x = u z, Eq. 12)."""
    pairs = toy_pairs(40_000, 6, "flat")
    reco = 2800 * (0.95 + 0.05 * np.random.default_rng(3).standard_normal(40_000))
    found = {}
    for reading in ("median", "mean", "mode"):
        method = hepcal.Likelihood(**QUICK | {"max_updates": 1_000, "n": 2}, reading=reading)
        trained = hepcal.train(pairs, method, seed=1, show=False)
        assert trained.card.quantity == reading
        found[reading] = float(np.median(trained.predict(np.empty((len(reco), 0)), reco).mean)) / 2800 - 1
    assert found["median"] == pytest.approx(0, abs=0.003)
    assert found["mean"] == pytest.approx(found["median"], abs=0.001)
    assert found["mode"] - found["median"] == pytest.approx(-0.0028, abs=0.002)


def test_conditions_that_carry_the_truth_are_noticed() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(500, 1500, 4_000)
    features = np.stack([truth * rng.normal(1, 0.1, 4_000), rng.normal(size=4_000)], axis=1)
    pairs = hepcal.JetPairs.from_arrays(
        features, ["second_pt", "eta"], reco=truth * rng.normal(1, 0.1, 4_000), truth=truth
    )
    quick = QUICK | {"max_updates": 20}
    harmless = hepcal.train(pairs, hepcal.Likelihood(**quick, conditions=("eta",)), seed=1)
    assert harmless.card.figures["conditions_explain"] < 0.01
    with pytest.warns(ConditionsWarning, match="^the conditions explain .* in a summary"):
        carrying = hepcal.train(pairs, hepcal.Likelihood(**quick, conditions=("second_pt",)), seed=1, show=False)
    assert carrying.card.figures["conditions_explain"] > 0.5
    with pytest.raises(PairsError, match="no input mass among second_pt, eta"):
        hepcal.train(pairs, hepcal.Likelihood(**quick, conditions=("mass",)), show=False)


# -- summary first, then forward --------------------------------------------------------------------------------------


def featured_pairs(n: int, seed: int, *, spectrum: str = "falling") -> hepcal.JetPairs:
    """The response depends on a feature, and half of its width with it."""
    rng = np.random.default_rng(seed)
    truth = 1000 + (rng.exponential(300, n) if spectrum == "falling" else rng.uniform(0, 1500, n))
    shape = rng.normal(size=n)
    reco = truth * (0.95 + 0.08 * shape + 0.05 * rng.standard_normal(n))
    return hepcal.JetPairs.from_arrays(shape[:, None], ["shape"], reco=reco, truth=truth)


@pytest.fixture(scope="module")
def summary_calibrator() -> hepcal.Calibrator:
    method = SummaryLikelihood(**QUICK, summary=SUMMARY)
    return hepcal.train(featured_pairs(20_000, 1), method, seed=1, show=False)


def test_a_summary_brings_the_gain_of_its_features_without_the_prior(summary_calibrator: hepcal.Calibrator) -> None:
    test = featured_pairs(40_000, 9, spectrum="flat")
    inside = (test.truth > 1300) & (test.truth < 1900)
    summary = summary_calibrator.predict(test.features, test.reco)
    ratio = summary.mean[inside] / test.truth[inside]
    assert np.median(ratio) == pytest.approx(1, abs=0.01)
    low, high = np.quantile(ratio, [0.1587, 0.8413])
    # With the feature known, 0.05 / 0.95 of the width remains; without, sqrt(0.05² + 0.08²) / 0.95.
    assert (high - low) / 2 == pytest.approx(0.0526, rel=0.12)
    ends = summary.interval()
    assert np.mean((ends[0] < test.truth)[inside] & (ends[1] > test.truth)[inside]) == pytest.approx(0.6827, abs=0.04)
    # The summary alone is pulled to its prior: more at high p_T.
    regression = summary_calibrator.summary.predict(test.features, test.reco)
    assert np.median(regression.mean[inside] / test.truth[inside]) < np.median(ratio) - 0.002


def test_a_summary_sees_the_inputs_of_its_training_where_weights_are_steep() -> None:
    """The table standardises inputs with its weights, where the softest jets count; the summary with flattened ones."""
    pairs = featured_pairs(10_000, 3, spectrum="flat")
    steep = dataclasses.replace(pairs, weight=(pairs.truth / 1000.0) ** -20)
    quick = QUICK | {"max_updates": 300, "schedule": "cosine"}
    found = hepcal.train(steep, SummaryLikelihood(**quick, summary=SUMMARY), seed=1, show=False)
    assert float(found.summary.inputs.mean[0] - found.inputs.mean[0]) > 0.3
    raw = raw_inputs(pairs)
    seen = found._measured(found.inputs(raw), pairs.reco.astype(np.float64)).numpy()
    knots, *trust = found.tensors["trust"].double().numpy()
    log_reco = np.log(pairs.reco.astype(np.float64))
    summary = np.log(found.summary.predict(pairs.features, pairs.reco).replicas().astype(np.float64))
    share = np.stack([np.interp(log_reco, knots, row) for row in trust])
    learned = log_reco + share * (summary - log_reco)
    np.testing.assert_allclose(seen, learned, atol=1e-5)
    prediction = found.predict(pairs)
    inside = (pairs.truth > 1200) & (pairs.truth < 2200)
    low, median, high = np.quantile(prediction.mean[inside] / pairs.truth[inside], [0.1587, 0.5, 0.8413])
    assert median == pytest.approx(1, abs=0.01)
    assert (high - low) / 2 == pytest.approx(0.0526, rel=0.12)


def test_a_summary_comes_back_from_its_file(summary_calibrator: hepcal.Calibrator, tmp_path) -> None:
    test = featured_pairs(1_500, 2)
    path = tmp_path / "summary.safetensors"
    summary_calibrator.save(path)
    again = hepcal.Calibrator.load(path)
    assert again.card.parts["summary"].method == "ensemble"
    assert again.card.settings["summary"]["method"] == "ensemble"
    first, second = (c.predict(test.features, test.reco) for c in (summary_calibrator, again))
    assert np.array_equal(first.mean, second.mean)
    assert np.array_equal(first.sigma_pred, second.sigma_pred)
    assert summary_calibrator.predict(test.features[3:4], test.reco[3:4]).mean[0] == first.mean[3]
    card = again.card.model_copy(update={"parts": {}})
    with pytest.raises(CalibratorFileError, match="names no summary"):
        type(again)(card, again.tensors)


def test_jets_far_from_the_training_are_flagged_though_their_summary_is_not(
    summary_calibrator: hepcal.Calibrator,
) -> None:
    """Trained above 1 TeV, asked at half of that: the regression may answer with a value from its training."""
    prediction = summary_calibrator.predict(np.zeros((3, 1)), np.array([500.0, 1300.0, 2_000.0]))
    assert prediction.in_range.tolist() == [False, True, True]


def weighted_pairs(truth: np.ndarray, weight: np.ndarray, seed: int) -> hepcal.JetPairs:
    """The response 0.95 z +- 0.05 z."""
    reco = truth * np.random.default_rng(seed).normal(0.95, 0.05, len(truth))
    return hepcal.JetPairs.from_arrays(np.empty((len(truth), 0)), [], reco=reco, truth=truth, weight=weight)


def test_where_few_jets_carry_the_weight_there_is_no_support(capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond 2 TeV one jet in 200 has 1e5 times the weight of the others: 3,000 jets, but sixteen effective ones."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(500, 3000, 8_000)
    weight = np.where(truth > 2000, np.where(rng.uniform(size=8_000) < 0.005, 1e5, 1.0), 1.0)
    weight[truth < 600] = 0
    found = hepcal.train(weighted_pairs(truth, weight, 1), hepcal.Likelihood(**QUICK | {"max_updates": 100}), seed=1)
    low, high = found.support
    assert low == pytest.approx(600, abs=15)
    assert 1800 < high < 2150
    outside = np.mean((truth < 600) | (truth > high))
    assert found.card.figures["outside_support"] == pytest.approx(outside, abs=0.02)
    assert found.card.figures["truth_high"] == pytest.approx(high)
    assert "fewer than 25 effective jets lie within a resolution" in capsys.readouterr().err


def test_stitched_slices_over_nine_orders_of_magnitude_are_learned_everywhere() -> None:
    """Spectrum z^-10 in slices of equally many jets: the weights say nothing of the response."""
    edges = np.geomspace(300, 2700, 5)
    rng = np.random.default_rng(2)
    slices = [(low**-9 + rng.uniform(size=5_000) * (high**-9 - low**-9)) ** (-1 / 9) for low, high in pairwise(edges)]
    weight = np.repeat((edges[:-1] / 300) ** -9, 5_000)
    assert weight.max() / weight.min() > 1e6
    pairs = weighted_pairs(np.concatenate(slices), weight, 3)
    found = hepcal.train(pairs, hepcal.Likelihood(**QUICK), seed=1, show=False)
    low, high = found.support
    assert low < 310
    assert high > 2500
    for z in (400.0, 800.0, 1500.0, 2300.0):
        reco = z * np.random.default_rng(4).normal(0.95, 0.05, 20_000)
        prediction = found.predict(np.empty((len(reco), 0)), reco)
        assert np.median(prediction.mean) / z == pytest.approx(1, abs=0.006)
        assert np.median(prediction.sigma_pred) / z < 0.005


def test_a_factor_that_depends_on_the_truth_alone_changes_nothing() -> None:
    """Weights that are a power of the truth give the calibration of unweighted jets, to the statistics of the draws."""
    truth = toy_pairs(10_000, 1, "flat").truth
    plain, steep = (
        hepcal.train(weighted_pairs(truth, weight, 5), hepcal.Likelihood(**QUICK), seed=1, show=False)
        for weight in (np.ones(len(truth)), truth**-8.0)
    )
    reco = np.linspace(1900, 3600, 500)
    first, second = (c.predict(np.empty((500, 0)), reco) for c in (plain, steep))
    assert second.mean == pytest.approx(first.mean, rel=0.004)
    assert second.sigma_stoch == pytest.approx(first.sigma_stoch, rel=0.05)


def test_relative_weights_of_jets_of_the_same_truth_are_kept() -> None:
    """Half of the jets have the response 0.8 and weigh three: the median response is theirs, not the one between."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(1000, 3000, 20_000)
    low = rng.uniform(size=20_000) < 0.5
    reco = truth * np.where(low, 0.8, 1.0) * rng.normal(1, 0.04, 20_000)
    weight = np.where(low, 3.0, 1.0) * truth**-6.0
    pairs = hepcal.JetPairs.from_arrays(np.empty((20_000, 0)), [], reco=reco, truth=truth, weight=weight)
    found = hepcal.train(pairs, hepcal.Likelihood(**QUICK), seed=1, show=False)
    # Three quarters have 0.8: the median is their quantile 2/3.
    prediction = found.predict(np.empty((1, 0)), np.array([2000 * 0.8 * (1 + 0.04 * norm.ppf(2 / 3))]))
    assert prediction.mean[0] == pytest.approx(2000, rel=0.01)


def test_a_weak_but_rising_response_keeps_its_support() -> None:
    """x goes as the root of z: slope 1/2, above the 0.4 below which jets are flagged."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(600, 3000, 20_000)
    reco = 30 * np.sqrt(truth) * rng.normal(1, 0.1, 20_000)
    pairs = hepcal.JetPairs.from_arrays(np.empty((20_000, 0)), [], reco=reco, truth=truth)
    found = hepcal.train(pairs, hepcal.Likelihood(**QUICK), seed=1, show=False)
    low, high = found.support
    assert low < 650
    assert high > 2800


def test_slopes_are_taken_across_a_resolution() -> None:
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    values = torch.stack([2 * grid, grid + 0.02 * torch.sin(200 * grid)])
    found = slopes(grid, values, 0.2)
    assert found[0].numpy() == pytest.approx(2)
    assert found[1].numpy() == pytest.approx(1, abs=0.21)
    assert float(slopes(grid, values, 1e-3)[1].min()) < 0


@pytest.mark.parametrize("stop", [150, 600])
def test_a_summary_training_goes_on_from_its_checkpoint(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the summary, and in the density: the same calibrator as without the interruption."""
    pairs = featured_pairs(3_000, 1)
    short = {"hidden": (8,), "n": 2, "max_updates": 300, "patience": 80}
    method = SummaryLikelihood(
        **short, components=2, summary=hepcal.Ensemble(**short | {"max_updates": 400}, schedule="cosine")
    )
    whole = hepcal.train(pairs, method, seed=1, show=False)
    original, count = MembersObjective.backward, iter(range(10**9))

    def interrupted(self: MembersObjective, *arguments: object) -> None:
        if next(count) == stop:
            raise KeyboardInterrupt
        original(self, *arguments)

    path = tmp_path / "training.checkpoint"
    monkeypatch.setattr(MembersObjective, "backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hepcal.train(pairs, method, seed=1, show=False, checkpoint=path)
    assert path.exists()
    done = []
    monkeypatch.setattr(MembersObjective, "backward", lambda self, *a: (done.append(1), original(self, *a)))
    assert hepcal.train(pairs, method, seed=1, show=False, checkpoint=path).sha256 == whole.sha256
    assert len(done) < 700
    # A finished one gives the same calibrator again without an update.
    done.clear()
    assert hepcal.train(pairs, method, seed=1, show=False, checkpoint=path).sha256 == whole.sha256
    assert not done


def test_settings_of_a_summary_are_checked() -> None:
    assert SummaryLikelihood(n=3, summary={"method": "mse"}).summary == hepcal.MSE()
    dumped = SummaryLikelihood(**QUICK, summary=SUMMARY).model_dump(mode="json")
    # Each of its networks has a bootstrap sample of its own, as that of the density that it is paired with.
    assert SummaryLikelihood.model_validate(dumped).summary == SUMMARY.model_copy(update={"starts": 1})
    assert SummaryLikelihood().summary.starts == 1
    with pytest.raises(ValidationError, match="give both the same number"):
        SummaryLikelihood(n=4, summary=SUMMARY)
    with pytest.raises(ValidationError, match="a summary needs 'method'"):
        SummaryLikelihood(summary={"method": "magic"})
    with pytest.raises(ValidationError, match="the summary is a regression"):
        SummaryLikelihood(n=3, summary=hepcal.Likelihood(**QUICK))


def test_a_summary_is_flagged_where_it_loses() -> None:
    edges = np.log([400.0, 500, 600, 700, 800, 900, 1000])
    full = np.array([np.nan, 0.11, 0.098, 0.103, 0.101, 0.2])
    found = Comparison(
        edges, np.log([450.0, 550, 650, 750, 850, 950]), np.array([0, 1]), np.stack([0 * full + 0.1, full])
    )
    found.resolution[0] = 0.1
    assert range_of_gain(found) == (edges[2], edges[5])
    found.resolution[1] = 0.2
    with pytest.raises(TrainingError, match="where_it_loses='blend'"):
        range_of_gain(found)


def test_a_summary_that_is_flagged_is_trusted_and_bounds_the_support() -> None:
    """Few jets below 900 GeV, in which the feature says nothing of the response and scatters more."""
    rng = np.random.default_rng(3)
    truth = np.concatenate([rng.uniform(300, 900, 1_200), 900 + rng.exponential(200, 12_000)])
    feature, few = rng.standard_normal((len(truth), 1)), truth < 900
    reco = truth * (1 + 0.06 * rng.standard_normal(len(truth)) + np.where(few, 0, 0.08) * feature[:, 0])
    feature = np.where(few[:, None], 3 * rng.standard_normal(feature.shape), feature)
    pairs = hepcal.JetPairs.from_arrays(feature, ["width"], reco=reco, truth=truth)
    settings = {**QUICK, "summary": SUMMARY}
    flag, blend = (
        hepcal.train(pairs, SummaryLikelihood(**settings, where_it_loses=where), seed=1, show=False)
        for where in ("flag", "blend")
    )
    assert flag.tensors["trust"][1:].min() == 1
    assert blend.tensors["trust"][1:, 0].max() < 0.5
    low = {name: c.card.figures["truth_low"] for name, c in (("flag", flag), ("blend", blend))}
    assert low["blend"] < 400
    assert low["flag"] > 600
    soft = np.array([[0.0]]), np.array([500.0])
    assert blend.predict(*soft).in_range[0]
    assert not flag.predict(*soft).in_range[0]


def test_every_network_is_trained_on_its_own_targets() -> None:
    """A table with targets (n, M): the loss is the sum of those of single networks, each with its column."""
    generator = torch.Generator().manual_seed(1)
    head, layout = MixtureHead(2), DenseLayout((1, 5, 6))
    networks = Members(layout, 3, generator)
    x, y, w = torch.randn((40, 1)), torch.randn((40, 3)), torch.ones(40)
    together = MembersObjective(networks, head, 0.0)
    rows = torch.arange(0, 40, 2)
    batch = together.batch((x, y, w), rows)
    assert batch[1].shape == (3, 20)
    expected = [head.nll(networks.one(k, x[rows]), y[rows, k]).mean() for k in range(3)]
    assert float(together.loss(*batch, generator).detach()) == pytest.approx(
        sum(float(e.detach()) for e in expected), rel=1e-5
    )
    together.backward(*batch, generator)
    by_hand = networks.weights.grad.clone()
    MembersObjective(networks, head, 0.0, autograd=True).backward(*batch, generator)
    assert by_hand.numpy() == pytest.approx(networks.weights.grad.numpy(), abs=1e-5)
    held_out = together.held_out_loss(x, y, w)
    assert held_out.numpy() == pytest.approx(
        [float(head.nll(networks.one(k, x), y[:, k]).mean().detach()) for k in range(3)], rel=1e-5
    )
