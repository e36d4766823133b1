"""DijetProcessor and ResponseProcessor against direct computations on the same events."""

import awkward as ak
import numpy as np
import pytest
import vector
from coffea.nanoevents import DelphesSchema, NanoEventsFactory
from coffea.processor import IterativeExecutor, Runner
from hepcal.processors import DijetProcessor, ResponseProcessor, Survey, SurveyProcessor
from hepcal.processors.dijet import mass_sigma
from hepcal.processors.selection import LeadingPair, dijet_mass

import hepcal
from hepcal.closure import metrics
from hepcal.closure.report import closure_tables
from hepcal.demo import demo_fileset
from hepcal.errors import FilesetError, HepcalError
from hepcal.evaluation import score
from hepcal.events.columns import FlatJets
from hepcal.events.executors import open_executor
from hepcal.events.features import DEFAULT_FEATURES
from hepcal.events.filesets import Dataset, Fileset
from hepcal.events.running import run
from hepcal.events.schemas import event_weight
from hepcal.tables.spectra import Resonance

FIELDS = DEFAULT_FEATURES["delphes"].jet_fields
DATASET = demo_fileset("test").datasets[0].name


@pytest.fixture(scope="module")
def events():
    path = demo_fileset("test").paths[0]
    return NanoEventsFactory.from_root(
        {path: "Delphes"}, schemaclass=DelphesSchema, mode="virtual", metadata={"dataset": DATASET}
    ).events()


@pytest.fixture(scope="module")
def survey():
    with open_executor("iterative") as executor:
        return Survey.from_output(
            run(demo_fileset("test"), SurveyProcessor(), executor, show=False).output, demo_fileset("test")
        )


def filled(processor, events):
    return processor.postprocess(processor.process(events))["hists"]


def test_dijet_mass_is_the_invariant_mass(events):
    jets = ak.zip(
        {n: events.Jet[n] for n in ("pt", "eta", "phi", "mass")},
        with_name="Momentum4D",
        behavior=vector.backends.awkward.behavior,
    )
    two = jets[ak.num(jets) >= 2]
    expected = ak.to_numpy((two[:, 0] + two[:, 1]).mass)
    found = dijet_mass(events.Jet)
    np.testing.assert_allclose(found[ak.to_numpy(ak.num(jets) >= 2)], expected, rtol=1e-4)
    assert np.isnan(found[ak.to_numpy(ak.num(jets) < 2)]).all()


def test_selection_has_no_cut_on_reco(events):
    pair = LeadingPair.of(events, FIELDS)
    assert ak.all(ak.num(pair.truth) == 2)
    assert ak.all(pair.truth.pt[:, 0] >= pair.truth.pt[:, 1])
    matched = ak.drop_none(ak.flatten(pair.reco))
    assert ak.min(matched.pt) < 250
    assert pair.complete.mean() > 0.99


def test_the_three_lines_work_with_coffeas_own_runner(small_calibrator):
    files = dict.fromkeys(demo_fileset("test").paths, "Delphes")
    runner = Runner(executor=IterativeExecutor(status=False), schema=DelphesSchema, metadata_cache={})
    out = runner({"qcd": {"files": files}}, processor_instance=DijetProcessor(small_calibrator))
    assert out["counts"]["qcd"]["events"] == 5_000
    assert set(metrics.samples(out["hists"])) == {"qcd"}


