"""The weighted quantile map against sorted samples, closed forms and repeated samples; its calibrator."""

import hashlib
import pickle

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, wasserstein_distance

import hepcal
from hepcal.closure import results
from hepcal.errors import CalibratorFileError, TrainingError
from hepcal.methods.transport.maps import CumulativeDistribution, QuantileMap, TransportError, map_shift, predicted_bias

ALPHA = np.sqrt(5 / 2)


def gaussians(rng, n, prior=0.0):
    """Simulation with noise 1, data with noise 2, on a truth spectrum of width 1."""
    return rng.normal(rng.normal(prior, 1, n), 1), rng.normal(rng.normal(prior, 1, n), 2)


# -- the map ----------------------------------------------------------------------------------------------------------


def test_samples_of_equal_size_are_mapped_value_by_value():
    rng = np.random.default_rng(1)
    simulation, data = rng.gamma(3, size=500), rng.normal(size=500)
    h = QuantileMap.fit(simulation, data)
    np.testing.assert_allclose(h(np.sort(simulation)), np.sort(data), rtol=1e-12, atol=1e-12)


def test_an_integer_weight_is_that_many_repetitions():
    rng = np.random.default_rng(2)
    simulation, data = rng.normal(size=200), rng.gamma(3, size=150)
    counts, others = rng.integers(0, 5, 200), rng.integers(0, 5, 150)
    weighted = QuantileMap.fit(simulation, data, counts, others)
    repeated = QuantileMap.fit(np.repeat(simulation, counts), np.repeat(data, others))
    x = np.linspace(-4, 4, 101)
    np.testing.assert_allclose(weighted(x), repeated(x), rtol=1e-12, atol=1e-12)
    # The repetitions are of one value, and the error knows if it is told so.
    as_events = QuantileMap.fit(
        np.repeat(simulation, counts),
        np.repeat(data, others),
        simulation_event=np.repeat(np.arange(200), counts),
        data_event=np.repeat(np.arange(150), others),
    )
    assert as_events.simulation.n_eff == pytest.approx(weighted.simulation.n_eff)
    np.testing.assert_allclose(as_events.simulation.variance, weighted.simulation.variance, rtol=1e-9)


@given(
    sizes=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    scales=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    shifts=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60)
def test_a_map_follows_changes_of_unit_and_of_the_sum_of_weights(sizes, scales, shifts, seed):
    rng = np.random.default_rng(seed)
    simulation, data = rng.gamma(2, size=sizes[0]), rng.normal(size=sizes[1])
    weights = rng.exponential(size=sizes[0]), rng.exponential(size=sizes[1])
    h = QuantileMap.fit(simulation, data, *weights)
    moved = [s * x + b for s, x, b in zip(scales, (simulation, data), shifts, strict=True)]
    same = QuantileMap.fit(*moved, 7 * weights[0], weights[1] / 3)
    # Not at a value itself: the largest may be inside or outside by rounding.
    x = np.linspace(simulation.min() - 0.1, simulation.max() + 0.1, 41)
    np.testing.assert_allclose(same(scales[0] * x + shifts[0]), scales[1] * h(x) + shifts[1], rtol=1e-6, atol=1e-6)
    assert (np.diff(h(x)) >= 0).all()
    assert (h(x) >= data.min()).all()
    assert (h(x) <= data.max()).all()


@given(seed=st.integers(0, 10_000), sizes=st.tuples(st.integers(2, 80), st.integers(2, 80)))
@settings(max_examples=40)
def test_the_inverse_maps_back(seed, sizes):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, 1, sizes[0]), rng.uniform(0.1, 1, sizes[1])
    h = QuantileMap.fit(rng.normal(size=sizes[0]), rng.gamma(2, size=sizes[1]), *weights)
    low, high = h.range
    if not low < high:
        return  # one sample is smaller than a value of the other
    x = np.linspace(low, high, 33)[1:-1]
    np.testing.assert_allclose(h.inverse()(h(x)), x, rtol=1e-7, atol=1e-7)
    assert not h.inverse().out_of_range(h(x)).any()


