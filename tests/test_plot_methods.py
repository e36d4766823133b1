"""Figures that compare calibrations: they draw what they are given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from hepcal import plot
from hepcal.distributions.prediction import Prediction
from hepcal.evaluation import closure_in_truth, coverage_in_truth
from hepcal.evaluation.priors import prior_dependence
from hepcal.plot.methods import CLOSURES, SHIFTS

EDGES = (900, 1000, 1200, 1500)


@pytest.fixture(scope="module")
def values():
    """Truth, and values of two methods: one closes, one is 5 % high and narrower."""
    rng = np.random.default_rng(2)
    truth = rng.uniform(900, 1500, 1500)
    return truth, {"likelihood": truth * rng.normal(1, 0.08, 1500), "MSE": truth * rng.normal(1.05, 0.06, 1500)}


@pytest.fixture(scope="module")
def closures(values):
    truth, methods = values
    inside = np.ones(len(truth), dtype=bool)
    return {name: closure_in_truth(v, truth, edges=EDGES, in_range=inside) for name, v in methods.items()}


@pytest.fixture(scope="module")
def shifts(values):
    import hepcal

    truth, methods = values
    test = hepcal.JetPairs.from_arrays(np.empty((len(truth), 0)), [], reco=truth, truth=truth)
    everywhere, sigma = np.ones(len(truth), dtype=bool), np.full(len(truth), 10, dtype=np.float32)
    predictions = {
        name: Prediction(mean=v.astype(np.float32), sigma_stoch=None, sigma_pred=sigma, in_range=everywhere)
        for name, v in methods.items()
    }
    return prior_dependence(predictions, test, edges=EDGES).shifts


@pytest.fixture
def ax():
    return Figure().subplots()


def points(ax, text):
    """y and half lengths of the vertical error bars of a container."""
    (found,) = [container for container in ax.containers if container.get_label() == text]
    data, _, bars = found.lines
    return data.get_ydata(), np.array([np.ptp(s[:, 1]) / 2 for s in bars[-1].get_segments()])


def steps(ax, text):
    (found,) = [patch for patch in ax.patches if str(patch.get_label()).startswith(text)]
    return found


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("figure", CLOSURES)
def test_every_figure_of_a_closure(closures, ax, figure):
    assert plot.truth_closure(closures, figure, label="Sample", ax=ax) is ax
    assert texts(ax) == ["likelihood", "MSE"]
    assert ax.get_title(loc="left") == "Sample"
    _, factor, target = CLOSURES[figure]
    for name, closure in closures.items():
        y, unc = points(ax, name)
        assert y == pytest.approx(factor * getattr(closure, figure))
        assert unc == pytest.approx(factor * getattr(closure, f"{figure}_unc", np.zeros(3)))
    lines = [line for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in lines] == ([] if target is None else [factor * target] * 2)[:1]
    assert ("[%]" in ax.get_ylabel()) == (factor == 100)
    assert "GeV" in ax.get_xlabel()


@pytest.mark.parametrize("figure", SHIFTS)
def test_every_figure_of_a_shift(shifts, ax, figure):
    plot.prior_shift(shifts, figure, ax=ax)
    y, unc = points(ax, "MSE")
    factor = SHIFTS[figure][1]
    assert y == pytest.approx(factor * getattr(shifts["MSE"], figure))
    assert unc == pytest.approx(factor * getattr(shifts["MSE"], f"{figure}_unc", np.zeros(3)))


def test_coverage_with_its_nominal_line(values, ax):
    truth, methods = values
    value = methods["likelihood"]
    found = coverage_in_truth(0.92 * value, 1.08 * value, truth, edges=EDGES)
    plot.truth_coverage({"belt": found}, xlabel="$m_{jj}$ [GeV]", ax=ax)
    y, unc = points(ax, "belt")
    assert y == pytest.approx(100 * found.coverage)
    assert unc == pytest.approx(100 * found.coverage_unc)
    assert ax.get_lines()[0].get_ydata()[0] == pytest.approx(68.27)
    assert ax.get_xlabel() == "$m_{jj}$ [GeV]"


def test_bins_without_figures_are_left_out(values, ax):
    truth, methods = values
    closure = closure_in_truth(methods["MSE"], truth, edges=(100, 900, 1500))
    plot.truth_closure({"MSE": closure}, ax=ax)
    assert len(points(ax, "MSE")[0]) == 1


def test_many_methods_share_the_legend_in_two_columns(closures, ax):
    plot.truth_closure({str(i): closures["MSE"] for i in range(6)}, ax=ax).figure.draw_without_rendering()
    assert ax.get_legend()._ncols == 2
    legend = ax.get_legend().get_window_extent()
    highest = max(ax.transData.transform((0, y))[1] for i in range(6) for y in points(ax, str(i))[0])
    assert highest < legend.y0


def test_responses_are_densities_with_medians_in_the_legend(values, ax):
    truth, methods = values
    weight = np.where(truth < 1200, 2.0, 1.0)
    given = {name: {"QCD": (value / truth, None), "BSM": (value / truth, weight)} for name, value in methods.items()}
    plot.responses(given, ax=ax)
    assert len(texts(ax)) == 4
    median = np.median(methods["MSE"] / truth)
    assert texts(ax)[2] == f"MSE, QCD: median {median:.3f}"
    drawn, edges, _ = steps(ax, "MSE, QCD").get_data()
    assert len(drawn) == 49
    assert edges[[0, -1]] == pytest.approx([0.8, 1.4])
    response = methods["MSE"] / truth
    inside = ((response >= 0.8) & (response <= 1.4)).mean()
    assert np.sum(drawn * np.diff(edges)) == pytest.approx(inside)
    styles = {str(patch.get_label()): (patch.get_linestyle(), patch.get_edgecolor()) for patch in ax.patches}
    styles = {name.split(":")[0]: style for name, style in styles.items() if "median" in name}
    assert styles["MSE, QCD"][0] != styles["MSE, BSM"][0]
    assert styles["MSE, QCD"][1] == styles["MSE, BSM"][1] != styles["likelihood, QCD"][1]


def test_weighted_response_counts_weights(ax):
    response, weight = np.repeat([0.9, 1.1], 50), np.repeat([3.0, 1.0], 50)
    plot.responses({"A": {"s": (response, weight)}}, bins=2, span=(0.8, 1.2), ax=ax)
    drawn, _, _ = steps(ax, "A, s").get_data()
    assert drawn == pytest.approx([0.75 / 0.2, 0.25 / 0.2])


@pytest.mark.parametrize("log", [False, True])
def test_spectra_and_their_ratios(log):
    rng = np.random.default_rng(4)
    truth = 1800 + rng.exponential(250, 8000)
    weight = rng.uniform(0.5, 1.5, 8000)
    edges = np.linspace(1750, 3000, 50)
    samples = {"Truth": (truth, None), "Shifted": (truth + 20, weight), "Empty": (truth, 0 * weight)}
    upper, lower = plot.spectra(samples, edges, log=log, ratio_log=log, axes=tuple(Figure().subplots(2)))
    assert texts(upper) == ["Truth", "Shifted"]
    assert lower.get_yscale() == upper.get_yscale() == ("log" if log else "linear")
    assert lower.get_ylim() == (0.25, 2)
    assert lower.get_ylabel() == "Ratio to Truth"
    sums = np.histogram(truth + 20, edges, weights=weight)[0] / weight.sum()
    expected = sums / np.diff(edges)
    (points_up,) = [c for c in upper.containers if c.get_label() == "Shifted"]
    y = points_up.lines[0].get_ydata()
    use = np.isfinite(y)
    assert y[use] == pytest.approx(expected[use])
    base = np.histogram(truth, edges)[0] / len(truth)
    ratio = lower.containers[0].lines[0].get_ydata()
    use = (base > 0) & (sums > 0)
    assert ratio[use] == pytest.approx((sums / np.where(base > 0, base, 1))[use])
    if log:
        assert upper.get_ylim()[1] / upper.get_ylim()[0] < 1e8


def test_a_logarithmic_axis_does_not_follow_vanishing_weights():
    value = np.linspace(1000, 2000, 2000)
    weight = np.exp(-0.5 * ((value - 1500) / 30) ** 2)
    upper, _ = plot.spectra({"BSM": (value, weight)}, np.linspace(1000, 2000, 41), axes=tuple(Figure().subplots(2)))
    assert upper.get_ylim()[0] > 1e-8


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot.truth_closure({}),
        lambda: plot.truth_closure({"A": closure_in_truth(np.ones(5), np.ones(5), edges=(0, 2))}),
        lambda: plot.truth_coverage({}),
        lambda: plot.prior_shift({}),
        lambda: plot.responses({"A": {"QCD": (np.ones(3), None)}}),
        lambda: plot.spectra({}, (0, 1)),
        lambda: plot.spectra({"A": (np.ones(3), None)}, (0, 1, 2)),
    ],
)
def test_nothing_to_draw(draw):
    figures = plt.get_fignums()
    with pytest.raises(plot.NothingToDrawError):
        draw()
    assert plt.get_fignums() == figures


def test_unknown_figures(closures, shifts, ax):
    with pytest.raises(KeyError, match="mode"):
        plot.truth_closure(closures, "mode", ax=ax)
    with pytest.raises(KeyError, match="bias"):
        plot.prior_shift(shifts, "bias", ax=ax)


def test_new_figures_and_local_style(closures, values):
    before = dict(matplotlib.rcParams)
    drawn = [plot.truth_closure(closures), plot.spectra({"Truth": (values[0], None)}, EDGES)[0]]
    try:
        assert all(ax.figure.number in plt.get_fignums() for ax in drawn)
        assert dict(matplotlib.rcParams) == before
    finally:
        for ax in drawn:
            plt.close(ax.figure)
