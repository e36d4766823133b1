"""The files of a run: what is in them, what comes back, and what happens when something goes wrong."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

import hepcal
from hepcal.closure import hists as booking
from hepcal.closure import results
from hepcal.closure.metrics import closure, samples
from hepcal.errors import HepcalError, OutputError

N = 40_000
SCALE, WIDTH = 0.97, 0.08
FILES = ("hists.coffea", "hists.json", "summary.json")
DERIVED = {
    "pt_bias",
    "pt_resolution",
    "pt_bias_abs_eta",
    "pt_resolution_abs_eta",
    "mjj_bias",
    "mjj_resolution",
}
CALIB_FIGURES = ("pull_mean", "pull_sd", "pull_half68", "coverage_68", "within_sigma_tot", "sigma_stoch", "sigma_pred")
COMMON_FIGURES = (
    "edges",
    "n_eff",
    "response_mean",
    "response_mean_unc",
    "response_median",
    "response_median_unc",
    "bias",
    "resolution",
    "resolution_unc",
    "sum_ratio",
)
EVENTS = {"read": N, "simulated": N, "selected": N - 7, "outside_density": 3, "skipped_files": [], "without_truth": []}


def make_hists(scale: float = SCALE, seed: int = 1) -> dict[str, hist.Hist]:
    """A calibration to 0.97 of the truth with a Gaussian width of 8 %, from 0.90; QCD and BSM weights."""
    rng = np.random.default_rng(seed)
    booked = booking.book()
    for quantity, low, high in (("pt", 300, 1800), ("mjj", 2000, 5000)):
        truth = rng.uniform(low, high, N)
        noise = rng.normal(size=N)
        stoch, pred = truth * WIDTH, truth * 0.01
        levels: dict[str, dict[str, np.ndarray]] = {
            "reco": {"value": truth * (0.9 + WIDTH * noise)},
            "calib": {
                "value": truth * (scale + WIDTH * noise),
                "sigma_stoch": stoch,
                "sigma_pred": pred,
                "sigma_tot": np.hypot(stoch, pred),
                "in_range": np.ones(N, dtype=bool),
                "covered_68": np.abs(noise) < 1,
            },
        }
        weights = {"qcd": rng.uniform(0.5, 1.5, N), "bsm": rng.exponential(size=N)}
        axes = {f"{quantity}_truth": truth}
        if quantity == "pt":
            axes["abs_eta"] = rng.uniform(0, 2.5, N)
            matched = rng.random(N) < 0.99
            booking.fill_matching(booked, truth, axes["abs_eta"], matched, weights["qcd"], "toy")
        booking.fill_truth(booked, quantity, axes, levels, weights, "toy")
        booking.fill_spectrum(booked, quantity, "truth", truth, weights, "toy")
    return booked


@pytest.fixture(scope="module")
def hists() -> dict[str, hist.Hist]:
    return make_hists()


def summary_of(hists: Mapping[str, hist.Hist]) -> dict[str, Any]:
    return results.summarise(hists, EVENTS, {"method": "bnn", "sha256": "0" * 64}, {"resonance": {"mass": 2800.0}})


@pytest.fixture(scope="module")
def summary(hists: dict[str, hist.Hist]) -> dict[str, Any]:
    return summary_of(hists)


@pytest.fixture(scope="module")
def written_once(
    tmp_path_factory: pytest.TempPathFactory, hists: dict[str, hist.Hist], summary: dict[str, Any]
) -> Path:
    directory = tmp_path_factory.mktemp("written") / "deep" / "results"
    results.write(directory, hists, summary)
    return directory


@pytest.fixture
def written(tmp_path: Path, written_once: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(written_once, tmp_path / "deep" / "results"))


# -- round trip -------------------------------------------------------------------------------------------------------


def test_exactly_the_promised_files_are_written(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)


def test_histograms_come_back_from_json(written: Path, hists: dict[str, hist.Hist]) -> None:
    loaded = results.load_hists(written)
    assert set(loaded) == set(hists) | DERIVED
    for name, original in hists.items():
        assert loaded[name] == original, name
        assert isinstance(loaded[name], hist.Hist)
        assert [(a.name, a.label) for a in loaded[name].axes] == [(a.name, a.label) for a in original.axes]
        np.testing.assert_array_equal(loaded[name].view(flow=True), original.view(flow=True))


def test_histograms_come_back_from_the_coffea_file(written: Path, hists: dict[str, hist.Hist]) -> None:
    from coffea.util import load

    loaded = load(written / "hists.coffea")
    assert set(loaded) == {*hists, *results.derived(hists)}
    for name, original in hists.items():
        assert loaded[name] == original, name


def test_figures_of_loaded_histograms_are_those_of_the_filled_ones(written: Path, summary: dict[str, Any]) -> None:
    assert samples(results.load_hists(written)) == summary["samples"]


def test_the_summary_comes_back(written: Path, summary: dict[str, Any]) -> None:
    assert results.load_summary(written) == summary


@pytest.mark.parametrize("name", ["hists.json", "summary.json"])
def test_json_files_hold_no_nan(written: Path, name: str) -> None:
    """NaN and Infinity are not JSON: other languages refuse the whole file."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{name} holds {constant}")

    json.loads((written / name).read_text(), parse_constant=refuse)