def test_the_mean_distance_is_that_of_scipy():
    rng = np.random.default_rng(3)
    simulation, data = rng.gamma(3, size=3000), rng.normal(4, 2, size=2000)
    weights = rng.exponential(size=3000), rng.exponential(size=2000)
    h = QuantileMap.fit(simulation, data, *weights)
    assert h.distance() == pytest.approx(wasserstein_distance(simulation, data, *weights), rel=2e-3)
    assert QuantileMap.fit(simulation, simulation + 0.25).distance() == pytest.approx(0.25)
    # Not zero: a map cannot split a value with a weight.
    assert wasserstein_distance(h(simulation), data, *weights) < 0.01 * h.distance()
    assert QuantileMap.fit(h(simulation), data, *weights).distance() < 1e-3 * h.distance()


def test_a_moved_event_keeps_its_weight():
    """Moved events are distributed as data; with the Jacobian as a weight they would not be."""
    rng = np.random.default_rng(4)
    simulation, data = rng.exponential(1, 20_000), rng.uniform(0, 1, 20_000)
    h = QuantileMap.fit(simulation, data)
    moved = h(simulation)
    assert np.mean(moved) == pytest.approx(0.5, abs=4 * np.sqrt(2 / 12 / 20_000))
    # h' = e^-x here, so that the mean of h weighted by it is that of u(1 - u) over that of 1 - u: 1/3.
    assert np.average(moved, weights=h.slope(simulation)) == pytest.approx(1 / 3, abs=0.01)


def test_beyond_the_training_range_the_map_is_clamped_and_counted():
    h = QuantileMap.fit(np.arange(1.0, 11.0), 2 * np.arange(1.0, 11.0))
    x = np.array([-5, 0.999, 1, 5.5, 10, 10.001, 99, np.nan])
    assert h.out_of_range(x).tolist() == [True, True, False, False, False, True, True, True]
    np.testing.assert_allclose(h(x)[:-1], [2, 2, 2, 11, 20, 20, 20])


def test_what_the_smaller_sample_does_not_resolve_is_out_of_range():
    rng = np.random.default_rng(5)
    simulation, data = rng.normal(size=10_000), rng.normal(size=100)
    h = QuantileMap.fit(simulation, data)
    # Half a value of the data is at each end: 50 values of the simulation.
    assert h.out_of_range(simulation).sum() == 100
    inside = np.sort(simulation)[50:-50]
    assert (np.diff(h(inside)) > 0).all()
    assert h.inverse().range == pytest.approx((data.min(), data.max()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [1.0, 2.0]), "simulation: the weights of 0 values sum to 0"),
        (([1.0, 2.0], [3.0, 3.0]), "data: 2 values without two distinct ones"),
        (([1.0, np.nan], [1.0, 2.0]), "simulation: 1 of 2 values are NaN or infinite"),
        (([1.0, 2.0], [1.0, 2.0], [1.0, np.inf]), "simulation: 1 of 2 weights are NaN or infinite"),
        (([1.0, 2.0], [1.0, 2.0], None, [1.0, -2.0]), "data: the weights of 2 values sum to -1"),
        (([1.0, 2.0], [1.0, 2.0], [1.0]), r"one shape \(n,\), found \(2,\) and \(1,\)"),
        (([[1.0], [2.0]], [1.0, 2.0]), r"found \(2, 1\)"),
    ],
)
def test_samples_that_make_no_distribution_are_refused(arguments, message):
    with pytest.raises(TransportError, match=message):
        QuantileMap.fit(*(None if part is None else np.array(part) for part in arguments))


def test_event_ids_of_another_length_are_refused():
    with pytest.raises(TransportError, match="event ids of shape"):
        QuantileMap.fit(np.arange(5.0), np.arange(5.0), simulation_event=np.arange(4))


# -- its error --------------------------------------------------------------------------------------------------------


def test_the_error_is_that_of_quantiles_of_gaussians():
    n = 50_000
    h = QuantileMap.fit(*gaussians(np.random.default_rng(6), n))
    x = np.linspace(-3, 3, 13)
    q = norm.cdf(x / np.sqrt(2))
    exact = np.sqrt(2 * q * (1 - q) / n) / norm.pdf(ALPHA * x, scale=np.sqrt(5))
    np.testing.assert_allclose(h.error(x), exact, rtol=0.1)
    np.testing.assert_allclose(h.slope(x), ALPHA, rtol=0.1)
    assert (h.simulation.n_eff, h.data.n_eff) == pytest.approx((n, n))