def test_figures_agree_with_arrays(small_calibrator, events):
    booked = filled(DijetProcessor(small_calibrator), events)
    pair = LeadingPair.of(events, FIELDS)
    jets = small_calibrator(pair.reco)
    keep = ~ak.is_none(pair.reco, axis=1)
    truth = ak.to_numpy(ak.flatten(pair.truth.pt[keep])).astype(float)
    value = ak.to_numpy(ak.flatten(ak.drop_none(jets.pt_calib))).astype(float)
    sigma = ak.to_numpy(ak.flatten(ak.drop_none(jets.pt_calib_sigma_tot)))
    found = metrics.closure(booked, "pt", "calib", total=True)
    # Events, whose jets share a weight, are what counts.
    per_event = ak.to_numpy(ak.sum(keep, axis=1)).astype(float)
    assert found.n_eff[0] == pytest.approx(per_event.sum() ** 2 / np.sum(per_event**2), rel=1e-12)
    assert found.sum_ratio == pytest.approx(value.sum() / truth.sum(), rel=1e-10)
    assert found.bias[0] == pytest.approx(np.mean(value / truth) - 1, rel=1e-8)
    assert found.response_median[0] == pytest.approx(np.median(value / truth), abs=5e-4)
    pull = (truth - value) / sigma
    inside = ak.to_numpy(ak.flatten(ak.drop_none(jets.pt_calib_in_range)))
    assert found.pull_sd[0] == pytest.approx(pull[inside].std(), rel=1e-6)
    assert found.within_sigma_tot[0] == pytest.approx(np.mean(np.abs(pull) < 1), rel=1e-10)
    flat = ak.flatten(ak.drop_none(pair.reco))
    pit = small_calibrator.predict(*small_calibrator.card.features.table(flat)).pit(truth)
    central = (pit > metrics.CENTRAL[0]) & (pit < metrics.CENTRAL[2])
    assert found.coverage_68[0] == pytest.approx(central.mean(), abs=1e-9)
    assert found.coverage_68_unc[0] == pytest.approx(np.sqrt(0.6827 * 0.3173 / len(truth)), rel=0.15)
    low, high = np.quantile(value / truth, [0.158655, 0.841345])
    assert found.resolution[0] == pytest.approx((high - low) / 2 / np.median(value / truth), rel=0.01)


def test_both_processors_agree_on_jets(small_calibrator, events):
    dijet, response = (filled(p(small_calibrator), events) for p in (DijetProcessor, ResponseProcessor))
    for name in response:
        if not name.startswith("mjj"):
            assert dijet[name] == response[name]


def test_coverage_of_a_belt_is_that_of_the_interval(likelihood_calibrator, events):
    """The start commit showed the share within sigma_tot, 75 %, under the name of the coverage."""
    booked = filled(DijetProcessor(likelihood_calibrator), events)
    pair = LeadingPair.of(events, FIELDS)
    flat = ak.flatten(ak.drop_none(pair.reco))
    truth = ak.to_numpy(ak.flatten(pair.truth.pt[~ak.is_none(pair.reco, axis=1)])).astype(float)
    prediction = likelihood_calibrator.predict(*likelihood_calibrator.card.features.table(flat))
    low, high = prediction.interval(0.6827)
    found = metrics.closure(booked, "pt", "calib", total=True)
    assert found.coverage_68[0] == pytest.approx(np.mean((low <= truth) & (truth <= high)), rel=1e-9)
    assert found.coverage_68[0] == pytest.approx(0.6827, abs=0.03)
    assert found.within_sigma_tot[0] > found.coverage_68[0] + 0.03
    # The calibrator extrapolates to jets far below its support; their pulls of up to 70 are not those of its jets.
    assert found.pull_sd[0] < 3
    mass = metrics.closure(booked, "mjj", "calib", total=True)
    assert np.isnan(mass.coverage_68[0])
    assert 0.5 < mass.within_sigma_tot[0] < 1


def test_a_diagnosis_has_the_coverage_of_the_belt(likelihood_calibrator, events):
    pair = LeadingPair.of(events, FIELDS)
    flat = ak.flatten(ak.drop_none(pair.reco))
    truth = ak.to_numpy(ak.flatten(pair.truth.pt[~ak.is_none(pair.reco, axis=1)])).astype(float)
    prediction = likelihood_calibrator.predict(*likelihood_calibrator.card.features.table(flat))
    low, high = prediction.interval(0.6827)
    scores = score(prediction, truth)
    assert scores.coverage_68 == pytest.approx(np.mean((low <= truth) & (truth <= high)))
    assert scores.width_68 == pytest.approx(np.mean(high - low))
    assert np.isnan(scores.crps)


def test_a_method_without_intervals_covers_nothing(demo_files, events):
    pairs = hepcal.JetPairs.from_fileset(demo_files["train"], show=False)
    single = hepcal.train(pairs, hepcal.MSE(hidden=(8,), max_updates=50), seed=1, show=False)
    pair = LeadingPair.of(events, FIELDS)
    with pytest.raises(HepcalError, match="'mse' has no interval"):
        single(pair.reco, truth=pair.truth.pt)
    with pytest.raises(HepcalError, match="one number per jet"):
        FlatJets(pair.reco).flattened(pair.truth.pt[:10])