# -- summary.json -----------------------------------------------------------------------------------------------------


def test_the_summary_has_the_specified_keys(summary: dict[str, Any]) -> None:
    assert summary["schema_version"] == 2
    assert summary["hepcal"] == hepcal.__version__
    assert summary["calibrator"] == {"method": "bnn", "sha256": "0" * 64}
    assert summary["events"].items() >= {"read": N, "skipped_files": [], "selected": N - 7}.items()
    assert list(summary["samples"]) == ["qcd", "bsm"]
    assert summary["resonance"] == {"mass": 2800.0}


@pytest.mark.parametrize("weighting", ["qcd", "bsm"])
@pytest.mark.parametrize("quantity", ["pt", "mjj"])
@pytest.mark.parametrize("level", ["reco", "calib"])
def test_every_specified_figure_is_a_list_over_truth_bins(
    summary: dict[str, Any], weighting: str, quantity: str, level: str
) -> None:
    figures = summary["samples"][weighting][quantity][level]
    bins = len(figures["edges"]) - 1
    for name in COMMON_FIGURES + (CALIB_FIGURES if level == "calib" else ()):
        if name == "sum_ratio":
            assert isinstance(figures[name], float)
        elif name != "edges":
            assert len(figures[name]) == bins, name
    if level == "reco":
        assert not set(CALIB_FIGURES) & set(figures)


def test_the_bias_is_relative(summary: dict[str, Any]) -> None:
    calib = summary["samples"]["qcd"]["pt"]["calib"]
    inside = [i for i, n in enumerate(calib["n_eff"]) if n > 500]
    assert len(inside) > 5
    for i in inside:
        unc = calib["response_mean_unc"][i]
        assert calib["bias"][i] == pytest.approx(SCALE - 1, abs=5 * unc)
        assert calib["resolution"][i] == pytest.approx(WIDTH / SCALE, rel=0.2)
    assert calib["sum_ratio"] == pytest.approx(SCALE, abs=5e-3)


def test_the_unmatched_fraction_is_given_per_bin_of_truth(hists: dict[str, hist.Hist], summary: dict[str, Any]) -> None:
    unmatched = summary["unmatched"]
    assert unmatched["edges"] == list(hists["matching"].axes["pt_truth"].edges)
    assert len(unmatched["fraction"]) == len(unmatched["edges"]) - 1
    filled = [value for value in unmatched["fraction"] if value is not None]
    assert filled
    assert np.mean(filled) == pytest.approx(0.01, abs=0.005)


def test_a_summary_of_collision_data_has_no_samples() -> None:
    summary = summary_of(booking.book())
    assert summary["samples"] == {}
    assert set(summary["unmatched"]["fraction"]) == {None}
    assert results.closure_tables(summary) == []


