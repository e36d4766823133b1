"""Figures of scores, predictions and trainings: they draw what they are given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

from hepcal import evaluation, plot
from hepcal.distributions import NormalMixture
from hepcal.distributions.prediction import Prediction
from hepcal.plot.diagnostics import FIGURES

EDGES = (300, 500, 700, 1200)


def predicted(share, mean, sigma):
    """Mixtures given by (components, n) arrays, one draw."""
    distribution = NormalMixture(*(np.asarray(v, dtype=np.float64)[None] for v in (share, mean, sigma)))
    center, variance = distribution.moments()
    sigma_tot = np.sqrt(variance).astype(np.float32)
    inside = np.ones(len(center), dtype=bool)
    return Prediction(center.astype(np.float32), sigma_tot, 0.1 * sigma_tot, inside, distribution.take)


@pytest.fixture(scope="module")
def sample():
    """Predictions of 1200 jets of 10 % resolution, right and too wide, and one without uncertainties."""
    rng = np.random.default_rng(2)
    mean = rng.uniform(300, 1100, 1200)
    truth = rng.normal(mean, 0.1 * mean)
    ones = np.ones((1, 1200))
    predictions = {
        "right": predicted(ones, mean[None], 0.1 * mean[None]),
        "wide": predicted(ones, mean[None], 0.2 * mean[None]),
        "number": Prediction(mean.astype(np.float32), None, None, np.ones(1200, dtype=bool)),
    }
    return predictions, truth


@pytest.fixture(scope="module")
def scores(sample):
    predictions, truth = sample
    return {name: evaluation.score(prediction, truth) for name, prediction in predictions.items()}


@pytest.fixture(scope="module")
def binned(sample):
    predictions, truth = sample
    return {
        name: evaluation.score_in_bins(prediction, truth, None, prediction.mean, EDGES)
        for name, prediction in predictions.items()
    }


@pytest.fixture
def ax():
    return Figure().subplots()


def line(ax, text):
    (found,) = [drawn for drawn in ax.get_lines() if str(drawn.get_label()).startswith(text)]
    return found.get_xdata(), found.get_ydata()


def points(ax, text):
    """x, y and half lengths of the vertical error bars of a container."""
    (found,) = [container for container in ax.containers if container.get_label() == text]
    data, _, bars = found.lines
    segments = bars[-1].get_segments()
    return data.get_xdata(), data.get_ydata(), np.array([np.ptp(s[:, 1]) / 2 for s in segments])


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("draw", "curve"), [(plot.coverage, "coverage"), (plot.quantile_calibration, "quantiles")])
def test_curves_show_the_excess(scores, ax, draw, curve):
    assert draw(scores, label="Sample", ax=ax) is ax
    for name in ("right", "wide"):
        x, y = line(ax, name)
        drawn = getattr(scores[name], curve)
        assert x == pytest.approx(drawn.nominal * (100 if curve == "coverage" else 1))
        assert y == pytest.approx(100 * (drawn.observed - drawn.nominal))
    assert not any("number" in text for text in texts(ax))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    right = getattr(scores["right"], curve)
    upper = 100 * (right.observed + right.unc - right.nominal)
    assert band.max() == pytest.approx(upper.max())
    assert ax.get_title(loc="left") == "Sample"
    assert "[%]" in ax.get_ylabel()


def test_too_wide_is_above_zero(scores, ax):
    _, y = line(plot.coverage(scores, ax=ax), "wide")
    nominal = scores["wide"].coverage.nominal
    assert y / 100 == pytest.approx(2 * norm.cdf(2 * norm.ppf(0.5 + nominal / 2)) - 1 - nominal, abs=0.05)


def test_largest_deviation_is_in_the_legend(scores, ax):
    wide = scores["wide"]
    expected = f"{100 * wide.quantile_deviation:+.1f} ± {100 * wide.quantile_deviation_unc:.1f}%"
    (text,) = [text for text in texts(plot.quantile_calibration(scores, ax=ax)) if text.startswith("wide")]
    assert expected.replace("-", "\u2212") in text


def test_pit(scores, ax):
    plot.pit(scores, ax=ax)
    x, y, unc = points(ax, "wide")
    drawn = scores["wide"].pit
    assert x == pytest.approx((drawn.edges[1:] + drawn.edges[:-1]) / 2)
    assert y == pytest.approx(drawn.density)
    assert unc == pytest.approx(drawn.unc)
    assert ax.get_xlim() == (0, 1)
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_in_bins(binned, ax, figure):
    plot.scores_in_bins(binned, figure, "Calibrated $p_T$ [GeV]", ax=ax)
    _, y, unc = points(ax, "wide")
    factor = 100 if "[%]" in ax.get_ylabel() else 1
    assert y == pytest.approx(factor * binned["wide"].figure(figure))
    if not figure.endswith("_relative"):
        assert unc == pytest.approx(factor * binned["wide"].figure(f"{figure}_unc"))
    assert ("number" in texts(ax)) == (figure == "absolute_error")
    assert ax.get_xlabel() == "Calibrated $p_T$ [GeV]"


def test_relative_error_in_bins(binned, ax):
    _, y, unc = points(plot.scores_in_bins(binned, "crps_relative", ax=ax), "right")
    assert unc / y == pytest.approx(binned["right"].figure("crps_unc") / binned["right"].figure("crps"))


def test_points_stay_in_their_bins(binned, ax):
    plot.scores_in_bins(binned, ax=ax)
    places = np.array([points(ax, name)[0] for name in ("right", "wide")])
    assert (places[0] < places[1]).all()
    assert (places > np.array(EDGES[:-1])).all()
    assert (places < np.array(EDGES[1:])).all()


def test_ratio_to_a_reference(binned, ax):
    plot.scores_in_bins(binned, "crps", reference="right", ax=ax)
    right, wide = binned["right"], binned["wide"]
    _, y, unc = points(ax, "wide")
    assert y == pytest.approx(wide.figure("crps") / right.figure("crps"))
    # A Gaussian of twice the width: E|N(0, 1 + 4)| - E|N(0, 8)| / 2, over that of the right width.
    assert y == pytest.approx((np.sqrt(5) - np.sqrt(2)) * np.sqrt(2) / 1, abs=0.05)
    relative = [b.figure("crps_unc") / b.figure("crps") for b in (right, wide)]
    assert unc == pytest.approx(y * np.hypot(*relative))
    assert texts(ax) == ["wide"]
    assert "ratio to right" in ax.get_ylabel()
    assert "GeV" not in ax.get_ylabel()


def test_bins_of_few_jets_are_left_out(sample, ax):
    predictions, truth = sample
    edges = (0, 300, 303, 1200)
    prediction = predictions["right"]
    found = evaluation.score_in_bins(prediction, truth, None, prediction.mean, edges)
    assert 0 < found.bins[1].n_eff < 10
    plot.scores_in_bins({"right": found}, ax=ax)
    assert points(ax, "right")[0] == pytest.approx([(303 + 1200) / 2])


def test_unknown_figure_and_reference(binned, ax):
    with pytest.raises(KeyError, match="crsp"):
        plot.scores_in_bins(binned, "crsp", ax=ax)
    with pytest.raises(KeyError, match="left"):
        plot.scores_in_bins(binned, "crps", reference="left", ax=ax)


def test_history(ax):
    history = [(100, 90.0), (200, 1.5), (300, 1.2), (400, 1.0), (500, 1.1)]
    plot.history({"BNN": history, "never trained": []}, ax=ax)
    curve, best = ax.get_lines()
    x, y = curve.get_data()
    assert list(zip(x, y, strict=True)) == history
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (400, 1.0)
    assert texts(ax) == ["BNN, best 1.0000 at 400"]
    # The best is 1 and the median 1.2: the axis ends near 2, not at 90.
    assert 2 < ax.get_ylim()[1] < 2.5


def test_flat_history(ax):
    plot.history({"BNN": [(1, 0.5), (2, 0.5)]}, ax=ax).figure.draw_without_rendering()
    assert ax.get_ylim()[0] < 0.5 < ax.get_ylim()[1]


def test_prior_scan(ax):
    scan = [(1.0, 0.9, 0.02, False), (0.01, 1.4, 0.01, True), (0.1, 0.8, 0.01, False), (0.03, 1.3, 0.01, True)]
    plot.prior_scan(scan, ax=ax)
    assert ax.get_xscale() == "log"
    x, y, unc = points(ax, "Trained")
    assert list(x) == [0.1, 1]
    assert list(y) == [0.8, 0.9]
    assert unc == pytest.approx([0.01, 0.02])
    assert line(ax, "Best: 0.1") == (pytest.approx([0.1]), pytest.approx([0.8]))
    shaded = [patch.get_extents().transformed(ax.transData.inverted()) for patch in ax.patches]
    assert [box.x0 for box in shaded] == pytest.approx([0.005, np.sqrt(0.0003)])
    assert shaded[-1].x1 == pytest.approx(np.sqrt(0.003))
    assert texts(ax).count("Collapsed to the prior") == 1


def test_prior_scan_without_a_trained_point(ax):
    plot.prior_scan([(0.1, 1.0, 0.1, True)], ax=ax).figure.draw_without_rendering()
    assert not any("Best" in text for text in texts(ax))


def test_spread_ratio(ax):
    ratios = {
        "BNN": (np.array([1.1, np.nan, 3.0]), np.array([0.1, 0.1, 0.2])),
        "Dropout": (np.array([0.3, 0.0, 0.9]), np.array([0.05, 0.1, 0.1])),
    }
    plot.spread_ratio(np.array(EDGES), ratios, ax=ax)
    for name, (ratio, error) in ratios.items():
        _, y, unc = points(ax, name)
        use = np.nan_to_num(ratio) > 0
        assert y == pytest.approx(ratio[use])
        assert unc == pytest.approx(error[use])
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((1 / 1.5, 1.5))
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] < 0.3 < 3 < ax.get_ylim()[1]
    assert "Within a factor 1.5" in texts(ax)


def test_predictive(ax):
    # The three-component row of Tab. 2 of arXiv:2003.11099, and two separate peaks.
    share = [[0.59, 0.5], [0.30, 0.5], [0.11, 0.0]]
    mean = [[617.8, 900.0], [659.8, 1050.0], [738.6, 900.0]]
    sigma = [[16.6, 20.0], [33.7, 20.0], [78.6, 20.0]]
    prediction = predicted(share, mean, sigma)
    plot.predictive(prediction, [0, 1], np.array([640.0, 905.0]), ax=ax)
    assert texts(ax)[0] == "Jet 0: mode 619.1 GeV, truth 640.0 GeV"
    curves = [drawn for drawn in ax.get_lines() if len(drawn.get_xdata()) > 1]
    for jet, curve in enumerate(curves):
        x, y = curve.get_data()
        assert y == pytest.approx(prediction.density(x)[jet])
        assert np.trapezoid(y, x) == pytest.approx(1, abs=0.005)
    paths = [path.vertices for drawn in ax.collections for path in drawn.get_paths()]
    areas = [vertices for vertices in paths if len(vertices) > 100]
    assert len(areas) == 3  # one piece of the first jet, two of the second
    sets = prediction.highest_density().to_list()
    for area, piece in zip(areas, [*sets[0], *sets[1]], strict=True):
        assert area[:, 0].min() == pytest.approx(piece["low"])
        assert area[:, 0].max() == pytest.approx(piece["high"])
    truths = [s[0, 0] for drawn in ax.collections if hasattr(drawn, "get_segments") for s in drawn.get_segments()]
    assert truths == [640.0, 905.0]
    assert ax.get_xlabel() == "$p_T$ [GeV]"
    assert "[1/GeV]" in ax.get_ylabel()


def test_predictive_evaluates_its_jets_only(sample, ax):
    prediction = sample[0]["right"]
    asked = []

    def components(jets):
        asked.append((jets.start, jets.stop))
        return prediction.components(jets)

    counting = Prediction(
        prediction.mean, prediction.sigma_stoch, prediction.sigma_pred, prediction.in_range, components
    )
    plot.predictive(counting, [5], ax=ax)
    assert set(asked) == {(5, 6)}


@pytest.mark.parametrize(
    "draw",
    [
        lambda number: plot.coverage(number),
        lambda number: plot.quantile_calibration(number),
        lambda number: plot.pit(number),
        lambda number: plot.scores_in_bins({}),
        lambda number: plot.history({}),
        lambda number: plot.prior_scan([]),
        lambda number: plot.spread_ratio(np.array(EDGES), {"BNN": (np.full(3, np.nan), np.ones(3))}),
    ],
)
def test_nothing_to_draw(scores, draw):
    figures = plt.get_fignums()
    with pytest.raises(plot.NothingToDrawError):
        draw({"number": scores["number"]})
    assert plt.get_fignums() == figures


def test_no_density_to_draw(sample):
    with pytest.raises(plot.NothingToDrawError):
        plot.predictive(sample[0]["number"], [0])


def test_new_figure_and_local_style(scores):
    before = dict(matplotlib.rcParams)
    ax = plot.coverage(scores)
    try:
        assert ax.figure.number in plt.get_fignums()
        assert dict(matplotlib.rcParams) == before
    finally:
        plt.close(ax.figure)
