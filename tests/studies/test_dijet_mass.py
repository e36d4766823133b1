"""The dijet mass: QCD and a resonance of 2.8 TeV (arXiv:2205.05084, Figs. 5-7), calibrated directly and from jets.

    pytest -m study tests/studies/test_dijet_mass.py -s

Trains on files 01-20 of the shared QCD sample, tests on 21-30, and prints every figure that it asserts; about three
minutes of one core. Optimal transport maps QCD to the sample with the other detector response, which stands for data:
its files 01-03 to derive the map and to predict its bias, 04-06 to test it.
"""

from __future__ import annotations

import numpy as np
import pytest
from dijet_samples import Dijets, files_of

import hepcal
from hepcal.evaluation import closure_in_truth
from hepcal.methods.transport.maps import QuantileMap, predicted_bias
from hepcal.statistics import n_eff
from hepcal.tables.spectra import Resonance, resonance_weights

pytestmark = pytest.mark.study

SEED = 11
MASS = 2800.0
# That of the paper leaves 800 effective events of 50,000.
WIDTHS = (50.0, 10.0)
EDGES = (1750, 2000, 2250, 2500, 2750, 3000, 3500, 4000, 5000)
EVERYTHING = (0, 1e6)
QUANTILES = np.array([0.1, 0.16, 0.25, 0.5, 0.75, 0.84, 0.9, 0.95, 0.98])
QUICK = {"schedule": "cosine", "batch": 500, "learning_rate": 2e-3}
MSE = hepcal.MSE(**QUICK, hidden=(50, 50, 50), max_updates=10_000)


@pytest.fixture(scope="module")
def samples(shared):
    data = shared / "data"
    return {
        "train": Dijets.of(files_of(data / "qcd", 1, 20)),
        "test": Dijets.of(files_of(data / "qcd", 21, 30)),
        "data to derive": Dijets.of(files_of(data / "qcd_variation", 1, 3)),
        "data to test": Dijets.of(files_of(data / "qcd_variation", 4, 6)),
    }


def resonance(sample, width=WIDTHS[0]):
    """BSM weights of a sample, from its own density of the true mass."""
    return resonance_weights(sample.truth, None, Resonance(mass=MASS, width=width)).weight


@pytest.fixture(scope="module")
def weights(samples):
    test = samples["test"]
    found = {"QCD": np.ones(len(test)), **{f"BSM {width:g} GeV": resonance(test, width) for width in WIDTHS}}
    print(f"\n{len(test)} of {test.events} test events; n_eff", {name: round(n_eff(w)) for name, w in found.items()})
    return found


def mass_of(calibrator, sample):
    """Prediction for the mass itself, one row per event."""
    table = sample.pairs()
    return calibrator.predict(table.features, table.reco)


def closed(name, value, sample, weights, in_range=None):
    """Closure over all events of each weighting, printed."""
    found = {}
    for weighting, weight in weights.items():
        closure = closure_in_truth(value, sample.truth, weight, edges=EVERYTHING, in_range=in_range)
        figures = ("mean", "median", "core", "resolution")
        text = ", ".join(
            f"{figure} {100 * getattr(closure, figure)[0]:+.2f} ± {100 * getattr(closure, f'{figure}_unc')[0]:.2f} %"
            for figure in figures
        )
        print(f"{name:<24} {weighting:<10} {text}, in range {100 * closure.in_range[0]:.2f} %")
        found[weighting] = closure
    return found


def difference(closures, figure, weighting="BSM 50 GeV"):
    """Closure of BSM minus that of QCD, and its error; the BSM events are few of the QCD ones."""
    one, other = closures[weighting], closures["QCD"]
    value = getattr(one, figure)[0] - getattr(other, figure)[0]
    return value, np.hypot(getattr(one, f"{figure}_unc")[0], getattr(other, f"{figure}_unc")[0])


