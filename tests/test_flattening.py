"""Trainings without the truth spectrum: weights, batches, support, and how far a summary is trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hepcal
from hepcal.errors import CalibratorFileError, TrainingError
from hepcal.methods.likelihood.summary import SummaryLikelihood
from hepcal.methods.likelihood.trust import compared, trusted
from hepcal.methods.training.flattening import LEAST_JETS, Flattening, flattened, spread_order
from hepcal.networks.optimisation import _Batches

RESOLUTION = 0.1


def falling(n: int, seed: int) -> np.ndarray:
    """Ln truth of a spectrum z^-5 from 30 GeV, and ln of what is measured."""
    rng = np.random.default_rng(seed)
    log_truth = np.log(30 * rng.uniform(size=n) ** -0.25)
    return np.stack([log_truth, log_truth + rng.normal(-0.05, RESOLUTION, n)])


def test_weights_do_not_follow_the_spectrum_but_the_root_of_the_number_of_jets() -> None:
    log_truth, log_reco = falling(200_000, 1)
    found, weight = flattened(log_truth, log_reco, np.ones(len(log_truth)))
    assert found.resolution == pytest.approx(RESOLUTION, rel=0.02)
    assert weight.mean() == pytest.approx(1)
    edges = np.log([30, 36, 43, 52, 62, 75])
    jets, sums = (np.histogram(log_truth, edges, weights=w)[0] / np.diff(edges) for w in (None, weight))
    assert sums / sums[0] == pytest.approx(np.sqrt(jets / jets[0]), rel=0.06)
    assert (
        Flattening.of(log_truth, np.ones(len(log_truth)), RESOLUTION, power=0)(log_truth, np.ones(len(log_truth))).std()
        > weight.std()
    )


@pytest.mark.parametrize("power", [-30, 8])
def test_a_power_of_the_truth_in_the_weights_is_divided_out(power: int) -> None:
    """Over a factor 1e30 and more, where squares of weights leave the range of numbers."""
    log_truth, log_reco = falling(20_000, 2)
    _, plain = flattened(log_truth, log_reco, np.ones(20_000))
    _, steep = flattened(log_truth, log_reco, 1e200 * np.exp(power * (log_truth - log_truth[0])))
    edges = np.log([30, 40, 55, 75, 100])
    sums = [np.histogram(log_truth, edges, weights=w)[0] for w in (plain, steep)]
    assert sums[1] == pytest.approx(sums[0], rel=0.25)


def test_relative_weights_within_an_interval_stay() -> None:
    log_truth, log_reco = falling(20_000, 3)
    weight = np.random.default_rng(1).choice([0.0, 1.0, 3.0], 20_000)
    found, flat = flattened(log_truth, log_reco, weight)
    number = np.clip(np.searchsorted(found.edges, log_truth, side="right") - 1, 0, len(found.factor) - 1)
    for k in range(0, len(found.factor), 7):
        inside = (number == k) & (weight > 0)
        assert flat[inside] / weight[inside] == pytest.approx((flat[inside] / weight[inside])[0])
    assert not flat[weight == 0].any()


def test_effective_jets_are_counted_within_a_resolution_whatever_lies_elsewhere() -> None:
    """A billion times the weight on one side is no reason to lose the jets of the other one."""
    rng = np.random.default_rng(1)
    log_truth = rng.uniform(3, 7, 40_000)
    weight = np.where(log_truth < 5, 1e9, 1e-9)
    found = Flattening.of(log_truth, weight, 0.1)
    jets = found.effective_jets(log_truth, weight, np.array([2.0, 3.5, 6.5, 9.0]))
    assert jets == pytest.approx([0, 2_000, 2_000, 0], rel=0.1)
    grid = np.linspace(3, 7, 256)
    assert found.known(log_truth, weight, grid).all()
    weight[log_truth > 6] = np.where(rng.uniform(size=np.sum(log_truth > 6)) < 0.002, 1.0, 1e-9)
    known = found.known(log_truth, weight, grid)
    assert known[grid < 5.8].all()
    assert not known[grid > 6.2].any()
    assert LEAST_JETS < 100


def test_a_table_without_a_spectrum_or_without_weights_is_refused() -> None:
    with pytest.raises(TrainingError, match="too narrow a range"):
        flattened(np.full(100, 3.0), np.full(100, 3.1), np.ones(100))
    with pytest.raises(TrainingError, match="no jet has a positive weight"):
        flattened(np.linspace(1, 2, 100), np.linspace(1, 2, 100), np.zeros(100))


def test_batches_draw_rows_as_often_as_their_share_says_and_spread_over_the_table() -> None:
    rng = np.random.default_rng(1)
    share = rng.uniform(0, 3, 4_000)
    share[:500] = 0
    batches = _Batches(4_000, 100, torch.Generator().manual_seed(1), share)
    drawn = torch.stack([batches.next() for _ in range(40)])
    count = np.bincount(drawn.flatten().numpy(), minlength=4_000)
    expected = 4_000 * share / share.sum()
    assert np.abs(count - expected).max() < 1
    ends = np.cumsum(share) / share.sum()
    # One row of every hundredth of the shares in every batch.
    parts = np.sort(np.floor(ends[drawn.numpy() - 0] * 100 - 1e-3), axis=1)
    assert np.abs(parts - np.arange(100)).max() <= 1
    again = _Batches(4_000, 100, torch.Generator().manual_seed(1), share)
    assert torch.equal(torch.stack([again.next() for _ in range(40)]), drawn)
    # The next pass is another one.
    assert not torch.equal(torch.stack([batches.next() for _ in range(40)]), drawn)


def test_without_shares_batches_are_those_of_before() -> None:
    batches = _Batches(1_000, 100, torch.Generator().manual_seed(3))
    expected = torch.randperm(1_000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([batches.next() for _ in range(10)]), expected)


def test_the_order_of_the_jets_spreads_a_batch_over_truth_and_response() -> None:
    """Means over batches of evenly spaced jets scatter less than those of random ones by a factor of three."""
    log_truth, log_reco = falling(50_000, 4)
    share = np.ones(50_000)
    order = spread_order(log_truth, log_reco, share, 250)
    assert np.array_equal(np.sort(order), np.arange(50_000))
    batches = _Batches(50_000, 250, torch.Generator().manual_seed(1), share)
    rows = order[torch.stack([batches.next() for _ in range(100)]).numpy()]
    for values, gain in ((log_truth, 3), ((log_reco - log_truth), 3)):
        assert values[rows].mean(1).std() < values.std() / np.sqrt(250) / gain


# -- trust ------------------------------------------------------------------------------------------------------------


def test_a_summary_is_trusted_where_it_resolves_and_not_where_it_is_noise() -> None:
    """Below 6.5 in ln truth it is twice as wide as reco p_T, above half as wide."""
    rng = np.random.default_rng(1)
    log_truth = rng.uniform(6, 7.5, 40_000)
    noise, own = rng.normal(0, 0.1, (2, 40_000))
    log_reco = log_truth + noise
    log_summary = log_truth + own * np.where(log_truth < 6.6, 2.0, 0.5)
    found = compared(log_truth, log_reco, log_summary, np.ones(40_000), 0.1)
    knots, trust = trusted(found)
    at = np.interp([6.2, 7.2], knots, trust)
    # Independent measurements: the best share of the summary is one over its variance, 0.2 and 0.8.
    assert at == pytest.approx([0.2, 0.8], abs=0.15)
    best = np.nanmin(found.resolution, axis=0)
    assert np.all(best <= 1.001 * found.resolution[0])
    assert np.all(best <= 1.001 * found.resolution[-1])


def test_a_bin_that_a_bootstrap_sample_leaves_empty_does_not_decide() -> None:
    """As with few events that have many jets each, all near one truth."""
    rng = np.random.default_rng(2)
    log_truth = rng.uniform(6, 7.5, 20_000)
    log_reco, log_summary = log_truth + rng.normal(0, 0.1, (2, 20_000))
    full = compared(log_truth, log_reco, log_summary, np.ones(20_000), 0.05)
    bins, number = len(full.reco), np.searchsorted(full.edges[1:-1], log_truth, side="right")
    for empty in (0, 6, bins - 1):
        weight = np.where(number == empty, 0.0, 1.0)
        knots, trust = trusted(compared(log_truth, log_reco, log_summary, weight, 0.05, edges=full.edges))
        rest = np.delete(np.arange(bins), empty)
        np.testing.assert_array_equal(knots, full.reco[rest])
        assert ((trust >= 0) & (trust <= 1)).all()
        # A slope reaches one bin far, averages one and two.
        far = np.abs(rest - empty) > 4
        assert far.any()
        np.testing.assert_array_equal(trust[far], trusted(full)[1][rest][far])


def noisy_pairs(n: int, seed: int) -> hepcal.JetPairs:
    """Six features that say nothing, and next to no jets below 1 TeV."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.uniform(size=n) < 0.15, rng.uniform(500, 1000, n), 1000 + rng.exponential(150, n))
    reco = truth * rng.normal(0.95, 0.08, n)
    return hepcal.JetPairs.from_arrays(rng.normal(size=(n, 6)), [f"f{i}" for i in range(6)], reco=reco, truth=truth)