# -- derived histograms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["qcd", "bsm"])
@pytest.mark.parametrize("level", ["reco", "calib"])
@pytest.mark.parametrize(
    ("quantity", "axis", "tail"), [("pt", "pt_truth", ""), ("pt", "abs_eta", "_abs_eta"), ("mjj", "mjj_truth", "")]
)
def test_derived_histograms_hold_bias_and_resolution_with_errors(
    hists: dict[str, hist.Hist], quantity: str, axis: str, tail: str, level: str, weighting: str
) -> None:
    found, figures = results.derived(hists), closure(hists, quantity, level, weighting, axis)
    assert set(found) == DERIVED
    for name, values, errors in (
        ("bias", figures.bias, figures.response_mean_unc),
        ("resolution", figures.resolution, figures.resolution_unc),
    ):
        booked = found[f"{quantity}_{name}{tail}"]
        assert [a.name for a in booked.axes] == ["weighting", "level", axis]
        row = booked[{"weighting": hist.loc(weighting), "level": hist.loc(level)}]
        filled = figures.n_eff >= 30
        assert not row.values()[~filled].any()
        np.testing.assert_array_equal(row.values()[filled], values[filled])
        np.testing.assert_allclose(row.variances()[filled], errors[filled] ** 2, rtol=1e-12)
        np.testing.assert_array_equal(row.axes[0].edges, figures.edges)


# -- tables -----------------------------------------------------------------------------------------------------------