@pytest.fixture(scope="module")
def direct(samples, weights):
    """Closures of the mass, one row per event, by method."""
    train, test = samples["train"], samples["test"]
    found = {"uncalibrated": closed("uncalibrated", test.reco, test, weights)}
    for name, method in {
        "MSE": MSE,
        "inversion": hepcal.NumericalInversion(),
        "likelihood": hepcal.Likelihood(),
    }.items():
        prediction = mass_of(hepcal.train(train.pairs(), method, seed=SEED, show=False), test)
        found[name] = closed(name, prediction.mean, test, weights, prediction.in_range)
        bins = closure_in_truth(prediction.mean, test.truth, edges=EDGES)
        figure = "median" if name == "likelihood" else "mean"
        text = ", ".join(
            f"{100 * value:+.2f} ± {100 * unc:.2f}"
            for value, unc in zip(getattr(bins, figure), getattr(bins, f"{figure}_unc"), strict=True)
        )
        print(f"{'':<24} {figure} in bins {EDGES} GeV: {text} %")
    for name, closures in found.items():
        for figure in ("mean", "median"):
            value, unc = difference(closures, figure)
            print(f"{name}: BSM - QCD of the {figure} {100 * value:+.2f} ± {100 * unc:.2f} %")
    return found


def test_the_likelihood_closes_for_both_spectra(direct):
    closures = direct["likelihood"]
    assert abs(closures["QCD"].median[0]) < 0.002
    assert abs(closures["BSM 50 GeV"].median[0]) < 0.006
    narrow = closures["BSM 10 GeV"]
    assert abs(narrow.median[0]) < narrow.median_unc[0]


@pytest.mark.parametrize("name", ["inversion", "likelihood"])
def test_the_spectrum_does_not_matter(direct, name):
    value, unc = difference(direct[name], "mean")
    assert abs(value) < 2 * unc


def test_squared_error_pulls_the_resonance_down(direct):
    value, unc = difference(direct["MSE"], "mean")
    assert value + 2 * unc < -0.01


@pytest.fixture(scope="module")
def from_jets(shared, samples, weights):
    """Closures of the mass of two calibrated jets."""
    paths = files_of(shared / "data" / "qcd", 1, 20)
    pairs = hepcal.JetPairs.from_fileset({"qcd": {"files": {str(path): "Delphes" for path in paths}}}, show=False)
    found = {}
    for name, method in {
        "MSE": hepcal.MSE(**QUICK, max_updates=10_000),
        "inversion": hepcal.NumericalInversion(),
        "likelihood": hepcal.Likelihood(),
    }.items():
        calibrator = hepcal.train(pairs, method, seed=SEED, show=False)
        value, in_range = samples["test"].from_jets(calibrator)
        found[name] = closed(f"{name}, two jets", value, samples["test"], weights, in_range)
        difference_, unc = difference(found[name], "mean")
        print(f"{name}, two jets: BSM - QCD of the mean {100 * difference_:+.2f} ± {100 * unc:.2f} %")
    return found


def test_two_medians_make_no_median(direct, from_jets):
    """The response has a tail below: the product of two of them has its median below the square of theirs."""
    closure = from_jets["likelihood"]["QCD"]
    assert -0.012 < closure.median[0] < -0.004
    assert abs(direct["likelihood"]["QCD"].median[0]) < 0.002


def test_the_spectrum_does_not_matter_to_masses_from_jets(from_jets):
    for name in ("inversion", "likelihood"):
        value, unc = difference(from_jets[name], "mean")
        assert abs(value) < 2 * unc, name
    value, unc = difference(from_jets["MSE"], "mean")
    assert value + 2 * unc < -0.01


@pytest.fixture(scope="module")
def sculpted(samples):
    """Trained on the resonance, applied to QCD."""
    train, test = samples["train"], samples["test"]
    # Rows of next to no weight would count as training support.
    near = np.abs(train.truth - MASS) < 4 * WIDTHS[0]
    pairs = train.pairs(np.where(near, resonance(train), 0.0))
    print(f"\nBSM to train on: {len(pairs)} events, n_eff {pairs.n_eff:.0f}")
    found = {}
    for name, method in {"MSE": MSE, "likelihood": hepcal.Likelihood()}.items():
        prediction = mass_of(hepcal.train(pairs, method, seed=SEED, show=False), test)
        low, middle, high = np.quantile(prediction.mean, [0.16, 0.5, 0.84])
        bins = closure_in_truth(prediction.mean, test.truth, edges=EDGES, in_range=prediction.in_range)
        print(
            f"{name} trained on BSM, QCD events: 16, 50, 84 % at {low:.0f}, {middle:.0f}, {high:.0f} GeV; median "
            f"closure in bins {np.round(100 * bins.median, 1)} %, in range {np.round(100 * bins.in_range, 1)} %, "
            f"altogether {100 * prediction.in_range.mean():.1f} %"
        )
        found[name] = prediction
    return found