@pytest.fixture(scope="module")
def noisy_summary() -> hepcal.Calibrator:
    quick = {"n": 3, "schedule": "cosine", "max_updates": 600}
    summary = hepcal.Ensemble(**quick, hidden=(32, 32), batch=500, learning_rate=5e-3)
    method = SummaryLikelihood(**quick, hidden=(16, 16), components=3, summary=summary)
    return hepcal.train(noisy_pairs(8_000, 1), method, seed=1, show=False)


def test_a_summary_of_noise_loses_nothing_against_the_detector_level_pt(noisy_summary: hepcal.Calibrator) -> None:
    """Up to the statistics of 3,600 jets each for the regression, the trust and the density; and the card says so."""
    test = noisy_pairs(100_000, 2)
    response = noisy_summary.predict(test.features, test.reco).mean / test.truth
    for low, high in ((600, 750), (750, 950), (1050, 1400)):
        inside = (test.truth > low) & (test.truth < high)
        ends = np.quantile(response[inside], [0.1587, 0.8413])
        assert (ends[1] - ends[0]) / 2 < 1.1 * 0.08 / 0.95
    ratios = [x for name, x in noisy_summary.card.figures.items() if name.startswith("resolution_over_reco")]
    assert ratios
    assert max(ratios) < 1.1