def rendered(tables: list[Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_tables_show_before_and_after_for_each_weighting_and_quantity(summary: dict[str, Any]) -> None:
    tables = results.closure_tables(summary, ": toy")
    assert [table.title for table in tables] == [
        "jet p_T, QCD weights: toy",
        "dijet mass, QCD weights: toy",
        "jet p_T, BSM weights: toy",
        "dijet mass, BSM weights: toy",
    ]
    text = rendered(tables)
    for word in ("bias [%]", "resol. [%]", "pull sd", "cover. [%]", "σ_stoch [GeV]", "σ_pred [GeV]", "all"):
        assert word in text
    figures = summary["samples"]["qcd"]["pt"]["calib"]["inclusive"]
    assert f"{100 * figures['bias'][0]:+.2f}" in text
    assert f"sum(calib)/sum(truth) = {figures['sum_ratio']:.4f}" in text


def test_tables_leave_out_bins_without_entries(summary: dict[str, Any]) -> None:
    text = rendered(results.closure_tables(summary)[:1])
    assert "350-500" in text
    assert "20-30" not in text
    assert "nan" not in text.lower()


def test_tables_of_a_method_without_uncertainties_have_no_columns_for_them() -> None:
    rng, booked = np.random.default_rng(1), booking.book()
    truth = rng.uniform(300, 900, 1_000)
    levels = {"reco": {"value": 0.9 * truth}, "calib": {"value": truth, "in_range": np.ones(1_000, dtype=bool)}}
    axes = {"pt_truth": truth, "abs_eta": np.zeros(1_000)}
    booking.fill_truth(booked, "pt", axes, levels, {"qcd": np.ones(1_000)}, "toy")
    (table,) = results.closure_tables(summary_of(booked))
    text = rendered([table])
    assert "in ±σ [%]" not in text
    assert "σ_stoch" not in text
    assert "cover." not in text
    assert "bias [%]" in text


def test_notes_say_what_a_reader_must_know(summary: dict[str, Any]) -> None:
    events = {
        **EVENTS,
        "skipped_files": [{"file": "broken.root", "reason": "truncated"}],
        "without_truth": ["Run2026A"],
    }
    text = "\n".join(results.notes({**summary, "events": events}))
    for word in (
        str(N),
        "broken.root",
        "truncated",
        "Run2026A",
        "BSM weight zero",
        "proves nothing",
        "training spectrum",
    ):
        assert word in text


def test_tables_show_every_bin_with_thirty_events_however_rare() -> None:
    """The start commit left out bins with less than a thousandth of the weight, where extrapolations show."""
    rng, booked = np.random.default_rng(1), booking.book()
    truth = np.concatenate([rng.uniform(300, 350, 100_000), rng.uniform(1200, 1500, 40), rng.uniform(2000, 2900, 20)])
    levels = {"reco": {"value": truth * rng.normal(1, 0.08, len(truth))}}
    axes = {"pt_truth": truth, "abs_eta": np.zeros(len(truth))}
    booking.fill_truth(booked, "pt", axes, levels, {"qcd": np.ones(len(truth))}, "toy")
    text = rendered(results.closure_tables(summary_of(booked)))
    assert "1200-1500" in text
    assert "2000-3000" not in text  # 20 jets


def emptied(content: Any) -> Any:
    """All figures null, as in the summary of a damaged run."""
    if isinstance(content, dict):
        kept = ("edges", "n_eff")
        return {name: each if name in kept else emptied(each) for name, each in content.items()}
    return [None for _ in content] if isinstance(content, list) else None


def test_tables_of_nulls_show_dashes(summary: dict[str, Any]) -> None:
    text = rendered(results.closure_tables({**summary, "samples": emptied(summary["samples"])}))
    assert "350-500" in text
    notes = results.notes({**summary, "samples": emptied(summary["samples"]), "events": EVENTS})
    assert notes


def test_notes_say_what_is_out_of_range_and_how_much_of_the_resonance_there_is(summary: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(summary))
    changed["samples"]["qcd"]["pt"]["calib"]["inclusive"]["in_range"] = [0.9886]
    changed["samples"]["bsm"]["mjj"]["calib"]["inclusive"]["n_eff"] = [1.06]
    changed["resonance"] = {"mass": 6500.0, "inside_density": 0.92, "norm": 0.27, "density_range": [100.0, 6600.0]}
    text = "\n".join(results.notes(changed))
    assert "1.14 % (jet p_T)" in text
    assert "1.1 effective events for the resonance at 6500 GeV; figures need 30" in text
    assert "92 % of the resonance at 6500 GeV lies where the sample has events (100 to 6600 GeV)" in text
    assert "sum to 0.27" in text
    assert "WARNING" not in "\n".join(results.notes({**summary, "resonance": {"mass": 2800.0}}))


# -- results of before ------------------------------------------------------------------------------------------------


def of_before(hists: dict[str, hist.Hist]) -> dict[str, hist.Hist]:
    """The histograms as the first schema had them: other terms, no pairs of jets of one event."""
    terms = ("jets", "value", "truth", "response", "response_squared", "pull", "pull_squared", "covered_68")
    terms += ("sigma_stoch", "sigma_pred", "in_range")
    out = {name: filled for name, filled in hists.items() if "pair" not in name}
    for name in ("pt_sums", "mjj_sums"):
        axis = hist.axis.StrCategory(terms, name="term", overflow=False)
        out[name] = hist.Hist(*list(hists[name].axes)[:-1], axis, storage=hist.storage.Weight())
        names = list(hists[name].axes["term"])
        for position, term in enumerate(terms):
            source = {"response_squared": "response", "covered_68": "within_sigma_tot"}.get(term, term)
            out[name].view(flow=True)[..., position] = hists[name].view(flow=True)[..., names.index(source)]
    return out


def test_results_of_before_load_show_and_draw(
    tmp_path: Path, hists: dict[str, hist.Hist], summary: dict[str, Any]
) -> None:
    before = of_before(hists)
    old = json.loads(json.dumps(summary))
    old["schema_version"] = 1
    for quantities in old["samples"].values():
        for levels in quantities.values():
            calib = levels["calib"]
            for figures in (calib, calib["inclusive"], *([calib["abs_eta"]] if "abs_eta" in calib else [])):
                figures["coverage_68"] = figures.pop("within_sigma_tot")
    results.write(tmp_path, before, old)
    loaded, shown = results.load_hists(tmp_path), results.load_summary(tmp_path)
    figures, today = (closure(each, "pt", "calib") for each in (loaded, hists))
    # What was called coverage is what lies within sigma_tot, and there was no other.
    np.testing.assert_allclose(figures.within_sigma_tot, today.within_sigma_tot)
    assert np.isnan(figures.coverage_68).all()
    np.testing.assert_allclose(figures.response_mean_unc, today.response_mean_unc, rtol=0.02)
    calib = shown["samples"]["qcd"]["pt"]["calib"]
    assert "coverage_68" not in calib
    assert calib["within_sigma_tot"] == summary["samples"]["qcd"]["pt"]["calib"]["within_sigma_tot"]
    assert "in ±σ [%]" in rendered(results.closure_tables(shown))
    assert "cover. [%]" not in rendered(results.closure_tables(shown))
    from hepcal import plot

    assert plot.bias(loaded, "pt", ax=Figure().subplots())
    assert plot.pull(loaded, "pt", ax=Figure().subplots())


@pytest.mark.parametrize("where", ["histogram", "summary"])
def test_what_is_not_json_is_refused_and_nothing_written(
    tmp_path: Path, hists: dict[str, hist.Hist], summary: dict[str, Any], where: str
) -> None:
    broken = {name: filled.copy() for name, filled in hists.items()}
    if where == "histogram":
        broken["pt_sums"].view(flow=True)["value"][0, 0, 0, 1, 1, 1] = np.inf
    else:
        summary = {**summary, "resonance": {"mass": float("nan")}}
    with pytest.raises(HepcalError, match="'pt_sums' holds 1 numbers" if where == "histogram" else "resonance.mass"):
        results.write(tmp_path / "out", broken, summary)
    assert not [path for path in (tmp_path / "out").glob("*") if path.is_file()]


# -- faults -----------------------------------------------------------------------------------------------------------

LOADERS = {"hists.json": results.load_hists, "summary.json": results.load_summary}


@pytest.mark.parametrize("name", LOADERS)
def test_a_directory_that_is_no_result_is_named(tmp_path: Path, name: str) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(HepcalError) as caught:
            LOADERS[name](directory)
        assert str(directory) in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "binary", "a list"])
