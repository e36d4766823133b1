"""Figures from toy histograms."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from hepcal import plot
from hepcal.closure import hists as booking
from hepcal.closure.metrics import closure
from hepcal.plot import closure as figures_of_closure

SINGLE = (plot.response, plot.bias, plot.uncertainties, plot.pull)
PANELLED = (plot.resolution, plot.spectrum)
SUMMARY = {"calibrator": {"method": "bnn"}, "trained_on": []}


def toy(n=3000, *, sigmas=True, bsm=True, truth=True, negative=0.0, scale=1.0):
    """Response 0.9 ± 0.1 before, ``scale`` ± 0.08 after calibration."""
    rng = np.random.default_rng(1)
    mass = 1000 + rng.exponential(800, n)
    eta = rng.uniform(0, 2.5, n)
    weights = {"qcd": np.where(rng.random(n) < negative, -1.0, 1.0)}
    if bsm:
        weights["bsm"] = weights["qcd"] * np.exp(-(((mass - 2000) / 300) ** 2) / 2)
    hists = booking.book()
    for quantity, true in (("mjj", mass), ("pt", mass * 0.4)):
        calib = {"value": true * rng.normal(scale, 0.08, n), "in_range": np.ones(n, dtype=bool)}
        if sigmas:
            calib |= {"sigma_stoch": 0.08 * true, "sigma_pred": 0.01 * true, "sigma_tot": 0.0806 * true}
        levels = {"reco": {"value": true * rng.normal(0.9, 0.1, n)}, "calib": calib}
        axes = {"pt_truth": true, "abs_eta": eta} if quantity == "pt" else {"mjj_truth": true}
        if truth:
            booking.fill_truth(hists, quantity, axes, levels, weights, "toy")
            booking.fill_spectrum(hists, quantity, "truth", true, weights, "toy")
        for level, columns in levels.items():
            booking.fill_spectrum(hists, quantity, level, columns["value"], weights, "toy")
    return hists


@pytest.fixture(scope="module")
def hists():
    return toy()


def panels(draw, figure):
    if draw in (*PANELLED, plot.flavours):
        return {"axes": tuple(figure.subplots(2, 1, sharex=True))}
    return {"ax": figure.subplots()}


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def markers(ax):
    """Containers with error bars, by legend text."""
    return {container.get_label(): container for container in ax.containers}


@pytest.mark.parametrize("draw", SINGLE + PANELLED)
@pytest.mark.parametrize("quantity", ["pt", "mjj"])
def test_draws_into_the_axes_it_is_given(hists, draw, quantity):
    where = panels(draw, Figure())
    drawn = draw(hists, quantity, label="Sample", **where)
    assert drawn is where.get("ax", drawn)
    upper, lower = drawn if draw in PANELLED else (drawn, drawn)
    if draw in PANELLED:
        assert (upper, lower) == where["axes"]
    assert upper.get_title(loc="left") == "Sample"
    assert upper.get_ylabel()
    assert lower.get_xlabel()
    assert texts(upper)


@pytest.mark.parametrize(
    ("draw", "options", "x", "y"),
    [
        (plot.bias, {}, "[GeV]", "[%]"),
        (plot.bias, {"axis": "abs_eta"}, r"\eta", "[%]"),
        (plot.bias, {"quantity": "mjj"}, "[GeV]", "[%]"),
        (plot.resolution, {}, "[GeV]", "[%]"),
        (plot.uncertainties, {}, "[GeV]", "[%]"),
        (plot.spectrum, {}, "[GeV]", "[1/GeV]"),
        (plot.pull, {}, r"\sigma", "density"),
    ],
)
def test_labels_have_units(hists, draw, options, x, y):
    drawn = draw(hists, **options, **panels(draw, Figure()))
    upper, lower = drawn if isinstance(drawn, tuple) else (drawn, drawn)
    assert x in lower.get_xlabel()
    assert y in upper.get_ylabel()


def test_bias_shows_what_was_filled(hists):
    ax = plot.bias(hists, "pt", "abs_eta", ax=Figure().subplots())
    after = markers(ax)["QCD, after calibration"].lines[0].get_ydata()
    before = markers(ax)["QCD, before calibration"].lines[0].get_ydata()
    assert after == pytest.approx(np.zeros(3), abs=1)
    assert before == pytest.approx(np.full(3, -10), abs=1)


def test_bsm_is_left_out_if_not_filled():
    ax = plot.bias(toy(bsm=False), ax=Figure().subplots())
    assert not any("BSM" in text for text in texts(ax))


def test_only_bins_with_thirty_effective_events(hists):
    ax = plot.bias(hists, "pt", weightings=("qcd",), ax=Figure().subplots())
    shown = markers(ax)["QCD, after calibration"].lines[0].get_xdata()
    assert len(shown) == (closure(hists, "pt", "calib").n_eff >= 30).sum() < 16
    with pytest.raises(plot.NothingToDrawError, match="n_eff"):
        plot.bias(toy(5))


def test_large_bias_stays_readable():
    ax = plot.bias(toy(scale=1.5), ax=Figure().subplots())
    assert ax.get_yscale() == "symlog"


def test_resolution_ratio(hists):
    _, lower = plot.resolution(hists, axis="abs_eta", weightings=("qcd",), axes=tuple(Figure().subplots(2, 1)))
    (container,) = lower.containers
    # A response of 1.0 ± 0.08 against 0.9 ± 0.1.
    assert container.lines[0].get_ydata() == pytest.approx(np.full(3, 0.08 * 0.9 / 0.1), rel=0.15)


def test_uncertainties_are_relative_and_logarithmic(hists):
    ax = plot.uncertainties(hists, ax=Figure().subplots())
    values = [np.asarray(c.lines[0].get_ydata()) for c in ax.containers]
    for drawn, expected in zip(values, (8, 1), strict=True):
        assert drawn[np.isfinite(drawn)] == pytest.approx(expected)
    assert ax.get_yscale() == "log"


def test_legends_hold_the_figures(hists):
    assert any("median 0.90" in text for text in texts(plot.response(hists, ax=Figure().subplots())))
    text = "".join(texts(plot.pull(hists, ax=Figure().subplots(), log=True)))
    assert all(word in text for word in ("mean", "s.d.", "half 68%", "within"))


def test_spectra_are_densities(hists):
    upper, _ = plot.spectrum(hists, "mjj", "bsm", axes=tuple(Figure().subplots(2, 1)))
    assert upper.get_yscale() == "linear"
    centres, density = markers(upper)["After calibration"].lines[0].get_data()
    assert np.sum(density) * (centres[1] - centres[0]) == pytest.approx(1, abs=0.03)


def test_spectrum_without_truth():
    data = toy(truth=False, bsm=False)
    upper, lower = plot.spectrum(data, axes=tuple(Figure().subplots(2, 1)))
    assert "No particle-level truth" in [text.get_text() for text in upper.texts]
    assert "before" in lower.get_ylabel()
    assert "Truth" not in texts(upper)
    assert upper.get_title(loc="right") == ""


@pytest.mark.parametrize("draw", SINGLE + PANELLED)
def test_nothing_filled_is_not_drawn(draw):
    figures = plt.get_fignums()
    with pytest.raises(plot.NothingToDrawError):
        draw(booking.book())
    assert plt.get_fignums() == figures


def test_write(hists, tmp_path, monkeypatch):
    names = ("resolution_abs_eta", "pull_pt_qcd")
    monkeypatch.setattr(figures_of_closure, "FIGURES", {name: figures_of_closure.FIGURES[name] for name in names})
    first = {path: path.read_bytes() for path in plot.write(tmp_path, hists, SUMMARY)}
    assert sorted(first) == sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in first] == [f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")]
    for path, content in first.items():
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")
    assert not plt.get_fignums()
    monkeypatch.setattr(figures_of_closure, "FIGURES", {"pull_pt_qcd": figures_of_closure.FIGURES["pull_pt_qcd"]})
    assert all(path.read_bytes() == first[path] for path in plot.write(tmp_path, hists, SUMMARY))


def test_write_clears_old_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(figures_of_closure, "FIGURES", {"pull_pt_qcd": figures_of_closure.FIGURES["pull_pt_qcd"]})
    old = tmp_path / "plots" / "pull_pt_qcd.png"
    old.parent.mkdir()
    old.write_bytes(b"of an earlier run")
    assert plot.write(tmp_path, toy(300, sigmas=False), SUMMARY) == []
    assert not old.exists()


def test_write_of_empty_histograms(tmp_path):
    assert plot.write(tmp_path, booking.book(), {}) == []
    assert list((tmp_path / "plots").iterdir()) == []


@pytest.mark.parametrize("options", [{"n": 40}, {"n": 2000, "negative": 0.3}, {"truth": False}])
def test_odd_samples_draw_without_warnings(options):
    hists, drawn = toy(**options), 0
    for draw, chosen in figures_of_closure.FIGURES.values():
        figure = Figure()
        try:
            draw(hists, **chosen, **panels(draw, figure))
        except plot.NothingToDrawError:
            continue
        figure.draw_without_rendering()
        drawn += 1
    assert drawn


def test_closure_by_flavour_and_coverage_in_truth():
    rng = np.random.default_rng(4)
    n, hists = 20_000, booking.book()
    truth, flavour = rng.uniform(300, 900, n), rng.integers(0, 2, n)
    value = truth * np.where(flavour == 0, 0.98, 1.01) * rng.normal(1, 0.08, n)
    calib = {"value": value, "in_range": np.ones(n, dtype=bool), "sigma_tot": 0.08 * truth, "sigma_stoch": 0.08 * truth}
    calib["covered_68"] = np.abs(value / truth - 1) < 0.07
    weights, event = {"qcd": np.ones(n)}, np.arange(n)
    booking.fill_truth(hists, "pt", {"pt_truth": truth, "abs_eta": 0 * truth}, {"calib": calib}, weights, "toy", event)
    with pytest.raises(plot.NothingToDrawError, match="flavour"):
        plot.flavours(hists)
    booking.fill_flavours(hists, truth, flavour, {"calib": calib}, weights, "toy", event)
    upper, lower = plot.flavours(hists, axes=tuple(Figure().subplots(2, 1)))
    drawn = markers(upper)
    assert list(drawn) == ["Gluon", "Light quark"]
    assert drawn["Gluon"].lines[0].get_ydata() == pytest.approx(np.full(4, -2), abs=0.6)
    assert lower.get_ylabel() == "Median bias [%]"
    ax = plot.coverage_in_truth(hists, ax=Figure().subplots())
    shares = {name: each.lines[0].get_ydata().mean() for name, each in markers(ax).items()}
    inside, within = shares.values()
    assert inside == pytest.approx(61, abs=2)
    assert within == pytest.approx(68, abs=2)


def test_sample_label(hists):
    assert figures_of_closure._sample(hists, SUMMARY) == "toy, BNN"
    assert figures_of_closure._sample(hists, SUMMARY | {"trained_on": ["a.root"]}).endswith("trained on these files")


def test_style_stays_local(hists):
    before = dict(matplotlib.rcParams)
    plot.response(hists, ax=Figure().subplots())
    assert dict(matplotlib.rcParams) == before


def test_new_figure(hists):
    ax = plot.response(hists)
    try:
        assert ax.figure.number in plt.get_fignums()
    finally:
        plt.close(ax.figure)


def test_importing_needs_no_torch():
    code = "import sys, hepcal.plot; sys.exit(bool({'torch', 'dask', 'coffea'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
