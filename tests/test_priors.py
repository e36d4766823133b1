"""Other spectra of the same jets, and the shift of the same jets between trainings on them."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

import hepcal
from hepcal.distributions.prediction import Prediction
from hepcal.errors import PairsError
from hepcal.evaluation.priors import Above, Flat, Steeper, prior_dependence, spectra
from hepcal.statistics import n_eff

EDGES = (800.0, 1000.0, 1300.0, 1800.0)
LOW, FALL, SCALE, SIGMA = 800.0, 250.0, 0.95, 0.05


def table(events=4000, seed=1, weight=None):
    """Two jets per event of a falling spectrum, with a Gaussian response of 5 %, and one input that is noise."""
    rng = np.random.default_rng(seed)
    truth = LOW + rng.exponential(FALL, 2 * events)
    reco = truth * rng.normal(SCALE, SIGMA, 2 * events)
    return hepcal.JetPairs.from_arrays(
        rng.normal(size=(2 * events, 1)), ["noise"], reco=reco, truth=truth, weight=weight,
        event=np.repeat(np.arange(events), 2),
    )  # fmt: skip


def predicted(mean, sigma_pred=None, in_range=None):
    mean = np.asarray(mean, dtype=np.float32)
    inside = np.ones(len(mean), dtype=bool) if in_range is None else in_range
    sigma = None if sigma_pred is None else np.full(len(mean), sigma_pred, dtype=np.float32)
    return Prediction(mean=mean, sigma_stoch=None, sigma_pred=sigma, in_range=inside)


# -- spectra ----------------------------------------------------------------------------------------------------------


def test_a_flat_spectrum_is_flat_within_its_limits():
    pairs = table(40_000)
    (flat,) = spectra(pairs, [Flat(low=850, high=1600)]).values()
    assert 850 <= flat.truth.min() < flat.truth.max() <= 1600
    content, squares = (np.histogram(flat.truth, 10, weights=flat.weight**power)[0] for power in (1, 2))
    assert (np.abs(content / content.mean() - 1) < 4 * np.sqrt(squares) / content).all()
    assert flat.weight.mean() == pytest.approx(1)
    assert flat.n_eff < len(flat)
    # The same jets with the same response and features, not others.
    row = 7
    origin = np.flatnonzero((pairs.reco == flat.reco[row]) & (pairs.truth == flat.truth[row]))
    assert len(origin) == 1
    assert pairs.event[origin[0]] == flat.event[row]
    assert pairs.features[origin[0]] == flat.features[row]


def test_response_at_fixed_truth_does_not_know_the_spectrum():
    pairs = table(40_000)
    for name, made in spectra(pairs, [Flat(high=1800), Above(1150), Steeper(6)]).items():
        chosen = (made.truth > 1200) & (made.truth < 1300)
        weight, response = made.weight[chosen], made.reco[chosen] / made.truth[chosen]
        unc = SIGMA / np.sqrt(n_eff(weight))
        assert np.average(response, weights=weight) == pytest.approx(SCALE, abs=4 * unc), name


def test_spectra_by_cut_and_power():
    pairs = table(weight=np.random.default_rng(2).uniform(0.5, 2, 8000) * 1e-9)
    made = spectra(pairs, [Above(1150), Steeper(6), Steeper(-2)])
    assert list(made) == ["above 1150 GeV", "times truth^-6", "times truth^2"]
    above = made["above 1150 GeV"]
    assert len(above) == (pairs.truth > 1150).sum()
    np.testing.assert_allclose(above.weight, pairs.weight[pairs.truth > 1150])
    steeper = made["times truth^-6"]
    power = np.polyfit(np.log(pairs.truth.astype(float)), np.log(steeper.weight / pairs.weight), 1)[0]
    assert power == pytest.approx(-6)
    assert steeper.weight.mean() == pytest.approx(pairs.weight.mean())
    for name, one in made.items():
        assert one.source["spectrum"] == name
        assert one.spec == pairs.spec
        one.check()


def test_names_say_what_is_done():
    assert [kind.name for kind in (Flat(), Flat(low=900), Flat(900, 2000), Flat(900, convention="unweighted"))] == [
        "flat", "flat > 900 GeV", "flat > 900 GeV < 2000 GeV", "flat > 900 GeV (unweighted)"
    ]  # fmt: skip


def test_both_conventions_are_spectra_of_their_own_and_equal_names_are_refused():
    pairs = table(weight=np.random.default_rng(2).uniform(0.5, 2, 8000))
    made = spectra(pairs, [Flat(), Flat(convention="unweighted")])
    assert list(made) == ["flat", "flat (unweighted)"]
    assert made["flat (unweighted)"].n_eff > made["flat"].n_eff
    with pytest.raises(ValueError, match="more than one is called 'above 900 GeV'"):
        spectra(pairs, [Above(900), Flat(), Above(900.0)])


def test_spectra_without_jets_are_refused():
    with pytest.raises(PairsError, match="no jets of positive weight have the spectrum 'above 1e\\+06 GeV'"):
        spectra(table(50), [Above(1e6)])
    with pytest.raises(PairsError, match="cannot be made flat"):
        spectra(table(20), [Flat(low=5000)])


# -- shifts -----------------------------------------------------------------------------------------------------------


def exact_mse(pairs, tables):
    """E[truth | reco] of each table, from a fine histogram of its jets."""
    edges = np.geomspace(600, 2500, 80)
    out = {}
    for name, one in tables.items():
        sums = [np.histogram(one.reco, edges, weights=one.weight * z)[0] for z in (1, one.truth)]
        with np.errstate(invalid="ignore"):
            ratio = sums[1] / sums[0]
        middle, use = np.sqrt(edges[1:] * edges[:-1]), sums[0] > 0
        out[name] = predicted(np.interp(pairs.reco, middle[use], ratio[use]))
    return out


def effective_events(event):
    """Of jets of weight one: (sum w)² / sum w² of the weights of their events."""
    jets = np.unique(event, return_counts=True)[1]
    return jets.sum() ** 2 / (jets**2).sum()


def test_regression_to_the_mean_moves_with_the_spectrum_and_inversion_does_not():
    pairs, test = table(30_000), table(5000, seed=2)
    tables = {"nominal": pairs, **spectra(pairs, [Flat(high=2500), Steeper(6)])}
    shifts = prior_dependence(exact_mse(test, tables), test, edges=EDGES)
    # b = eps² d ln p / dz with eps = sigma z / scale: a factor z^-6 moves the value by -6 sigma² / scale² z.
    expected = -6 * (SIGMA / SCALE) ** 2
    assert shifts["times truth^-6"].mean[1] == pytest.approx(expected, rel=0.2)
    assert shifts["flat < 2500 GeV"].sample > 0.008
    assert shifts.largest_sample == max((s.sample for s in shifts.shifts.values()), key=abs)
    inverted = {name: predicted(test.reco / SCALE) for name in tables}
    assert prior_dependence(inverted, test, edges=EDGES).largest_sample == 0


def test_figures_of_a_known_shift():
    test = table(3000)
    rng = np.random.default_rng(5)
    relative = rng.normal(0.01, 0.002, len(test))
    first = test.reco.astype(np.float64)
    pair = {"a": predicted(first, sigma_pred=3), "b": predicted(first * (1 + relative), sigma_pred=4)}
    dependence = prior_dependence(pair, test, edges=EDGES)
    assert dependence.reference == "a"
    shift = dependence["b"]
    for index, (low, high) in enumerate(pairwise(EDGES)):
        inside = (test.truth >= low) & (test.truth < high)
        r, n = relative[inside], inside.sum()
        assert shift.n_eff[index] == pytest.approx(effective_events(test.event[inside]), rel=1e-12)
        assert shift.mean[index] == pytest.approx(r.mean(), rel=1e-4)
        assert shift.mean_unc[index] == pytest.approx(0.002 / np.sqrt(n), rel=0.1)
        assert shift.median[index] == pytest.approx(np.median(r), abs=1e-5)
        assert shift.rms[index] == pytest.approx(np.sqrt((r**2).mean()), rel=1e-4)
        assert shift.largest[index] == pytest.approx(r[np.abs(r).argmax()], rel=1e-3)
        pull = first[inside] * r / 5  # 3 and 4 GeV in quadrature
        assert shift.pull_mean[index] == pytest.approx(pull.mean(), rel=1e-3)
        assert shift.pull_rms[index] == pytest.approx(np.sqrt((pull**2).mean()), rel=1e-3)
    inside = (test.truth >= EDGES[0]) & (test.truth < EDGES[-1])
    assert shift.sample == pytest.approx((first * relative)[inside].sum() / first[inside].sum(), rel=1e-4)
    assert shift.sample_training == pytest.approx(5 / first[inside].mean(), rel=1e-3)
    assert 0 < shift.sample_unc < 1e-4
    assert json.loads(json.dumps(dependence.as_dict()))["shifts"]["b"]["sample"] == shift.sample


def test_error_of_the_sample_shift_is_that_of_repetitions():
    found = []
    for seed in range(80):
        test, rng = table(200, seed), np.random.default_rng([seed, 1])
        common = np.repeat(rng.normal(0.01, 0.01, 200), 2)  # both jets of an event move together
        pair = {"a": predicted(test.reco), "b": predicted(test.reco * (1 + common))}
        found.append(prior_dependence(pair, test, edges=(800, 5000))["b"])
    samples, uncs = np.array([(s.sample, s.sample_unc) for s in found]).T
    assert ((samples - 0.01) / uncs).std() == pytest.approx(1, abs=0.25)
    means, uncs = np.array([(s.mean[0], s.mean_unc[0]) for s in found]).T
    assert ((means - 0.01) / uncs).std() == pytest.approx(1, abs=0.25)


def test_jets_outside_one_support_are_not_compared():
    test = table(500)
    inside = test.reco > 900
    moved = np.where(inside, test.reco, 2 * test.reco)
    pair = {"a": predicted(test.reco), "b": predicted(moved, in_range=inside)}
    shift = prior_dependence(pair, test, edges=(800, 5000))["b"]
    assert (shift.sample, shift.rms[0]) == (0, 0)
    assert shift.n_eff[0] == pytest.approx(effective_events(test.event[inside]), rel=1e-12)
    assert shift.in_range == pytest.approx([inside.mean()])
    every = prior_dependence(pair, test, edges=(800, 5000), only_in_range=False)["b"]
    assert every.mean == pytest.approx([(~inside).mean()])
    assert every.n_eff == pytest.approx([500])


def test_trainings_without_a_common_jet_do_not_count():
    test = table(200)
    none = predicted(test.reco, in_range=np.zeros(len(test), dtype=bool))
    trained = {"a": predicted(test.reco), "none": none, "b": predicted(0.98 * test.reco)}
    for names in (("a", "none", "b"), ("a", "b", "none")):
        found = prior_dependence({name: trained[name] for name in names}, test, edges=EDGES)
        assert np.isnan(found["none"].sample)
        assert found.largest_sample == pytest.approx(-0.02, rel=1e-4)
    alone = prior_dependence({"a": trained["a"], "none": none}, test, edges=EDGES)
    assert np.isnan(alone.largest_sample)
    assert alone.as_dict()["largest_sample"] is None
    json.dumps(alone.as_dict(), allow_nan=False)


def test_bins_of_another_number_and_bins_of_few_jets():
    test = table(500)
    eta = np.where(np.arange(len(test)) < 5, 2.0, 0.5)
    shift = prior_dependence(
        {"a": predicted(test.reco), "b": predicted(1.1 * test.reco)}, test, edges=(0, 1, 3), by=eta
    )["b"]
    assert shift.mean[0] == pytest.approx(0.1, rel=1e-4)
    assert shift.n_eff == pytest.approx([effective_events(test.event[5:]), effective_events(test.event[:5])])
    assert np.isnan(shift.mean[1])
    assert np.isnan(shift.pull_rms).all()  # no sigma_pred
    assert shift.as_dict()["sample_training"] is None


def test_calibrators_are_given_the_inputs_they_know():
    """Two trainings, one without the feature of the table."""
    pairs, test = table(300), table(200, seed=3)
    method = hepcal.MSE(hidden=(4,), max_updates=20, patience=20, batch=64)
    slim = dataclasses.replace(pairs, features=pairs.features[:, :0], spec=pairs.spec.model_copy(update={"inputs": ()}))
    trained = {name: hepcal.train(t, method, seed=1, show=False) for name, t in {"all": pairs, "slim": slim}.items()}
    found = prior_dependence(trained, test, edges=EDGES, reference="slim", only_in_range=False)
    values = {
        "all": trained["all"].predict(test.features, test.reco).mean.astype(float),
        "slim": trained["slim"].predict(test.features[:, :0], test.reco).mean.astype(float),
    }
    inside = (test.truth >= EDGES[0]) & (test.truth < EDGES[-1])
    expected = values["all"][inside].sum() / values["slim"][inside].sum() - 1
    assert list(found.shifts) == ["all"]
    assert found["all"].sample == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_compared_is_refused():
    test = table(50)
    one = predicted(test.reco)
    with pytest.raises(ValueError, match="needs two trainings"):
        prior_dependence({"a": one}, test, edges=EDGES)
    with pytest.raises(ValueError, match="one of them as reference"):
        prior_dependence({"a": one, "b": one}, test, edges=EDGES, reference="c")
    with pytest.raises(ValueError, match="prediction of 3 jets"):
        prior_dependence({"a": one, "b": predicted(np.ones(3))}, test, edges=EDGES)
    with pytest.raises(ValueError, match="first is not finite"):
        prior_dependence({"a": predicted(np.full(100, np.nan)), "b": one}, test, edges=EDGES)