def repeated(kind, rng, n=1000):
    """One more pair of samples of Gaussians: simulation, data, weights of both, events of the simulation."""
    if kind == "equal":
        return *gaussians(rng, n), None, None, None
    if kind == "two jets per event":
        # Half of the variance is common to the two.
        common = np.repeat(rng.normal(size=n // 2), 2)
        return common + rng.normal(size=n), gaussians(rng, n)[1], None, None, np.repeat(np.arange(n // 2), 2)
    # The spectrum is moved from mean -1 to 0 by weights, of which in one case a fifth is negative.
    truth = rng.normal(-1, 1, (2, n))
    weight = np.exp(truth + 0.5)
    if kind == "negative weights":
        weight *= np.where(rng.random((2, n)) < 0.2, -1, 1)
    return rng.normal(truth[0], 1), rng.normal(truth[1], 2), *weight, None


@pytest.mark.parametrize("kind", ["equal", "two jets per event", "weights", "negative weights"])
def test_the_error_is_the_spread_of_repeated_samples(kind):
    rng = np.random.default_rng(7)
    x = np.array([-2.0, -1, 0, 1, 2])
    pulls = np.empty((200, len(x)))
    for i in range(200):
        simulation, data, *weights, event = repeated(kind, rng)
        h = QuantileMap.fit(simulation, data, *weights, simulation_event=event)
        pulls[i] = (h(x) - ALPHA * x) / h.error(x)
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.2)
    assert (np.abs(pulls.mean(axis=0)) < 0.4).all()


def test_the_error_holds_at_the_last_values():
    """Where one to five of a thousand values are beyond, and only if x is in range."""
    rng = np.random.default_rng(19)
    x = np.array([-4.4, -4.0, 4.0, 4.4])
    pulls = []
    for _ in range(150):
        h = QuantileMap.fit(*gaussians(rng, 1000))
        use = x[~h.out_of_range(x)]
        pulls.extend((h(use) - ALPHA * use) / h.error(use))
    assert len(pulls) > 300
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1, abs=0.2)


def test_jets_of_one_event_count_once():
    rng = np.random.default_rng(8)
    x = rng.normal(size=5000)
    pair, event = np.concatenate([x, x + 1e-9]), np.tile(np.arange(5000), 2)
    together = CumulativeDistribution.of(pair, event=event)
    apart = CumulativeDistribution.of(pair)
    assert (together.n_eff, apart.n_eff) == pytest.approx((5000, 10_000))
    np.testing.assert_allclose(together.variance[500:-500], 2 * apart.variance[500:-500], rtol=1e-3)


def test_a_tail_of_small_weights_is_known_better_than_n_eff_says():
    """Two slices in p_T, the upper with weights a thousand times smaller: each tail quantile has its own statistics."""
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.uniform(0, 1, 1000), rng.uniform(1, 2, 100_000)])
    found = CumulativeDistribution.of(x, np.repeat([1.0, 1e-5], [1000, 100_000]))
    q = float(found(np.array(1.5)))
    assert 1 - q == pytest.approx(0.5 / 1001, rel=0.02)
    # 50,000 of 100,000 jets above, and the normalisation from 1000 jets: 3 % of 1 - q.
    variance = np.interp(1.5, found.values, found.variance)
    assert np.sqrt(variance) == pytest.approx((1 - q) * np.hypot(1 / np.sqrt(50_000), 1 / np.sqrt(1000)), rel=0.05)
    assert np.sqrt(variance) < 0.05 * np.sqrt(q * (1 - q) / found.n_eff)


