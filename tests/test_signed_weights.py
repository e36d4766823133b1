"""Signed weights: positive ones of the same sums, trainings on them, and calibrators that are refused."""

import dataclasses

import numpy as np
import pytest
import torch

import hepcal
from hepcal.errors import CollapsedWarning, TrainingError
from hepcal.methods.regression.ensemble import multiplicities
from hepcal.methods.training import trainer
from hepcal.methods.training.collapse import misses_dependence
from hepcal.methods.training.positive_weights import coordinates, with_positive_weights
from hepcal.methods.training.sanity import require_sane
from hepcal.tables.signed_weights import shared

QUICK = {"hidden": (8, 8), "max_updates": 500, "schedule": "cosine", "learning_rate": 3e-3}
RESPONSE, RESOLUTION = 0.9, 0.1


def signed_jets(jets, share=0.2, seed=0, *, place=True, two_in_event=False):
    """A response of 0.9 with 10 % resolution as the signed density, negative jets mostly at low response."""
    rng = np.random.default_rng(seed)
    truth, pull = 200 * (1 - 0.98 * rng.uniform(0, 1, 8 * jets)) ** -0.5, rng.normal(size=8 * jets)
    negative = share * (1 - 0.6 * np.tanh(pull)) if place else np.full(8 * jets, share)
    rows = np.flatnonzero(rng.uniform(0, 1, 8 * jets) * (1 - 2 * negative) < 1 - 2 * negative.max())[:jets]
    weight = np.where(rng.uniform(0, 1, 8 * jets) < negative, -1.0, 1.0)[rows]
    reco = (truth * RESPONSE * (1 + RESOLUTION * pull))[rows]
    event = np.arange(jets) // (2 if two_in_event else 1)
    if two_in_event:
        weight = weight[event * 2]
    empty = np.empty((jets, 0))
    return hepcal.JetPairs.from_arrays(empty, [], reco=reco, truth=truth[rows], weight=weight, event=event)


def cells_of(pairs):
    return with_positive_weights(pairs, pairs, coordinates)[2]


@pytest.fixture(scope="module")
def jets():
    return signed_jets(4_000)


@pytest.fixture(scope="module")
def cells(jets):
    return cells_of(jets)


def test_positive_weights_keep_the_sums_of_all_cells(cells):
    assert (cells.signed < 0).mean() > 0.15
    assert (cells.positive >= 0).all()
    signed, positive = (np.bincount(cells.number, weight) for weight in (cells.signed, cells.positive))
    assert len(signed) > 15
    np.testing.assert_allclose(positive, signed, rtol=1e-12)
    squares = np.bincount(cells.number, cells.signed**2)
    assert (signed >= 5 * np.sqrt(squares)).all()
    assert cells.emptied == 0


def test_positive_weights_keep_the_mean_and_width_of_the_response(jets, cells):
    response = (jets.reco / jets.truth).astype(np.float64)
    mean, signed = (np.average(response, weights=weight) for weight in (cells.positive, cells.signed))
    assert mean == pytest.approx(signed, rel=5e-4)
    assert np.average(response, weights=np.abs(cells.signed)) < 0.99 * signed  # what dropping the signs does
    width = np.sqrt(np.average((response - mean) ** 2, weights=cells.positive))
    assert width == pytest.approx(RESPONSE * RESOLUTION, rel=0.06)


def test_cells_do_not_depend_on_the_order_of_the_jets(jets, cells):
    order = np.random.default_rng(1).permutation(len(jets))
    again = cells_of(jets.take(order))
    assert np.array_equal(again.number, cells.number[order])
    assert np.array_equal(again.positive, cells.positive[order])


def test_without_negative_weights_nothing_changes():
    pairs = signed_jets(200, share=0.0)
    fitted, held_out, cells = with_positive_weights(pairs, pairs, coordinates)
    assert fitted is pairs
    assert held_out is pairs
    assert cells is None


def test_jets_far_from_negative_ones_keep_their_weights():
    pairs = signed_jets(2_000, share=0.0)
    weight = np.linspace(1, 2, len(pairs))
    weight[pairs.truth == pairs.truth.min()] = -1
    cells = cells_of(dataclasses.replace(pairs, weight=weight))
    far = pairs.truth > 400
    np.testing.assert_allclose(cells.positive[far], weight[far], rtol=1e-12)


def test_jets_that_cancel_get_no_weight():
    """A copy of every second jet of half the response is subtracted: nothing is left of them."""
    pairs = signed_jets(8_000, share=0.0)
    reco = np.where(np.arange(len(pairs)) % 2, pairs.reco, 0.5 * pairs.reco)
    rows = np.concatenate([np.arange(len(pairs)), np.arange(0, len(pairs), 2)])
    weight = np.where(np.arange(len(rows)) < len(pairs), 1.0, -1.0)
    table = dataclasses.replace(dataclasses.replace(pairs, reco=reco).take(rows), weight=weight)
    cells = cells_of(table)
    gone = table.reco < 0.6 * table.truth
    assert cells.positive[gone].sum() < 2e-3 * cells.positive.sum()
    assert cells.positive.sum() == pytest.approx(weight.sum(), rel=1e-12)
    assert cells.emptied > 0.5