def test_the_same_bits_with_a_truth_and_without(small_calibrator, events):
    pair = LeadingPair.of(events, FIELDS)
    plain, judged = small_calibrator(pair.reco), small_calibrator(pair.reco, truth=pair.truth.pt)
    for name in small_calibrator.columns:
        assert ak.array_equal(plain[name], judged[name])
    assert str(ak.type(judged.pt_calib_covered)).endswith("var * ?bool")


@pytest.mark.parametrize("names", [("Flavor",), ("partonFlavour", "hadronFlavour")])
def test_closure_by_flavour_is_shown_where_the_file_knows_it(
    names, small_calibrator, nano_calibrator, write_delphes, write_nanoaod, read_events, tmp_path
):
    rng = np.random.default_rng(3)

    def with_flavour(content):
        counts = ak.num(content["Jet"])
        parton = rng.choice([21, 1, -2, 3, 4, -5, 0], int(ak.sum(counts)))
        codes = {names[0]: np.abs(parton) if len(names) == 1 else parton}
        if len(names) == 2:
            codes[names[1]] = np.where(np.abs(parton) == 5, 5, 0)
        for name, values in codes.items():
            content["Jet"] = ak.with_field(content["Jet"], ak.unflatten(values, counts), name)
        if "genWeight" in content:
            content["genWeight"] = np.where(content["genWeight"] < 0, 1.0, 2.0)

    delphes = len(names) == 1
    path = (write_delphes if delphes else write_nanoaod)(tmp_path / "toy.root", 800, edit=with_flavour)
    found, calibrator = read_events(path, "delphes" if delphes else "nanoaod"), nano_calibrator
    if delphes:
        calibrator = small_calibrator
    booked = filled(DijetProcessor(calibrator), found)
    pair = LeadingPair.of(found, (*calibrator.card.features.fields_of(found.Jet), *names))
    keep = ~ak.is_none(pair.reco, axis=1)
    truth = ak.to_numpy(ak.flatten(pair.truth.pt[keep])).astype(float)
    flat = ak.flatten(ak.drop_none(calibrator(pair.reco)))
    value, parton = ak.to_numpy(flat.pt_calib), np.abs(ak.to_numpy(flat[names[0]]))
    weight = ak.to_numpy(ak.flatten(ak.broadcast_arrays(event_weight(found), pair.truth.pt)[0][keep]))
    by_flavour = metrics.by_flavour(booked, "calib")
    assert list(by_flavour) == ["gluon", "light", *(["c"] if delphes else []), "b", "none"]
    place = list(by_flavour["light"].edges).index(120)
    for flavour, codes in {"gluon": [21], "light": [1, 2, 3], "none": [0] if delphes else [0, 4]}.items():
        chosen = np.isin(parton, codes) & (truth >= 120) & (truth < 180)
        w, response = weight[chosen], value[chosen] / truth[chosen]
        bias, n_eff = by_flavour[flavour].bias[place], by_flavour[flavour].n_eff[place]
        if n_eff >= 30:
            assert bias == pytest.approx(np.average(response, weights=w) - 1, rel=1e-5)
        assert by_flavour[flavour].share.sum() == pytest.approx(1, abs=0.02)
    assert by_flavour["light"].n_eff[place] > 30
    assert metrics.samples(booked)["qcd"]["pt"]["calib"]["flavour_known"] == pytest.approx(1)
    listed = metrics.samples(booked)["qcd"]["pt"]["calib"]["flavour"]["light"]
    assert listed["bias"][place] == by_flavour["light"].bias[place]
    tables = {str(table.title): table for table in closure_tables({"samples": metrics.samples(booked)})}
    shown = tables["jet p_T, QCD weights, by flavour, after calibration"]
    filled_bins = {name: (each.n_eff >= metrics.MIN_N_EFF).sum() for name, each in by_flavour.items()}
    assert list(shown.columns[1].cells).count("light") == filled_bins["light"] >= 1
    assert shown.row_count == sum(filled_bins.values())


def test_without_a_flavour_there_is_no_closure_by_flavour(small_calibrator, events):
    booked = filled(DijetProcessor(small_calibrator), events)
    assert not any("flavour" in name for name in booked)
    assert "flavour" not in metrics.samples(booked)["qcd"]["pt"]["calib"]