def test_the_trust_is_saved_checked_and_all_the_way_in_older_files(noisy_summary: hepcal.Calibrator) -> None:
    tensors = dict(noisy_summary.tensors)
    trust = tensors["trust"].clone()
    build = type(noisy_summary)
    for wrong in (torch.stack([trust[0], trust[1] + 2]), trust.flip(1)):
        with pytest.raises(CalibratorFileError, match="rising knots and shares between 0 and 1"):
            build(noisy_summary.card, tensors | {"trust": wrong})
    for wrong in (trust[:-1], trust[:, :0], trust[0], trust[0, 0]):
        with pytest.raises(CalibratorFileError, match="tensor 'trust' is"):
            build(noisy_summary.card, tensors | {"trust": wrong})
    test = noisy_pairs(50, 3)
    all_the_way = build(noisy_summary.card, tensors | {"trust": torch.stack([trust[0], torch.ones_like(trust[1])])})
    each = build(noisy_summary.card, tensors | {"trust": torch.stack([trust[0], *torch.ones_like(trust[1:])])})
    del tensors["trust"]
    older = build(noisy_summary.card, tensors)
    first, *others = (c.predict(test.features, test.reco).mean for c in (all_the_way, each, older))
    assert all(np.array_equal(first, other) for other in others)


def test_every_network_of_a_summary_is_trusted_as_its_own_bootstrap_sample_says(noisy_summary, tmp_path) -> None:
    """The choice of the trust is part of the statistical error: replicas do not share it; files keep it."""
    trust = noisy_summary.tensors["trust"][1:].numpy()
    assert len(trust) == noisy_summary.summary.replicas == 3
    assert np.ptp(trust, axis=0).max() > 0.01
    path = tmp_path / "summary.safetensors"
    noisy_summary.save(path)
    test = noisy_pairs(50, 3)
    again = hepcal.Calibrator.load(path).predict(test)
    assert np.array_equal(again.replicas(), noisy_summary.predict(test).replicas())


def test_a_reconstruction_without_errors_has_no_resolution_to_compare_with() -> None:
    """Refused, without a warning of a division by zero on the way."""
    truth = 100 * (1 - np.random.default_rng(5).uniform(0, 0.98, 1_500)) ** -0.5
    feature = np.random.default_rng(6).normal(size=(1_500, 1))
    jets = hepcal.JetPairs.from_arrays(feature, ["f"], reco=truth, truth=truth)
    quick = {"n": 2, "hidden": (8,), "max_updates": 60, "schedule": "cosine"}
    with pytest.raises(TrainingError, match=r"and [0-9]% of it have 25 effective jets within a resolution"):
        hepcal.train(jets, SummaryLikelihood(**quick, summary=hepcal.Ensemble(**quick)), seed=1, show=False)