@pytest.mark.parametrize("two_in_event", [False, True])
def test_bootstrap_samples_fluctuate_as_the_signed_weights(two_in_event):
    pairs = signed_jets(4_000, seed=3, two_in_event=two_in_event)
    cells = cells_of(pairs)
    drawn = multiplicities(pairs.event, 400, torch.Generator().manual_seed(1)).numpy()
    weight = cells.positive[:, None] * cells.resampled(drawn)
    for part in (np.ones(len(pairs), bool), pairs.truth > 280, pairs.reco < 0.9 * pairs.truth):
        of_events = np.bincount(pairs.event, np.where(part, pairs.weight, 0))
        sums = weight[part].sum(0)
        assert sums.mean() == pytest.approx(cells.positive[part].sum(), rel=0.03)
        assert sums.var() == pytest.approx(np.sum(of_events**2), rel=0.3)
    assert shared(pairs.weight, pairs.event) == (2 if two_in_event else 1)


def test_a_sample_of_nothing_but_noise_is_refused_with_the_numbers():
    pairs = signed_jets(3_000, place=False)
    weight = np.where(np.arange(len(pairs)) % 2, 1.0, -0.98)
    with pytest.raises(TrainingError, match=r"1500 of 3000 training jets have negative weights.*n_eff.*Take more jets"):
        hepcal.train(dataclasses.replace(pairs, weight=weight), hepcal.MSE(), show=False)