def test_negative_weights_give_a_monotone_distribution_without_direction():
    rng = np.random.default_rng(10)
    x, weight = rng.normal(size=2000), np.where(rng.random(2000) < 0.25, -1.0, 1.0)
    found, mirrored = CumulativeDistribution.of(x, weight), CumulativeDistribution.of(-x, weight)
    assert (np.diff(found.cumulative) > 0).all()
    at = np.linspace(-2.5, 2.5, 51)
    np.testing.assert_allclose(found(at), 1 - mirrored(-at), atol=1e-12)
    exact = np.array([weight[x <= point].sum() for point in at]) / weight.sum()
    # Twenty single weights; the statistical error at the median is 32 of them.
    np.testing.assert_allclose(found(at), exact, atol=20 / weight.sum())
    assert found.n_eff == pytest.approx(weight.sum() ** 2 / 2000)


# -- two spectra ------------------------------------------------------------------------------------------------------


def test_the_shift_between_spectra_of_gaussians():
    rng = np.random.default_rng(11)
    train, test = (QuantileMap.fit(*gaussians(rng, 100_000, prior)) for prior in (0.0, 2.0))
    x = np.linspace(-1, 3, 9)
    exact = (1 - ALPHA) * (0 - 2)
    assert exact == pytest.approx(1.162278, abs=1e-6)
    shift, unc = map_shift(train, test, x)
    assert (np.abs(shift - exact) < 4 * unc).all()
    assert (unc < 0.1).all()
    y = np.linspace(-2, 4, 9)
    bias, unc = predicted_bias(train, test, y)
    assert (np.abs(bias - exact) < 4 * unc).all()
    assert (unc < 0.1).all()


def test_equal_spectra_have_no_bias():
    h = QuantileMap.fit(*gaussians(np.random.default_rng(12), 5000))
    y = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(predicted_bias(h, h, y)[0], 0, atol=1e-9)
    np.testing.assert_array_equal(map_shift(h, h, y)[0], 0)


def test_the_errors_of_shift_and_bias_are_the_spread_of_repeated_samples():
    rng = np.random.default_rng(13)
    pulls = []
    for _ in range(150):
        train, test = (QuantileMap.fit(*gaussians(rng, 1000, prior)) for prior in (0.0, 1.0))
        for found, unc in (map_shift(train, test, np.array([0.5])), predicted_bias(train, test, np.array([0.5]))):
            pulls.append((found[0] - (ALPHA - 1)) / unc[0])
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1, abs=0.15)


# -- knots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 100, 2000])
def test_knots_end_where_the_map_ends_and_lie_on_it(count):
    h = QuantileMap.fit(*gaussians(np.random.default_rng(14), 20_000))
    x, moved = h.knots(count)
    assert len(x) <= count
    assert len(x) > 0.9 * count - 3
    assert (x[0], x[-1]) == pytest.approx(h.range)
    np.testing.assert_allclose(moved, h(x), rtol=1e-9, atol=1e-9)
    assert (np.diff(x) > 0).all()


def test_two_thousand_knots_lose_little_of_the_map():
    rng = np.random.default_rng(15)
    simulation, data = gaussians(rng, 100_000)
    h = QuantileMap.fit(simulation, data)
    off = np.abs(np.interp(simulation, *h.knots(2000)) - h(simulation)) / h.error(simulation)
    assert off.max() < 0.6
    assert np.sqrt(np.mean(off**2)) < 0.1


# -- the calibrator ---------------------------------------------------------------------------------------------------

JETS = 6000


def falling(rng, n, response, resolution):
    truth = 500 + rng.exponential(150, n)
    return truth, truth * rng.normal(response, resolution, n)