def test_linear_mass_uncertainty_agrees_with_a_numerical_derivative(events):
    jets = events.Jet[ak.num(events.Jet) >= 2][:, :2]
    base = ak.zip({n: ak.values_astype(jets[n], np.float64) for n in ("pt", "eta", "phi", "mass")})
    mass, step, relative = dijet_mass(base), 1e-4, ak.Array([[0.1, 0.07]] * len(jets))
    squares = 0
    for index, size in ((0, 0.1), (1, 0.07)):
        factor = ak.Array([[1 + step * (index == i) for i in (0, 1)]] * len(jets))
        moved = ak.zip({"pt": base.pt * factor, "eta": base.eta, "phi": base.phi, "mass": base.mass * factor})
        squares = squares + ((dijet_mass(moved) - mass) / step * size) ** 2
    np.testing.assert_allclose(mass_sigma(base, mass, relative), np.sqrt(squares), rtol=1e-3)


def test_bsm_weights_make_a_gaussian_in_the_true_mass(small_calibrator, events, survey):
    assert sum(survey.norm.values()) * 5_000 == pytest.approx(1)
    booked = filled(DijetProcessor(small_calibrator, survey, Resonance(mass=2500, width=100)), events)
    spectrum = booked["mjj"][{"weighting": "bsm", "level": "truth"}].project("mjj")
    weight, center = spectrum.values(), spectrum.axes[0].centers
    mean = np.average(center, weights=weight)
    assert mean == pytest.approx(2500, abs=20)
    assert np.sqrt(np.average((center - mean) ** 2, weights=weight)) == pytest.approx(100, rel=0.15)


def survey_output(**sums):
    import hist

    from hepcal.tables.spectra import MassDensity

    return {
        "events": dict.fromkeys(sums, 10),
        "sum_of_weights": sums,
        "simulation": dict.fromkeys(sums, True),
        "masses": {name: hist.Hist(MassDensity.axis(), storage=hist.storage.Weight()) for name in sums},
    }


def datasets(**cross_sections):
    return Fileset(
        tuple(
            Dataset(n, {f"{n}.root": None}, {} if x is None else {"cross_section": x})
            for n, x in cross_sections.items()
        )
    )


def test_a_data_set_that_was_not_surveyed_is_named(survey):
    with pytest.raises(FilesetError, match="'other' was not surveyed"):
        survey.factor("other")


def test_weights_are_pooled_or_scaled_to_cross_sections():
    pooled = Survey.from_output(survey_output(a=30.0, b=10.0), datasets(a="file weights", b="file weights"))
    assert pooled.norm == {"a": pytest.approx(1 / 40), "b": pytest.approx(1 / 40)}
    scaled = Survey.from_output(survey_output(a=30.0, b=10.0), datasets(a=6.0, b=5.0))
    assert scaled.norm == {"a": pytest.approx(0.2), "b": pytest.approx(0.5)}


def test_mixed_cross_sections_and_vanishing_weights_are_refused():
    with pytest.raises(FilesetError, match=r"without a cross_section.*: 'b'"):
        Survey.from_output(survey_output(a=30.0, b=10.0), datasets(a=6.0, b=None))
    with pytest.raises(FilesetError, match="data set b do not sum"):
        Survey.from_output(survey_output(a=30.0, b=-1.0), datasets(a=6.0, b=5.0))


def test_only_declared_branches_are_read(small_calibrator):
    log = []
    path = demo_fileset("test").paths[0]
    events = NanoEventsFactory.from_root(
        {path: "Delphes"}, schemaclass=DelphesSchema, mode="virtual", access_log=log, metadata={"dataset": "x"}
    ).events()
    DijetProcessor(small_calibrator).process(events)
    upper = {"pt": "PT", "eta": "Eta", "phi": "Phi", "mass": "Mass"}
    momentum = set(upper.values())
    jets = {upper.get(name, name) for name in small_calibrator.uses} | momentum
    expected = {f"Jet/Jet.{name}" for name in jets} | {f"GenJet/GenJet.{name}" for name in momentum}
    assert {entry.branch for entry in log} == expected | {"Jet_size", "GenJet_size", "Event/Event.Weight", "Event_size"}