def test_squared_error_makes_a_resonance_of_qcd(samples, sculpted):
    truth, value = samples["test"].truth, sculpted["MSE"].mean
    widths = [np.diff(np.quantile(mass, [0.16, 0.84]))[0] for mass in (truth, value)]
    print(f"central 68 % of QCD: {widths[0]:.0f} GeV wide in truth, {widths[1]:.0f} GeV after MSE trained on BSM")
    assert np.median(value) == pytest.approx(MASS, rel=0.01)
    assert widths[1] < 0.2 * widths[0]


def test_the_likelihood_says_where_it_was_not_trained(samples, sculpted):
    truth, prediction = samples["test"].truth, sculpted["likelihood"]
    assert np.all(np.abs(prediction.mean[prediction.in_range] - MASS) < 4.01 * WIDTHS[0])
    far = (truth < MASS - 16 * WIDTHS[0]) | (truth > MASS + 30 * WIDTHS[0])
    print(f"{far.sum()} events far from the resonance, {prediction.in_range[far].sum()} of them called in range")
    assert prediction.in_range[far].mean() < 0.01
    # Nobody promises it, but this response is the same everywhere in units of the truth.
    assert abs(np.median(prediction.mean / truth) - 1) < 0.01


@pytest.fixture(scope="module")
def transport(samples):
    """Map derived on QCD; quantiles of moved simulation against those of data, and what the maps predict.

    Found and predicted shift share the map of QCD; the third error is that of their difference, without it.
    """
    train, test, derive, data = samples.values()
    calibrator = hepcal.train(train.pairs(), hepcal.OptimalTransport(), seed=SEED, data=derive.reco, show=False)
    moved = mass_of(calibrator, test).mean
    h = QuantileMap.fit(train.reco, derive.reco)
    found = {}
    for name, weigh in {"QCD": lambda sample: np.ones(len(sample)), "BSM": resonance}.items():
        left = QuantileMap.fit(moved, data.reco, weigh(test), weigh(data))
        y = left.data.quantile(QUANTILES)
        shift = left.simulation.quantile(QUANTILES) - y
        own = left.error(left.simulation.quantile(QUANTILES))
        right = QuantileMap.fit(train.reco, derive.reco, weigh(train), weigh(derive)).inverse()
        predicted, predicted_unc = predicted_bias(h, right.inverse(), y)
        between = np.hypot(own, h.slope(right(y)) * right.error(y))
        found[name] = shift, np.hypot(own, h.error(h.inverse()(y))), predicted, predicted_unc, between
        print(f"\n{name}: quantiles of moved simulation - data [GeV]; n_eff of the data {n_eff(weigh(data)):.0f}")
        for row in zip(QUANTILES, y, *found[name], strict=True):
            print("  {:.2f} at {:5.0f}: {:+6.1f} ± {:4.1f}, predicted {:+6.1f} ± {:4.1f} ({:4.1f})".format(*row))
    return found


def test_transport_closes_on_its_own_spectrum(transport):
    shift, unc, *_ = transport["QCD"]
    assert np.all(np.abs(shift) < 3 * unc)


def test_transport_does_not_close_on_another_and_the_maps_say_by_how_much(transport):
    """The resonance comes out too narrow: the map learned the response as a falling spectrum shows it."""
    shift, unc, predicted, predicted_unc, between = transport["BSM"]
    pull = (shift - predicted) / between
    print(f"pulls of found - predicted {np.round(pull, 1)}")
    assert np.all(np.abs(pull) < 2)
    assert predicted[-1] < -3 * predicted_unc[-1]
    assert shift[-1] < -2 * unc[-1]