@pytest.fixture(scope="module")
def samples():
    """Simulated jets (two per event) with another response and resolution than the data."""
    rng = np.random.default_rng(16)
    truth, reco = falling(rng, JETS, 0.97, 0.05)
    eta = rng.uniform(-2, 2, (JETS, 1))
    pairs = hepcal.JetPairs.from_arrays(eta, ["eta"], reco=reco, truth=truth, event=np.arange(JETS) // 2)
    return pairs, falling(rng, JETS, 0.94, 0.08)[1]


@pytest.fixture(scope="module")
def calibrator(samples):
    pairs, data = samples
    return hepcal.train(pairs, hepcal.OptimalTransport(), data=data, show=False)


def nothing(n):
    """Features of n jets: the method uses none."""
    return np.empty((n, 0), dtype=np.float32)


def test_the_calibrator_is_the_map_of_its_training_jets(samples, calibrator):
    pairs, data = samples
    fitted, held_out = pairs.split(0.9, seed=0)
    h = QuantileMap.fit(fitted.reco, data, simulation_event=fitted.event)
    assert calibrator.card.source.jets == len(fitted)
    prediction = calibrator.predict(nothing(len(held_out)), held_out.reco)
    inside = ~h.out_of_range(held_out.reco)
    np.testing.assert_array_equal(prediction.in_range, inside)
    error = h.error(held_out.reco)
    assert (np.abs(prediction.mean - h(held_out.reco)) < 0.6 * error)[inside].all()
    np.testing.assert_allclose(prediction.sigma_pred[inside], error[inside], rtol=0.1)
    assert prediction.sigma_stoch is None
    figures = calibrator.card.figures
    assert figures["interpolation_error_in_sigma"] < 0.6
    assert (figures["data_values"], figures["data_n_eff"]) == pytest.approx((JETS, JETS))
    assert figures["out_of_range"] == pytest.approx(np.mean(~inside))
    # Two per cent of 630 GeV and a wider spectrum before; the statistics of 600 jets after.
    assert figures["distance_before"] > 2 * figures["distance_after"]
    assert calibrator.card.quantity == "median"


def test_truth_and_features_do_not_enter(samples, calibrator):
    pairs, data = samples
    other = hepcal.JetPairs.from_arrays(nothing(JETS), [], reco=pairs.reco, truth=np.ones(JETS), event=pairs.event)
    again = hepcal.train(other, hepcal.OptimalTransport(), data=data, show=False)
    for name in ("map_simulation", "map_data", "map_error"):
        np.testing.assert_array_equal(again.tensors[name], calibrator.tensors[name])


def test_weights_of_both_samples_enter(samples):
    """Weights that undo a selection give the map of all jets, with a larger error."""
    pairs, data = samples
    rng = np.random.default_rng(17)

    def thinned(pt):
        keep = np.minimum(1, (pt / 900) ** 2)
        use = rng.random(len(pt)) < keep
        return use, 1 / keep[use]

    use, weight = thinned(pairs.reco)
    few = pairs.take(np.flatnonzero(use))
    few = hepcal.JetPairs.from_arrays(
        few.features, ["eta"], reco=few.reco, truth=few.truth, weight=weight, event=few.event
    )
    chosen, data_weight = thinned(data)
    weighted = hepcal.train(few, hepcal.OptimalTransport(), data=data[chosen], data_weight=data_weight, show=False)
    whole = hepcal.train(pairs, hepcal.OptimalTransport(), data=data, show=False)
    pt = np.linspace(500, 1100, 13)
    ours, all_jets = (found.predict(nothing(13), pt) for found in (weighted, whole))
    assert (np.abs(ours.mean - all_jets.mean) < 4 * ours.sigma_pred).all()
    assert (ours.sigma_pred > all_jets.sigma_pred).sum() > 10
    unweighted = hepcal.train(pairs.take(np.flatnonzero(use)), hepcal.OptimalTransport(), data=data, show=False)
    wrong = unweighted.predict(nothing(13), pt)
    assert (np.abs(wrong.mean - all_jets.mean) > 4 * wrong.sigma_pred).sum() > 6


def test_jets_beyond_the_training_are_clamped_and_flagged(samples, calibrator):
    pairs, _ = samples
    reco = np.array([10, 800, 1e5])
    prediction = calibrator.predict(nothing(3), reco)
    assert prediction.in_range.tolist() == [False, True, False]
    ends = calibrator.tensors["map_data"]
    assert (prediction.mean[0], prediction.mean[2]) == (ends[0], ends[-1])
    assert np.isfinite(prediction.sigma_pred).all()
    assert pairs.reco.min() < 800


def test_a_saved_map_gives_the_same_bits(calibrator, tmp_path):
    calibrator.save(tmp_path / "map.safetensors")
    reco = np.random.default_rng(18).uniform(300, 2000, 3000).astype(np.float32)
    expected = calibrator.predict(nothing(3000), reco)
    for other in (hepcal.Calibrator.load(tmp_path / "map.safetensors"), pickle.loads(pickle.dumps(calibrator))):  # noqa: S301
        found = other.predict(nothing(3000), reco)
        for name in ("mean", "sigma_pred", "in_range"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    one = calibrator.predict(nothing(1), reco[1234:1235])
    assert one.mean[0] == expected.mean[1234]


def test_columns_on_jets(calibrator):
    jets = ak.zip(
        {"pt": [[700.0, 620.0], [], [550.0]], "mass": [[70.0, 62.0], [], [55.0]], "eta": [[0.0, 1.0], [], [2.0]]}
    )
    out = calibrator(jets)
    assert calibrator.columns == ("pt_calib", "pt_calib_sigma_pred", "pt_calib_in_range")
    pt, sigma = out.pt_calib, out.pt_calib_sigma_pred
    np.testing.assert_allclose(ak.flatten(out.calib_pred.up.pt - pt), ak.flatten(sigma), rtol=1e-4)
    assert ak.num(pt).tolist() == [2, 0, 1]
    assert ak.all(pt < jets.pt)


def test_data_are_asked_for_and_only_where_they_are_used(samples):
    pairs, data = samples
    with pytest.raises(TrainingError, match=r"pass their detector-level p_T as train\(\.\.\., data=pt\)"):
        hepcal.train(pairs, hepcal.OptimalTransport(), show=False)
    with pytest.raises(TrainingError, match=r"leave out data$"):
        hepcal.train(pairs, hepcal.MSE(), data=data, show=False)
    with pytest.raises(TrainingError, match=r"leave out data_weight$"):
        hepcal.train(pairs, hepcal.MSE(), data_weight=data, show=False)


def test_the_card_tells_which_data(samples, calibrator):
    pairs, data = samples

    def told(**sample):
        return hepcal.train(pairs, hepcal.OptimalTransport(), show=False, **sample).card.source.data_sha256

    expected = hashlib.sha256(data.astype(np.float64).tobytes() + np.ones(len(data)).tobytes()).hexdigest()
    assert calibrator.card.source.data_sha256 == expected
    assert told(data=data, data_weight=np.ones(len(data), dtype=int)) == expected
    others = told(data=data[::-1]), told(data=data, data_weight=np.full(len(data), 2.0))
    assert len({expected, *others}) == 3
    assert ("data", expected) in results.describe_card(calibrator)


@pytest.mark.parametrize(
    ("data", "weight", "message"),
    [
        (np.array([[600.0, 700.0]]), None, r"found shape \(1, 2\)"),
        (np.array([600.0, -700.0, np.nan]), None, "2 of 3 p_T of data are NaN or not positive"),
        (np.array([600.0, np.inf]), None, "data: 1 of 2 .* are NaN or infinite"),
        (["600", "700"], None, "data must be an array of numbers, found <U3"),
        ([[600.0], [700.0, 800.0]], None, "data must be an array of numbers"),
        (np.array([600.0, 700.0]), ["one", "two"], "data_weight must be an array of numbers, found <U3"),
        (np.array([600.0, 700.0]), np.array([1.0]), "data: expected values and weights of one shape"),
        (np.array([600.0, 700.0]), np.array([1.0, -1.0]), "data: the weights of 2 values sum to 0"),
        (np.full(100, 600.0), None, "data: 100 values without two distinct"),
    ],
)
def test_data_that_make_no_distribution_are_refused(samples, data, weight, message):
    with pytest.raises(TrainingError, match=message):
        hepcal.train(samples[0], hepcal.OptimalTransport(), data=data, data_weight=weight, show=False)


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("map_data", lambda values: values.flip(0), "does not rise"),
        ("map_simulation", lambda values: values[0], r"'map_simulation' is torch.float32 of \(\)"),
        ("map_error", lambda values: values[1:], "'map_error' is"),
    ],
)
def test_a_damaged_map_is_refused(calibrator, name, damaged, message):
    tensors = {**calibrator.tensors, name: damaged(calibrator.tensors[name])}
    with pytest.raises(CalibratorFileError, match=message):
        type(calibrator)(calibrator.card, tensors)