@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_named(written: Path, name: str, damage: str) -> None:
    path = written / name
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "empty": b"", "binary": b"\x80\x81" * 50, "a list": b"[1, 2]"}[damage]
    )
    with pytest.raises(HepcalError) as caught:
        LOADERS[name](written)
    assert str(written) in str(caught.value)
    assert name in str(caught.value)


def test_what_is_damaged_is_named_and_not_what_is_read_after_it(written: Path) -> None:
    summary = written / "summary.json"
    summary.write_text(summary.read_text().replace('"read": ', '"read": 1'))
    with pytest.raises(HepcalError, match=r"cannot read summary.json .*does not match its hash"):
        results.load_hists(written)


def test_the_histograms_for_coffea_are_compared_too(written: Path) -> None:
    path = written / "hists.coffea"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(HepcalError, match=r"cannot read hists.coffea .*does not match its hash"):
        results.load_hists(written)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["coffea", "json", "summary"])
def test_a_failure_in_the_middle_leaves_the_old_files(
    written: Path, summary: dict[str, Any], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(written)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    if step == "coffea":
        monkeypatch.setattr("coffea.util.save", fail)
    elif step == "json":
        monkeypatch.setattr("uhi.io.json.default", fail)
    else:
        summary = {**summary, "not json": object()}
    with pytest.raises(TypeError if step == "summary" else OutputError):
        results.write(written, make_hists(scale=1.0), summary)
    assert contents(written) == before


def test_writing_again_replaces_everything(written: Path) -> None:
    before, other = contents(written), make_hists(scale=1.0)
    results.write(written, other, summary_of(other))
    after = contents(written)
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in FILES)
    assert results.load_hists(written)["pt_response"] == other["pt_response"]
