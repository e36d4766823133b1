"""Jet energy corrections and calibrations in any order: raw p_T is an invariant of a jet.

The corrections are real ones of coffea's jetmet_tools over correctionlib. What they and the calibrator give together is
compared to the same arithmetic by hand, in numpy, from the branches of the file.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import correctionlib.schemav2 as schema
import numpy as np
import pytest
import uproot
from coffea.jetmet_tools import (
    CorrectedJetsFactory,
    CorrectedMETFactory,
    CorrectionLibJEC,
    CorrectionLibJECStack,
    CorrectionLibJER,
    CorrectionLibJERSF,
    CorrectionLibJUNC,
    FactorizedJetCorrector,
    JECStack,
)
from coffea.lookup_tools import extractor
from coffea.nanoevents import NanoEventsFactory
from sample_files import nanoaod_file, toy_pairs

from hepcal import BNN, Feature, Features, JetPairs, train
from hepcal.errors import HepcalError, SchemaError
from hepcal.events.features import DEFAULT_FEATURES
from hepcal.events.schemas import SCHEMAS, detector_pt
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Card

SCALE = "1.25-0.05*log10(x)+0.01*abs(y)"
NAMES = {"JetPt": "pt", "JetMass": "mass", "JetEta": "eta", "JetPhi": "phi", "ptRaw": "pt_raw", "massRaw": "mass_raw"}
NAMES |= {"METpt": "pt", "METphi": "phi", "UnClusteredEnergyDeltaX": "dx", "UnClusteredEnergyDeltaY": "dy"}
TYPE1 = {"RawMETpt": "pt", "RawMETphi": "phi", "JetMuonSubtrFactor": "muonSubtrFactor", "JetRawFactor": "rawFactor"}
TYPE1 |= {"JetMuonSubtrDeltaPhi": "muonSubtrDeltaPhi", "JetChEmEF": "chEmEF", "JetNeEmEF": "neEmEF"}


# -- corrections ------------------------------------------------------------------------------------------------------


def formula(expression: str, inputs: tuple[str, ...] = ("JetPt", "JetEta")) -> Any:
    """A correction of correctionlib with this formula in x, y, z."""
    variables = [schema.Variable(name=name, type="real") for name in inputs]
    content = schema.Formula(nodetype="formula", expression=expression, parser="TFormula", variables=list(inputs))
    return schema.Correction(
        name="made", version=1, inputs=variables, output=schema.Variable(name="out", type="real"), data=content
    ).to_evaluator()


def scale(pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """The jet energy correction by hand."""
    return 1.25 - 0.05 * np.log10(pt) + 0.01 * np.abs(eta)


def smearing() -> dict[str, Any]:
    """A resolution and its scale factors."""
    systematic = schema.Category(
        nodetype="category",
        input="systematic",
        content=[{"key": key, "value": value} for key, value in (("nom", 1.1), ("up", 1.2), ("down", 1.0))],
    )
    inputs = [schema.Variable(name="JetEta", type="real"), schema.Variable(name="systematic", type="string")]
    factors = schema.Correction(
        name="sf", version=1, inputs=inputs, output=schema.Variable(name="out", type="real"), data=systematic
    )
    return {"jer": CorrectionLibJER(formula("0.1+0*x*y")), "jersf": CorrectionLibJERSF(factors.to_evaluator())}


def with_raw(jets: ak.Array, **names: str) -> ak.Array:
    """Jets with their raw momenta, as coffea's documentation adds them before a correction."""
    for name in ("pt", "mass"):
        jets = ak.with_field(jets, (1 - jets.rawFactor) * jets[name], names.get(name, f"{name}_raw"))
    return jets