METHODS = {
    "ensemble": hepcal.Ensemble(n=4, **QUICK),
    "parts": hepcal.Ensemble(n=2, sample="parts", **QUICK),
    "mse": hepcal.MSE(**QUICK),
    "bnn": hepcal.BNN(draws=4, **QUICK),
    "dropout": hepcal.Dropout(draws=4, **QUICK),
    "noisy_labels": hepcal.NoisyLabels(method=hepcal.Ensemble(n=2, **QUICK), fraction=0.04),
    "inversion": hepcal.NumericalInversion(n=10),
    "generalised": hepcal.GeneralisedInversion(**QUICK),
    "gaussian_ansatz": hepcal.GaussianAnsatz(hidden=(8,), epochs=1, iterations=10),
    "likelihood": hepcal.Likelihood(n=2, **QUICK),
    "summary": hepcal.SummaryLikelihood(n=2, summary=hepcal.Ensemble(n=2, **QUICK), **QUICK),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_a_fifth_of_negative_weights(jets, name):
    """Dropping the signs would give 0.975; a loss without a bound, anything."""
    calibrator = hepcal.train(jets, METHODS[name], seed=1, show=False)
    prediction = calibrator.predict(jets.features, jets.reco)
    response = prediction.mean.astype(np.float64) / jets.truth
    assert np.average(response, weights=jets.weight) == pytest.approx(1, abs=0.025)
    assert (response > 0.5).all()
    assert (response < 2).all()
    assert calibrator.card.source.n_eff == pytest.approx(0.9 * jets.n_eff, rel=0.05)
    for part in calibrator.card.parts.values():
        assert part.source.n_eff <= calibrator.card.source.n_eff
    if prediction.sigma_stoch is not None:
        sigma = np.median(prediction.sigma_stoch / prediction.mean)
        assert sigma == pytest.approx(RESOLUTION, rel=0.25)


def test_the_inversion_trains_on_any_sample_and_knows_the_resolution():
    for seed in range(8):
        pairs = signed_jets(5_000, seed=seed, place=False)
        found = hepcal.train(pairs, hepcal.NumericalInversion(), seed=seed, show=False)
        reco = np.array([250.0, 400.0, 700.0])
        prediction = found.predict(np.empty((3, 0)), reco)
        np.testing.assert_allclose(prediction.mean, reco / RESPONSE, rtol=0.03)
        np.testing.assert_allclose(prediction.sigma_stoch / prediction.mean, RESOLUTION, rtol=0.25)


def test_the_kl_term_and_the_bootstrap_know_the_signed_weights(jets, monkeypatch):
    seen = []
    objective = hepcal.Ensemble.objective

    def watched(self, sample, generator):
        seen.append(sample)
        made = objective(self, sample, generator)
        seen.append(made.multiplicity)
        return made

    monkeypatch.setattr(hepcal.Ensemble, "objective", watched)
    method = hepcal.Ensemble(n=20, hidden=(4,), max_updates=2)
    with pytest.warns(CollapsedWarning):  # two updates teach nothing
        hepcal.train(jets, method, seed=1, show=False)
    sample, factors = seen
    assert sample.n_eff == pytest.approx(0.9 * jets.n_eff, rel=0.05)
    total = (torch.from_numpy(sample.cells.positive)[:, None] * factors).sum(0)
    assert float(total.std()) == pytest.approx(len(sample.event) ** 0.5, rel=0.5)


def test_signs_take_no_more_from_a_summary_of_stitched_slices_than_they_do(jets):
    """The sum of weights is that of the heaviest slice, but the summary does not follow it."""
    truth = np.exp(np.random.default_rng(2).uniform(np.log(100), np.log(1000), len(jets))).astype(np.float32)
    slices = 1e9 ** -np.floor(4 * np.log(truth / 100) / np.log(10))
    reco = truth * jets.reco / jets.truth
    net = {"hidden": (8,), "max_updates": 50, "schedule": "cosine"}
    method = hepcal.SummaryLikelihood(n=2, summary=hepcal.Ensemble(n=2, **net), components=2, **net)
    found = []
    for sign in (np.abs(jets.weight), jets.weight):
        table = dataclasses.replace(jets, truth=truth, reco=reco, weight=slices * sign)
        found.append(hepcal.train(table, method, show=False).card.parts["summary"].source.n_eff)
    left = (jets.weight.sum() / np.abs(jets.weight).sum()) ** 2
    assert found[1] == pytest.approx(left * found[0], rel=0.3)


def test_few_negative_weights_of_few_jets_train(shared):
    """Two of 398 jets of top pairs: pt_calib was up to 20 times the truth with these settings, 509 with others."""
    files = [str(shared / "data" / "nanoaod" / "nano_tt_v12.root")]
    pairs = hepcal.JetPairs.from_fileset({"tt": {"files": files}}, show=False)
    assert (pairs.weight < 0).sum() == 2
    method = hepcal.Ensemble(n=2, hidden=(64, 64), max_updates=1_000, learning_rate=3e-3)
    found = hepcal.train(pairs, method, show=False)
    response = found.predict(pairs.features, pairs.reco).mean / pairs.truth
    assert response.min() > 0.2
    assert response.max() < 3


def test_negative_weights_never_reach_a_loss(jets, monkeypatch):
    monkeypatch.setattr(trainer, "with_positive_weights", lambda fitted, held_out, _: (fitted, held_out, None))
    with pytest.raises(TrainingError, match="weights are negative, with which the loss has no lower bound"):
        hepcal.train(jets, hepcal.MSE(**QUICK), show=False)


def test_a_loss_below_that_of_any_density_is_none(monkeypatch):
    monkeypatch.setattr(
        "hepcal.networks.objectives.MembersObjective.held_out_loss", lambda *_: torch.tensor([-358_359.0])
    )
    with pytest.raises(TrainingError, match="held-out loss became"):
        hepcal.train(signed_jets(200, share=0.0), hepcal.MSE(**QUICK), show=False)


@pytest.fixture(scope="module")
def trained():
    pairs = signed_jets(1_000, share=0.0)
    return hepcal.train(pairs, hepcal.Ensemble(n=2, **QUICK), show=False), pairs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": 4.0}, "the sum of pt_calib is 0.2"),
        ({"truth": 0.1}, "pt_calib / reco lies between"),
    ],
)
def test_a_calibrator_that_is_off_by_factors_is_refused(trained, change, message):
    calibrator, pairs = trained
    require_sane(calibrator, pairs, pairs)
    other = dataclasses.replace(pairs, **{name: getattr(pairs, name) * by for name, by in change.items()})
    with pytest.raises(TrainingError, match=message):
        require_sane(calibrator, other, other)


def test_negative_or_infinite_predictions_are_refused(trained, monkeypatch):
    calibrator, pairs = trained
    good = calibrator.predict(pairs.features, pairs.reco)
    for values, message in ((-good.mean, "is not positive for 1000"), (good.mean * np.inf, "not finite for 1000")):
        bad = dataclasses.replace(good, mean=values)
        monkeypatch.setattr(type(calibrator), "predict", lambda *_, bad=bad: bad)
        with pytest.raises(TrainingError, match=message):
            require_sane(calibrator, pairs, pairs)


def test_a_constant_calibration_of_constant_jets_has_not_collapsed():
    """Nothing depends on anything: saying the same of every jet is right."""
    rng = np.random.default_rng(0)
    reco = rng.uniform(200, 800, 600)
    truth = reco * (1.1 + 0.1 * rng.normal(size=600))
    features = rng.uniform(0, 1, (600, 1))
    pairs = hepcal.JetPairs.from_arrays(features, ["x"], reco=reco, truth=truth)
    narrow = hepcal.BNN(prior_width=1e-4, draws=4, **QUICK)
    found = hepcal.train(pairs, narrow, show=False)
    assert found.card.figures["sensitivity"] < 0.02
    assert found.card.figures["collapsed"] == 0
    other = dataclasses.replace(pairs, truth=(pairs.truth * (1 + 0.1 * (features[:, 0] - 0.5))).astype(np.float32))
    assert misses_dependence(found, other)