def corrected(jets: ak.Array, names: dict[str, str | None] | None = None, **parts: Any) -> ak.Array:
    """Jets through coffea's CorrectedJetsFactory, with one uncertainty ``JES_Total``."""
    unc = CorrectionLibJUNC([("Total", formula("0.05+0*x+0.001*abs(y)"))])
    stack = CorrectionLibJECStack(jec=CorrectionLibJEC(formula(SCALE)), junc=unc, **parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(name mapping|ptGenJet)")
        return CorrectedJetsFactory({**NAMES, **(names or {})}, stack).build(jets)


def met_factory() -> CorrectedMETFactory:
    """Type-1 MET with all corrections against the first level."""
    full, first = CorrectionLibJEC(formula(SCALE)), CorrectionLibJEC(formula("1.02+0*x*y"))
    return CorrectedMETFactory({**NAMES, **TYPE1}, jec_L1L2L3=full, jec_L1=first)


# -- files and calibrators --------------------------------------------------------------------------------------------


def add_met(content: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    for name in ("MET", "RawMET"):
        content |= {f"{name}_pt": rng.uniform(20, 90, 60), f"{name}_phi": rng.uniform(-3, 3, 60)}
    content |= {"MET_dx": rng.normal(0, 1, 60), "MET_dy": rng.normal(0, 1, 60)}
    for name, values in (("muonSubtrFactor", 0.02), ("muonSubtrDeltaPhi", 0.01)):
        content["Jet"] = ak.with_field(content["Jet"], ak.full_like(content["Jet"].pt, values), name)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A file: its events as coffea reads them, and its branches by hand."""

    events: ak.Array
    branches: dict[str, ak.Array]

    def hand(self, name: str) -> np.ndarray:
        return ak.to_numpy(ak.flatten(self.branches[f"Jet_{name}"]))

    @property
    def raw(self) -> np.ndarray:
        return self.hand("pt") * (1 - self.hand("rawFactor"))

    def predicted(self, calibrator: Calibrator) -> np.ndarray:
        """pt_calib by hand: features and raw p_T of the file into ``predict``."""
        columns = []
        for feature in calibrator.card.features.inputs:
            values = self.hand(feature.name)
            columns.append(values * (1 - self.hand("rawFactor")) if getattr(feature, "of", "") == "raw" else values)
        return calibrator.predict(np.stack(columns, axis=1), self.raw).mean


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, write_nanoaod: Any, read_events: Any) -> Sample:
    path = write_nanoaod(tmp_path_factory.mktemp("corrections") / "nano.root", edit=add_met)
    with uproot.open(path) as file:
        branches = {name: file["Events"][name].array() for name in file["Events"].keys(filter_name="*Jet_*")}
        branches |= {name: file["Events"][name].array() for name in file["Events"].keys(filter_name="*MET_*")}
    return Sample(read_events(path, "nanoaod"), branches)


def flat(values: ak.Array) -> np.ndarray:
    return ak.to_numpy(ak.flatten(values))


def same(found: ak.Array | np.ndarray, wanted: np.ndarray) -> None:
    """Equal to float32: the steps of the arithmetic are rounded, and no more."""
    found = flat(found) if isinstance(found, ak.Array) and found.ndim > 1 else np.asarray(found)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


def stays_raw(jets: ak.Array, sample: Sample) -> None:
    """``pt (1 - rawFactor)`` and ``mass (1 - rawFactor)`` are those of the file, whatever pt is."""
    assert flat(jets.rawFactor).dtype == np.float32
    same(jets.pt * (1 - jets.rawFactor), sample.raw)
    same(jets.mass * (1 - jets.rawFactor), sample.hand("mass") * (1 - sample.hand("rawFactor")))
    for name in ("pt", "mass"):
        np.testing.assert_array_equal(flat(jets[f"{name}_raw"]), sample.hand(name) * (1 - sample.hand("rawFactor")))
        np.testing.assert_array_equal(flat(jets[f"{name}_orig"]), sample.hand(name))
    np.testing.assert_array_equal(flat(jets.rawFactor_orig), sample.hand("rawFactor"))


# -- JEC before -------------------------------------------------------------------------------------------------------

VARIATIONS: dict[str, Callable[[ak.Array], ak.Array]] = {
    "nominal": lambda jets: jets,
    "JES up": lambda jets: jets.JES_Total.up,
    "JES down": lambda jets: jets.JES_Total.down,
    "selected": lambda jets: jets[jets.pt > 100],
}


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize(
    "names",
    [{}, {"ptRaw": "uncorrected", "massRaw": "uncorrected_mass"}, {"ptRaw": None, "massRaw": None}],
    ids=["pt_raw", "another name", "no raw p_T"],
)
def test_a_correction_before_does_not_change_what_is_calibrated(
    sample: Sample, nano_calibrator: Calibrator, variation: str, names: dict[str, str | None]
) -> None:
    """Also where the correction was told nothing of raw p_T and corrected the corrected: ``pt_orig`` knows it."""
    given = {"pt": names.get("ptRaw"), "mass": names.get("massRaw")}
    jets = sample.events.Jet
    if names.get("ptRaw", "") is not None:
        jets = with_raw(jets, **{name: field for name, field in given.items() if field})
    jets = VARIATIONS[variation](corrected(jets, names))
    wanted = ak.unflatten(sample.predicted(nano_calibrator), ak.num(sample.events.Jet))
    if variation == "selected":
        wanted = wanted[corrected(with_raw(sample.events.Jet), {} if names.get("ptRaw", "") else names).pt > 100]
    # Bit by bit: the same raw p_T goes in.
    np.testing.assert_array_equal(flat(nano_calibrator(jets).pt_calib), flat(wanted))
    assert np.abs(flat(jets.pt / detector_pt(jets, "raw")) - 1).mean() > 0.05


def test_smeared_jets_and_their_variations_start_from_raw(sample: Sample, nano_calibrator: Calibrator) -> None:
    jets = with_raw(sample.events.Jet)
    jets = ak.with_field(jets, ak.values_astype(jets.matched_gen.pt, np.float32), "pt_gen")
    smeared = corrected(jets, {"ptGenJet": "pt_gen"}, **smearing())
    wanted = sample.predicted(nano_calibrator)
    for collection in (smeared, smeared.JER.up, smeared.JER.down, smeared.JES_Total.up):
        np.testing.assert_array_equal(flat(nano_calibrator(collection).pt_calib), wanted)
        stays_raw(nano_calibrator(collection, replace=True), sample)


@pytest.mark.parametrize("variation", ["nominal", "JES up"])
def test_replacing_a_corrected_momentum_keeps_raw_and_the_file(
    sample: Sample, nano_calibrator: Calibrator, variation: str
) -> None:
    before = VARIATIONS[variation](corrected(with_raw(sample.events.Jet)))
    after = nano_calibrator(before, replace=True)
    same(after.pt, sample.predicted(nano_calibrator))
    same(after.mass / after.pt, sample.hand("mass") / sample.hand("pt"))
    stays_raw(after, sample)
    stays_raw(after.calib_pred.up, sample)
    assert after.pt_jec.to_list() == before.pt_jec.to_list() if variation == "nominal" else True


# -- JEC after --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("shift", [None, "up", "down"])
@pytest.mark.parametrize("own_raw", [False, True], ids=["kept raw", "raw by rawFactor"])
def test_a_correction_after_is_that_of_the_raw_jet(
    sample: Sample, nano_calibrator: Calibrator, replace: bool, shift: str | None, own_raw: bool
) -> None:
    calibrated = nano_calibrator(sample.events.Jet, replace=replace)
    jets = calibrated if shift is None else calibrated.calib_pred[shift]
    # As coffea's documentation says; what a calibration keeps would do, and is there where it changed pt.
    jets = with_raw(jets) if own_raw or "pt_raw" not in jets.fields else jets
    found = corrected(jets)
    by_hand = scale(sample.raw, sample.hand("eta"))
    same(found.pt, by_hand * sample.raw)
    same(found.mass, by_hand * sample.hand("mass") * (1 - sample.hand("rawFactor")))
    same(found.JES_Total.up.pt, by_hand * sample.raw * (1.05 + 0.001 * np.abs(sample.hand("eta"))))
    same(found.pt_calib, sample.predicted(nano_calibrator))
    # And calibrated once more, the same jets are the same jets.
    again = nano_calibrator(found, prefix="again_").again_pt_calib
    same(again, sample.predicted(nano_calibrator))


@pytest.fixture(scope="module")
def by_text_files(tmp_path_factory: pytest.TempPathFactory) -> CorrectedJetsFactory:
    """A FactorizedJetCorrector of two levels, from text files as JEC are handed out."""
    folder = tmp_path_factory.mktemp("levels")
    for level, expression in (("L1FastJet", "1.02+0*x"), ("L2Relative", "1.25-0.05*log10(x)")):
        header = f"{{1 JetEta 1 JetPt {expression} Correction {level}}}"
        (folder / f"Test_V1_MC_{level}_AK4PF.jec.txt").write_text(f"{header}\n-5.2 0 2 1 6500\n0 5.2 2 1 6500\n")
    found = extractor()
    found.add_weight_sets([f"* * {path}" for path in folder.iterdir()])
    found.finalize()
    evaluator = found.make_evaluator()
    corrector = FactorizedJetCorrector(**{name: evaluator[name] for name in evaluator.keys()})  # noqa: SIM118
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ptGenJet")
        return CorrectedJetsFactory(NAMES, JECStack({}, jec=corrector))


@pytest.mark.parametrize("replace", [False, True])
def test_levels_of_text_files_before_and_after(
    sample: Sample, nano_calibrator: Calibrator, by_text_files: CorrectedJetsFactory, replace: bool
) -> None:
    jets, wanted = sample.events.Jet, sample.predicted(nano_calibrator)
    by_hand = sample.raw * 1.02 * (1.25 - 0.05 * np.log10(sample.raw * 1.02))
    after = nano_calibrator(jets, replace=replace)
    after = by_text_files.build(with_raw(after))
    same(after.pt, by_hand)
    before = by_text_files.build(with_raw(jets))
    same(before.pt, by_hand)
    same(nano_calibrator(before, replace=replace).pt_calib, wanted)
    same(nano_calibrator(after, prefix="x_", replace=replace).x_pt_calib, wanted)


# -- MET --------------------------------------------------------------------------------------------------------------


def type1_by_hand(sample: Sample) -> np.ndarray:
    """Type-1 MET, x and y: raw MET minus what the corrections beyond the first level add to the jets."""
    b, counts = sample.branches, ak.num(sample.events.Jet)
    raw = sample.raw.astype(np.float64) * (1 - 0.02)
    full = raw * scale(sample.raw, sample.hand("eta"))
    use = (full > 15) & (sample.hand("chEmEF") + sample.hand("neEmEF") < 0.9)
    difference, phi = np.where(use, full - raw * 1.02, 0), sample.hand("phi") + 0.01
    moved = [ak.to_numpy(ak.sum(ak.unflatten(difference * f(phi), counts), axis=1)) for f in (np.cos, np.sin)]
    met = [ak.to_numpy(b["RawMET_pt"]) * f(ak.to_numpy(b["RawMET_phi"])) for f in (np.cos, np.sin)]
    return np.stack(met) - np.stack(moved)


MET_CHAINS: dict[str, Callable[[Calibrator, ak.Array], ak.Array]] = {
    "calibrated": lambda c, jets: c(jets),
    "replaced": lambda c, jets: c(jets, replace=True),
    "shifted": lambda c, jets: c(jets).calib_pred.up,
    "corrected, calibrated": lambda c, jets: c(corrected(with_raw(jets))),
    "corrected, replaced": lambda c, jets: c(corrected(with_raw(jets)), replace=True),
    "calibrated, corrected": lambda c, jets: corrected(with_raw(c(jets))),
    "replaced, corrected": lambda c, jets: corrected(c(jets, replace=True)),
    "replaced, raw by rawFactor, corrected": lambda c, jets: corrected(with_raw(c(jets, replace=True))),
}


@pytest.mark.parametrize("chain", MET_CHAINS)
def test_type_1_met_is_that_of_the_raw_jets(sample: Sample, nano_calibrator: Calibrator, chain: str) -> None:
    events = sample.events
    met = met_factory().build(events.MET, MET_CHAINS[chain](nano_calibrator, events.Jet), in_RawMET=events.RawMET)
    x, y = type1_by_hand(sample)
    np.testing.assert_allclose(ak.to_numpy(met.pt), np.hypot(x, y), rtol=1e-5)
    np.testing.assert_allclose(ak.to_numpy(met.pt * np.cos(met.phi)), x, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("before", [False, True], ids=["no correction before", "corrected before"])
def test_met_follows_replaced_jets_from_those_of_the_file(
    sample: Sample, nano_calibrator: Calibrator, before: bool
) -> None:
    """The MET of the file belongs to the jets of the file: what it moves by is pt - pt_orig."""
    events = sample.events
    jets = corrected(with_raw(events.Jet)) if before else events.Jet
    jets = ak.without_field(jets, "JES_Total") if before else jets
    found = CorrectedMETFactory(NAMES).build(events.MET, nano_calibrator(jets, replace=True))
    moved = sample.predicted(nano_calibrator).astype(np.float64) - sample.hand("pt")
    x, y = (
        ak.to_numpy(sample.branches["MET_pt"]) * f(ak.to_numpy(sample.branches["MET_phi"]))
        - ak.to_numpy(ak.sum(ak.unflatten(moved * f(sample.hand("phi")), ak.num(events.Jet)), axis=1))
        for f in (np.cos, np.sin)
    )
    np.testing.assert_allclose(ak.to_numpy(found.pt), np.hypot(x, y), rtol=1e-4)


# -- shifts, replaced jets, and a second calibrator -------------------------------------------------------------------


@pytest.mark.parametrize("replace", [False, True])
def test_every_changed_collection_stays_raw(sample: Sample, nano_calibrator: Calibrator, replace: bool) -> None:
    jets = nano_calibrator(sample.events.Jet, replace=replace)
    for side in ("up", "down"):
        stays_raw(jets.calib_pred[side], sample)
    if replace:
        stays_raw(jets, sample)
    else:
        assert not {"pt_raw", "pt_orig", "rawFactor_orig"} & {*jets.fields}
        np.testing.assert_array_equal(flat(jets.rawFactor), sample.hand("rawFactor"))


def test_a_second_calibrator_stands_beside_the_first(sample: Sample, nano_calibrator: Calibrator) -> None:
    jets = sample.events.Jet
    first = nano_calibrator(jets, replace=True, replicas=True)
    for collection in (first, first.calib_pred.up, first.calib_pred.down, nano_calibrator(jets)):
        second = nano_calibrator(collection, prefix="bnn_", replicas=True)
        wanted = {f"bnn_{name}" for name in (*nano_calibrator.columns, "calib_pred", "pt_calib_replicas")}
        assert {*second.fields} - {*collection.fields} == wanted
        for name in nano_calibrator.columns:
            np.testing.assert_array_equal(flat(second[f"bnn_{name}"]), flat(first[name]))
            assert second[name].to_list() == collection[name].to_list()
        same(second.bnn_calib_pred.up.pt, flat(first.calib_pred.up.pt))
        same(second.bnn_calib_pred.up.mass / second.bnn_calib_pred.up.pt, sample.hand("mass") / sample.hand("pt"))
        stays_raw(second.bnn_calib_pred.up, sample)


def test_raw_is_known_though_the_kept_raw_was_dropped(sample: Sample, nano_calibrator: Calibrator) -> None:
    """As a selection of fields may: the factor was updated, so it belongs to the p_T of now."""
    replaced = nano_calibrator(sample.events.Jet, replace=True)
    for jets in (replaced, replaced.calib_pred.up):
        less = ak.without_field(ak.without_field(jets, "pt_raw"), "mass_raw")
        same(detector_pt(less, "raw"), sample.raw)
        same(nano_calibrator(less, prefix="second_").second_pt_calib, sample.predicted(nano_calibrator))


SHAPES: dict[str, Callable[[ak.Array], ak.Array]] = {
    "padded": lambda jets: ak.pad_none(jets, 4, clip=True),
    "first": ak.firsts,
    "masked": lambda jets: ak.mask(jets, jets.eta > 0),
    "masked events": lambda jets: ak.mask(jets, ak.num(jets) > 1),
    "no jets": lambda jets: jets[jets.eta > 99],
    "no events": lambda jets: jets[:0],
    "packed": ak.to_packed,
    "twice": lambda jets: ak.concatenate([jets, jets]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_corrected_jets_of_any_shape(sample: Sample, nano_calibrator: Calibrator, shape: str) -> None:
    select, jets = SHAPES[shape], sample.events.Jet
    wanted = select(nano_calibrator(jets)).pt_calib
    raw = ak.flatten(select(jets).pt * (1 - select(jets).rawFactor), axis=None)
    replaced = nano_calibrator(jets, replace=True)
    for given in (corrected(with_raw(jets)), replaced, replaced.calib_pred.down, corrected(replaced)):
        found = nano_calibrator(select(given), replace=True, prefix="x_")
        np.testing.assert_allclose(
            ak.drop_none(ak.flatten(found.x_pt_calib, axis=None)),
            ak.drop_none(ak.flatten(wanted, axis=None)),
            rtol=1e-6,
        )
        assert ak.is_none(found.pt, axis=-1).to_list() == ak.is_none(wanted, axis=-1).to_list()
        stays = ak.flatten(found.pt * (1 - found.rawFactor), axis=None)
        np.testing.assert_allclose(ak.drop_none(stays), ak.drop_none(raw), rtol=2e-6)


def test_jets_put_together_from_arrays(sample: Sample, nano_calibrator: Calibrator) -> None:
    """Nothing tells a column of a file there; what corrections and calibrators keep does."""
    names = nano_calibrator.card.features.jet_fields
    jets = ak.unflatten(ak.zip({name: sample.hand(name) for name in (*names, "phi")}), ak.num(sample.events.Jet))
    wanted = sample.predicted(nano_calibrator)
    replaced = nano_calibrator(jets, replace=True)
    less = [name for name in replaced.fields if name not in ("pt_raw", "mass_raw", "calib_pred")]
    for given in (jets, replaced, replaced.calib_pred.up, replaced[less], corrected(with_raw(jets)).JES_Total.up):
        same(nano_calibrator(given, prefix="x_").x_pt_calib, wanted)
        same(detector_pt(given, "raw"), sample.raw)
    # Without what it kept, a correction leaves nothing to start from.
    bare = corrected(with_raw(jets))
    for name in ("pt_raw", "pt_orig"):
        bare = ak.without_field(bare, name)
    with pytest.raises(SchemaError, match="'pt' of these jets was changed"):
        nano_calibrator(bare)


@pytest.mark.parametrize("kept", [(), ("pt_raw", "mass_raw")], ids=["factors", "raw momenta"])
def test_a_skim_of_replaced_jets(
    kept: tuple[str, ...], tmp_path: Path, write_nanoaod: Any, read_events: Any, nano_calibrator: Calibrator
) -> None:
    """Written to a file and read again, all columns look alike."""
    plain = read_events(write_nanoaod(tmp_path / "plain.root", seed=4), "nanoaod").Jet
    replaced = nano_calibrator(plain, replace=True)

    def skim(content: dict[str, Any]) -> None:
        for name in ("pt", "mass", "rawFactor", "pt_orig", "mass_orig", "rawFactor_orig", *kept):
            content["Jet"] = ak.with_field(content["Jet"], ak.without_parameters(ak.materialize(replaced[name])), name)

    jets = read_events(write_nanoaod(tmp_path / "skim.root", seed=4, edit=skim), "nanoaod").Jet
    same(detector_pt(jets, "raw"), flat(detector_pt(plain, "raw")))
    same(nano_calibrator(jets).pt_calib, flat(nano_calibrator(plain).pt_calib))
    # Calibrated again, the originals stay those of the first file.
    same(nano_calibrator(jets, replace=True).pt_orig, flat(plain.pt))


# -- what cannot be known ---------------------------------------------------------------------------------------------


BY_HAND: dict[str, Callable[[ak.Array], ak.Array]] = {
    "a factor": lambda jets: ak.with_field(jets, jets.pt * 1.05, "pt"),
    "a column": lambda jets: ak.with_field(jets, jets.pt * scale(jets.pt, jets.eta), "pt"),
    "made raw": lambda jets: ak.with_field(jets, jets.pt * (1 - jets.rawFactor), "pt"),
    "selected": lambda jets: ak.with_field(jets, jets.pt * 1.05, "pt")[jets.pt > 50],
    "without a trace": lambda jets: ak.without_field(ak.without_field(corrected(with_raw(jets)), "pt_orig"), "pt_raw"),
    "raw before a correction": lambda jets: (
        corrected(
            ak.with_field(jets, jets.pt * (1 - jets.rawFactor), "pt"), {"ptRaw": None, "massRaw": None}
        ).JES_Total.up
    ),
}


@pytest.mark.parametrize("change", BY_HAND)
def test_a_momentum_changed_by_hand_is_refused(sample: Sample, nano_calibrator: Calibrator, change: str) -> None:
    jets = BY_HAND[change](sample.events.Jet)
    with pytest.raises(SchemaError, match=r"was changed and their 'rawFactor' was not.*jets\['pt_raw'\] = "):
        nano_calibrator(jets)


def test_what_the_refusal_advises_gives_the_right_number(sample: Sample, nano_calibrator: Calibrator) -> None:
    jets = with_raw(sample.events.Jet)
    for name in ("pt", "mass"):
        jets = ak.with_field(jets, jets[name] * 1.05, name)
    np.testing.assert_array_equal(flat(nano_calibrator(jets).pt_calib), sample.predicted(nano_calibrator))
    stays_raw_but_file = nano_calibrator(jets, replace=True)
    same(stays_raw_but_file.pt * (1 - stays_raw_but_file.rawFactor), sample.raw)


def test_a_factor_updated_by_hand_is_believed(sample: Sample, nano_calibrator: Calibrator) -> None:
    jets, raw = sample.events.Jet, detector_pt(sample.events.Jet, "raw")
    pt = jets.pt * scale(jets.pt, jets.eta)
    jets = with_raw(ak.with_field(ak.with_field(jets, pt, "pt"), 1 - raw / pt, "rawFactor"))
    same(detector_pt(ak.without_field(jets, "pt_raw"), "raw"), sample.raw)


@pytest.fixture(scope="module")
def of_the_file(train_on_toys: Callable[[Features], Calibrator]) -> Calibrator:
    """A calibrator as before: the mass of the file beside raw p_T."""
    return train_on_toys(Features(inputs=("eta", "mass", "area"), pt="raw"))


def test_the_mass_of_the_file_is_the_one_that_the_file_has(sample: Sample, of_the_file: Calibrator) -> None:
    jets, wanted = sample.events.Jet, sample.predicted(of_the_file)
    replaced = of_the_file(jets, replace=True)
    for collection in (corrected(with_raw(jets)), corrected(with_raw(jets)).JES_Total.up, replaced):
        np.testing.assert_array_equal(flat(of_the_file(collection, prefix="x_").x_pt_calib), wanted)
    with pytest.raises(SchemaError, match="'mass_orig' of these jets is not the mass of the file"):
        of_the_file(corrected(replaced), prefix="x_")
    with pytest.raises(SchemaError, match=r"'mass' of these jets was changed.*jets\['mass_orig'\]"):
        of_the_file(ak.with_field(jets, jets.mass * 1.05, "mass"))


def test_a_factor_among_the_inputs_is_that_of_the_file(
    sample: Sample, train_on_toys: Callable[[Features], Calibrator], nano_calibrator: Calibrator
) -> None:
    spec = Features(inputs=("eta", "rawFactor"), pt="raw")
    jets = sample.events.Jet
    replaced = nano_calibrator(jets, replace=True)
    for collection in (jets, replaced, replaced.calib_pred.up, corrected(replaced)):
        np.testing.assert_array_equal(spec.table(ak.flatten(collection))[0][:, 1], sample.hand("rawFactor"))
    with pytest.raises(SchemaError, match="'rawFactor' of these jets is not the rawFactor of the file"):
        spec.require(ak.without_field(replaced, "rawFactor_orig"))


# -- calibrators that start from the p_T of the file ------------------------------------------------------------------


def test_shifted_delphes_jets_are_calibrated_from_the_p_t_of_the_file(
    small_calibrator: Calibrator, tmp_path: Path, write_delphes: Any, read_events: Any
) -> None:
    jets = read_events(write_delphes(tmp_path / "delphes.root"), "delphes").Jet
    first = small_calibrator(jets, replace=True)
    for collection in (first, first.calib_pred.up, first.calib_pred.down):
        assert not {"rawFactor", "pt_raw", "mass_raw"} & {*collection.fields}
        np.testing.assert_array_equal(flat(collection.pt_orig), flat(jets.pt))
        np.testing.assert_array_equal(flat(collection.mass_orig), flat(jets.mass))
        again = small_calibrator(collection, prefix="second_")
        np.testing.assert_array_equal(flat(again.second_pt_calib), flat(first.pt_calib))


def test_of_nanoaod_the_p_t_of_the_file_is_meant(sample: Sample, nano_calibrator: Calibrator) -> None:
    """``Features(pt="pt")`` trained on files starts from the p_T that files hold."""
    spec = nano_calibrator.card.features.model_copy(update={"pt": "pt"})
    source = nano_calibrator.card.source.model_copy(update={"schema_name": "nanoaod"})
    card = nano_calibrator.card.model_copy(update={"features": spec, "source": source})
    calibrator = type(nano_calibrator)(card, nano_calibrator.tensors)
    jets = sample.events.Jet
    wanted = flat(calibrator(jets).pt_calib)
    for collection in (corrected(with_raw(jets)), calibrator(jets).calib_pred.up, nano_calibrator(jets, replace=True)):
        np.testing.assert_array_equal(flat(calibrator(collection, prefix="x_").x_pt_calib), wanted)
    stays_raw(calibrator(jets, replace=True), sample)
    with pytest.raises(SchemaError, match="'pt_orig' of these jets is not the pt of the file"):
        calibrator(corrected(calibrator(jets, replace=True)), prefix="x_")
    # Of arrays nobody knows which p_T they held.
    source = source.model_copy(update={"schema_name": "arrays"})
    of_arrays = type(calibrator)(card.model_copy(update={"source": source}), calibrator.tensors)
    jets = corrected(with_raw(jets))
    with pytest.raises(SchemaError, match=r"trained on arrays.*ak.without_field\(jets, 'pt_orig'\)"):
        of_arrays(jets)
    assert of_arrays.reco(ak.without_field(jets, "pt_orig")).to_list() == jets.pt.to_list()


# -- raw mass among the inputs ----------------------------------------------------------------------------------------


def test_the_default_mass_is_that_of_the_raw_jet(sample: Sample) -> None:
    spec = DEFAULT_FEATURES["nanoaod"]
    assert spec.inputs[1] == Feature(name="mass", transform="log1p", of="raw")
    assert spec.jet_fields[:2] == ("pt", "rawFactor")
    wanted = sample.hand("mass") * (1 - sample.hand("rawFactor"))
    for jets in (sample.events.Jet, corrected(with_raw(sample.events.Jet)).JES_Total.down):
        np.testing.assert_array_equal(spec.table(ak.flatten(jets))[0][:, 1], wanted)
    assert "raw mass" in spec.listed
    with pytest.raises(SchemaError, match=r"uncorrected mass.*no field 'rawFactor'"):
        Features(inputs=(Feature(name="mass", of="raw"),), pt="pt").require(
            ak.zip({"pt": [1.0], "mass": [1.0], "eta": [0.0]})
        )


@pytest.mark.parametrize("name", ["eta", "area", "event_rho", "pt"])
def test_only_the_mass_can_be_raw(name: str) -> None:
    with pytest.raises(ValueError, match="is for 'mass'"):
        Feature(name=name, of="raw")


def test_cards_and_tables_from_before_keep_meaning_and_hash(of_the_file: Calibrator, tmp_path: Path) -> None:
    """What does not use it is written without it, as before."""
    written = of_the_file.card.features.model_dump_json()
    assert written == (
        '{"inputs":[{"name":"eta","transform":"identity"},{"name":"mass","transform":"identity"},'
        '{"name":"area","transform":"identity"}],"constituents":null,"pt":"raw"}'
    )
    assert Features.model_validate_json(written) == of_the_file.card.features
    assert Card.model_validate_json(of_the_file.card.model_dump_json()).features.inputs[1].of is None
    of_the_file.save(tmp_path / "old.safetensors")
    assert Calibrator.load(tmp_path / "old.safetensors").card.features.inputs[1].of is None
    pairs = toy_pairs(of_the_file.card.features)
    pairs.save(tmp_path / "table")
    opened = JetPairs.open(tmp_path / "table")
    assert (opened.spec, opened.sha256) == (pairs.spec, pairs.sha256)
    # A table with the mass of the file has no raw mass to give.
    with pytest.raises(HepcalError, match="has not the inputs"):
        opened.select(Features(inputs=(Feature(name="mass", of="raw"),), pt="raw"))


# -- real files -------------------------------------------------------------------------------------------------------

REAL = ("nano_dy.root", "nano_tt_v12.root", "nano_tt_v15.root", "nanoAOD_2015_CMS_Open_Data_ttbar.root", "pfnano.root")


@pytest.mark.parametrize("name", REAL)
def test_real_jets_corrected_before_after_and_with_met(
    real_nanoaod: Callable[[str], ak.Array], nano_calibrator: Calibrator, name: str
) -> None:
    events = real_nanoaod(name)
    jets, met = events.Jet, events.PuppiMET
    raw, eta = flat(jets.pt) * (1 - flat(jets.rawFactor)), flat(jets.eta)
    wanted = flat(nano_calibrator(jets).pt_calib)
    before = corrected(with_raw(jets))
    for collection in (before, before.JES_Total.up, before.JES_Total.down):
        np.testing.assert_array_equal(flat(nano_calibrator(collection).pt_calib), wanted)
    for replace in (False, True):
        for after in (nano_calibrator(jets, replace=replace), nano_calibrator(before, replace=replace)):
            for collection in (after.calib_pred.up, after.calib_pred.down, *((after,) if replace else ())):
                same(collection.pt * (1 - collection.rawFactor), raw)
                np.testing.assert_array_equal(flat(collection.pt_orig), flat(jets.pt))
            given = after if "pt_raw" in after.fields else with_raw(after)
            same(corrected(ak.without_field(given, "calib_pred")).pt, scale(raw, eta) * raw)
            if replace:
                same(corrected(ak.without_field(with_raw(after), "calib_pred")).pt, scale(raw, eta) * raw)
    replaced = ak.without_field(nano_calibrator(before, replace=True), "JES_Total")
    names = NAMES | {"UnClusteredEnergyDeltaX": "pt", "UnClusteredEnergyDeltaY": "pt"}
    found = CorrectedMETFactory(names).build(met, replaced)
    moved = ak.unflatten((wanted.astype(np.float64) - flat(jets.pt)) * np.cos(flat(jets.phi)), ak.num(jets))
    x = ak.to_numpy(met.pt * np.cos(met.phi)).astype(np.float64) - ak.to_numpy(ak.sum(moved, axis=1))
    np.testing.assert_allclose(ak.to_numpy(found.pt * np.cos(found.phi)), x, rtol=1e-4, atol=1e-2)


# -- dask-awkward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda c, a: c(a),
        lambda c, a: c(ak.Array([]), event=a),
        lambda c, a: c.predict(a, a),
        lambda c, a: JetPairs.from_arrays(a, ["eta"], reco=a, truth=a),
    ],
    ids=["jets", "events", "predict", "table"],
)
def test_dask_awkward_arrays_are_told_what_to_do(nano_calibrator: Calibrator, call: Any) -> None:
    # A stand-in by the name of the module, which is all that is looked at: dask-awkward is no dependency.
    stand_in = type("Array", (), {"__module__": "dask_awkward.lib.core"})()
    with pytest.raises(HepcalError, match=r"Runner.*dask_awkward.map_partitions\(calibrator, events.Jet\)"):
        call(nano_calibrator, stand_in)


def test_a_plan_knows_the_type_of_what_is_attached(sample: Sample, nano_calibrator: Calibrator) -> None:
    """What dask-awkward asks for before anything is computed."""
    jets = sample.events.Jet
    traced = ak.to_backend(ak.materialize(jets), "typetracer")
    planned = nano_calibrator(traced, replace=True)
    found = ak.materialize(nano_calibrator(jets, replace=True))
    assert planned.layout.form.type.is_equal_to(found.layout.form.type, all_parameters=True)
    assert type(planned) is type(jets)


def test_the_recipe_for_dask_awkward_gives_the_same_columns(
    tmp_path: Path, write_nanoaod: Any, read_events: Any, nano_calibrator: Calibrator
) -> None:
    dask_awkward = pytest.importorskip("dask_awkward", reason="dask-awkward is no dependency, and not installed here")
    paths = [write_nanoaod(tmp_path / f"{seed}.root", seed=seed) for seed in (1, 2)]
    events = NanoEventsFactory.from_root(
        {str(path): "Events" for path in paths}, schemaclass=SCHEMAS["nanoaod"].coffea, mode="dask"
    ).events()
    with pytest.raises(HepcalError, match="map_partitions"):
        nano_calibrator(events.Jet)
    jets = dask_awkward.map_partitions(nano_calibrator, events.Jet, replace=True)
    wanted = [nano_calibrator(read_events(path, "nanoaod").Jet, replace=True) for path in paths]
    for read in (lambda jets: jets.pt_calib, lambda jets: jets.calib_pred.up.pt, lambda jets: jets.rawFactor):
        assert read(jets).compute().to_list() == ak.concatenate([read(part) for part in wanted]).to_list()


# -- cost -------------------------------------------------------------------------------------------------------------


def test_nothing_more_is_read_for_what_is_kept(
    tmp_path: Path, write_nanoaod: Any, read_events: Any, nano_calibrator: Calibrator
) -> None:
    log: list[Any] = []
    events = read_events(write_nanoaod(tmp_path / "nano.root"), "nanoaod", access_log=log)
    jets = nano_calibrator(events.Jet, replace=True)
    assert {access.branch for access in log} <= {"nJet"}
    ak.materialize(jets.calib_pred.up.rawFactor)
    ak.materialize(jets.pt_raw)
    declared = {f"Jet_{name}" for name in DEFAULT_FEATURES["nanoaod"].jet_fields}
    assert {access.branch for access in log} == declared | {"nJet"}


@functools.cache
def _quick() -> Calibrator:
    spec = DEFAULT_FEATURES["nanoaod"]
    return train(toy_pairs(spec), BNN(hidden=(8,), max_updates=20, patience=20, draws=5), seed=1, show=False)


def test_a_table_from_corrected_events_holds_raw_jets(sample: Sample) -> None:
    """Processors see what they are given: the fields that a correction left are taken along."""
    from hepcal.processors import DijetProcessor

    plain = sample.events
    given = ak.with_field(plain, ak.without_field(corrected(with_raw(plain.Jet)), "JES_Total"), "Jet")
    found, wanted = (DijetProcessor(_quick()).process(events)["hists"]["test"] for events in (given, plain))
    for name in ("pt", "mjj"):
        same(np.asarray(found[name].values(flow=True)).ravel(), np.asarray(wanted[name].values(flow=True)).ravel())


def test_a_part_of_events_whose_pt_was_read_is_that_of_the_file(tmp_path: Path, nano_calibrator: Calibrator) -> None:
    """Slices of a column that was read are in memory, those of the others still on disk."""
    path = nanoaod_file(tmp_path / "jets.root", 20, 1)
    layout = SCHEMAS["nanoaod"].coffea
    jets = NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=layout, mode="virtual").events().Jet
    expected = nano_calibrator(jets).pt_calib
    jets = NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=layout, mode="virtual").events().Jet
    ak.materialize(jets.pt)
    assert ak.all(nano_calibrator(jets[5:15]).pt_calib == expected[5:15])
    part = jets[5:15]
    with pytest.raises(SchemaError, match="'pt' of these jets was changed"):
        nano_calibrator(ak.with_field(part, part.pt * 1.05, "pt"))


CHANGES: dict[str, Callable[[ak.Array], ak.Array]] = {
    "a number": lambda jets: jets.pt * 1.05,
    "an offset": lambda jets: jets.pt + np.float32(1),
    "where": lambda jets: ak.where(jets.pt > 150, jets.pt * 1.1, jets.pt),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", ["eager", "virtual"])
def test_jets_in_memory_that_were_scaled_are_refused(
    tmp_path: Path, nano_calibrator: Calibrator, mode: str, change: str
) -> None:
    """Scaling by a number keeps the title of the branch, which is all that columns in memory have of the file."""
    files = [nanoaod_file(tmp_path / f"{seed}.root", 20, seed) for seed in (1, 2)]
    events = [
        NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=SCHEMAS["nanoaod"].coffea, mode=mode).events()
        for path in files
    ]
    first, second = (ak.materialize(each.Jet) for each in events)
    expected = ak.flatten(nano_calibrator(events[0].Jet).pt_calib)
    assert ak.all(ak.flatten(nano_calibrator(first).pt_calib) == expected)
    assert ak.all(ak.flatten(nano_calibrator(first[:, ::-1][:, ::-1]).pt_calib) == expected)
    joined = nano_calibrator(ak.concatenate([first, second])).pt_calib
    assert ak.all(ak.flatten(joined[: len(first)]) == expected)
    changed = ak.with_field(first, CHANGES[change](first), "pt")
    with pytest.raises(SchemaError, match="'pt' of these jets was changed"):
        nano_calibrator(changed)
    kept = ak.with_field(changed, first.pt, "pt_orig")
    assert ak.all(ak.flatten(nano_calibrator(kept).pt_calib) == expected)
