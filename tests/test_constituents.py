"""Constituents from files: the right ones, in order, in the frame that is promised; and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import DelphesSchema, NanoEventsFactory
from coffea.processor import ProcessorABC
from hepcal.processors import DijetProcessor

import hepcal
from hepcal import Constituents, Features, JetPairs
from hepcal.errors import (
    MissingFieldError,
    NonFiniteFeatureError,
    NotIndependentWarning,
    PairsError,
    ReadError,
    SchemaError,
)
from hepcal.events.candidates import jet_constituents
from hepcal.events.executors import ExecutorFactory, open_executor
from hepcal.events.features import FATJET_FEATURES
from hepcal.events.filesets import Fileset
from hepcal.events.running import run
from hepcal.methods.calibrator import Calibrator
from hepcal.workflow import run_dijets

TOP = Path(__file__).parent / "data" / "top_demo.root"
ALL = Features(constituents=Constituents(), pt="pt")
FEW = Features(constituents=Constituents(count=10), pt="pt")
TINY = hepcal.BNN(hidden=(16,), max_updates=60, patience=60, draws=4)
Read = Callable[..., ak.Array]


def fat_jets(events: ak.Array, spec: Features) -> tuple[np.ndarray, np.ndarray]:
    jets = ak.flatten(events.FatJet)
    return spec.table(jets, events, np.arange(len(events)))


def vectors(table: np.ndarray) -> np.ndarray:
    """Four-vectors (n, count, 4) in float64."""
    return table.reshape(len(table), -1, 4).astype(np.float64)


def of_lists(spec: Constituents, pt: Any, eta: Any, phi: Any, mass: Any) -> np.ndarray:
    """Columns of the given constituents."""
    block = np.zeros((len(pt), spec.width), dtype=np.float32)
    spec.fill(block, ak.zip({"pt": pt, "eta": eta, "phi": phi, "mass": mass}, depth_limit=1))
    return block


@pytest.fixture(scope="module")
def events(read_events: Read) -> ak.Array:
    return read_events(TOP, "delphes")


@pytest.fixture(scope="module")
def pairs() -> JetPairs:
    return JetPairs.from_fileset({"top": {"files": [str(TOP)]}}, FEW, jets="FatJet", truth="Particle[0]", show=False)


@pytest.fixture(scope="module")
def calibrator(pairs: JetPairs) -> Calibrator:
    return hepcal.train(pairs, TINY, seed=1, show=False)


# -- against the definition, one constituent at a time -----------------------------------------------------------------


def by_hand(candidates: list[tuple[float, float, float, float]], count: int, frame: str) -> np.ndarray:
    """(count, 4) from (pt, eta, phi, mass): Lorentz transformations as matrices."""
    momenta = []
    for pt, eta, phi, mass in sorted(candidates, key=lambda c: -c[0]):
        x, y, z = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
        momenta.append([math.sqrt(x * x + y * y + z * z + max(mass, 0.0) ** 2), x, y, z])
    vectors = np.array(momenta)
    if frame == "jet":
        energy, x, y, z = vectors.sum(axis=0)
        angle, beta = math.atan2(y, x), z / energy
        gamma = 1 / math.sqrt(1 - beta**2)
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[1, 0, 0, 0], [0, c, s, 0], [0, -s, c, 0], [0, 0, 0, 1]])
        boost = np.array([[gamma, 0, 0, -gamma * beta], [0, 1, 0, 0], [0, 0, 1, 0], [-gamma * beta, 0, 0, gamma]])
        vectors = vectors @ turn.T @ boost.T
    out = np.zeros((count, 4))
    out[: len(vectors)] = vectors[:count]
    return out


def delphes_candidates(path: Path, n: int) -> list[list[tuple[float, ...]]]:
    name = "ParticleFlowCandidate"
    with uproot.open(path) as file:
        lists = [file[f"Delphes/{name}/{name}.{b}"].array(entry_stop=n).to_list() for b in ("PT", "Eta", "Phi", "Mass")]
    return [list(zip(*event, strict=True)) for event in zip(*lists, strict=True)]


@pytest.mark.parametrize("frame", ["jet", "lab"])
@pytest.mark.parametrize("sample", ["demo", "top/ttbar_had_isr_on_02.root", "qcd_fatjets/qcd_fatjets_isr_off_03.root"])
def test_columns_of_delphes_are_those_of_the_definition(
    sample: str, frame: Any, read_events: Read, request: Any
) -> None:
    path = TOP if sample == "demo" else request.getfixturevalue("shared") / "data" / sample
    few = read_events(path, "delphes")[:50]
    spec = Features(constituents=Constituents(frame=frame), pt="pt")
    table, reco = fat_jets(few, spec)
    assert (table.shape, table.dtype, reco.dtype) == ((50, 400), np.float32, np.float32)
    expected = np.stack([by_hand(c, 100, frame) for c in delphes_candidates(path, 50)])
    np.testing.assert_allclose(vectors(table), expected, rtol=1e-6, atol=1e-4)


def test_columns_of_pfnano_are_those_of_the_definition(shared: Path, real_nanoaod: Any) -> None:
    branches = ("JetPFCands_jetIdx", "JetPFCands_pFCandsIdx", *(f"PFCands_{f}" for f in ("pt", "eta", "phi", "mass")))
    with uproot.open(shared / "data" / "nanoaod" / "pfnano.root") as file:
        stored = file["Events"].arrays(branches).to_list()
    jets = real_nanoaod("pfnano.root").Jet
    expected, raw = [], []
    for event, n in zip(stored, ak.num(jets), strict=True):
        momenta = list(zip(*(event[branch] for branch in branches[2:]), strict=True))
        for jet in range(n):
            links = zip(event[branches[0]], event[branches[1]], strict=True)
            raw.append([momenta[candidate] for of, candidate in links if of == jet])
            expected.append(by_hand(raw[-1], 60, "jet"))
    spec = Features(inputs=("eta",), constituents=Constituents(count=60), pt="raw")
    table, _ = spec.table(ak.flatten(jets))
    np.testing.assert_allclose(table[:, 0], ak.to_numpy(ak.flatten(jets.eta)))
    np.testing.assert_allclose(vectors(table[:, 1:]), np.stack(expected), rtol=1e-6, atol=1e-4)
    longer = sum(len(candidates) > 60 for candidates in raw)
    assert longer > 0
    assert spec.truncated(ak.flatten(jets)) == longer


# -- the frame ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(events: ak.Array) -> tuple[np.ndarray, np.ndarray]:
    both = (Features(constituents=Constituents(frame=frame), pt="pt") for frame in ("jet", "lab"))
    jet, lab = (vectors(fat_jets(events, spec)[0]) for spec in both)
    return jet, lab


def test_the_sum_points_along_x_in_the_jet_frame(frames: Any) -> None:
    total = frames[0].sum(axis=1)
    assert np.all(total[:, 1] > 0)
    np.testing.assert_allclose(total[:, 2:], 0, atol=2e-3)


def test_the_frame_changes_no_transverse_momentum_and_no_mass(frames: Any) -> None:
    jet, lab = frames
    np.testing.assert_allclose(np.hypot(jet[..., 1], jet[..., 2]), np.hypot(lab[..., 1], lab[..., 2]), rtol=1e-6)

    def mass(total: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(axis=1)))

    np.testing.assert_allclose(mass(jet.sum(axis=1)), mass(lab.sum(axis=1)), rtol=1e-4)


def test_energies_are_those_of_the_masses_in_the_file(frames: Any) -> None:
    masses = np.zeros(frames[0].shape[:2])
    for row, candidates in enumerate(delphes_candidates(TOP, 400)):
        masses[row, : len(candidates)] = [mass for *_, mass in candidates]
    assert (masses == 0).any()
    assert (masses > 0.1).any()
    for block in frames:
        momentum = np.sqrt((block[..., 1:] ** 2).sum(axis=2))
        np.testing.assert_allclose(block[..., 0], np.hypot(momentum, masses), rtol=3e-7)


def test_a_boosted_and_rotated_jet_is_the_same_in_its_frame() -> None:
    rng = np.random.default_rng(3)
    pt, mass = ak.Array([rng.exponential(20, 30)]), ak.Array([rng.choice([0, 0.14], 30)])
    rapidity, phi = rng.normal(0, 0.4, 30), rng.normal(0, 0.4, 30)
    tables = []
    for shift, turn in ((0.0, 0.0), (1.3, 2.0), (-0.7, -3.0)):
        transverse = np.hypot(pt[0].to_numpy(), mass[0].to_numpy())
        eta = np.arcsinh(transverse * np.sinh(rapidity + shift) / pt[0].to_numpy())
        tables.append(of_lists(Constituents(count=30), pt, ak.Array([eta]), ak.Array([phi + turn]), mass))
    for table in tables[1:]:
        np.testing.assert_allclose(table, tables[0], rtol=1e-5, atol=1e-5)


# -- order and slots ---------------------------------------------------------------------------------------------------


def test_the_order_of_the_file_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    lists = [rng.permutation(np.arange(1.0, 21.0)), *(rng.normal(size=20) for _ in range(2)), np.zeros(20)]
    order = np.argsort(-lists[0])
    table, again = (
        of_lists(Constituents(count=25), *(ak.Array([v]) for v in ls)) for ls in (lists, [v[order] for v in lists])
    )
    np.testing.assert_array_equal(table, again)
    falling = np.hypot(*vectors(table)[0, :, 1:3].T)
    np.testing.assert_allclose(falling, [*np.arange(20.0, 0, -1), *[0.0] * 5], rtol=1e-6)
    Constituents(count=25).check(table)


def test_equal_momenta_keep_the_order_of_the_file() -> None:
    block = of_lists(Constituents(count=3, frame="lab"), [[5.0, 5.0, 5.0]], [[0.0] * 3], [[0.3, 0.1, 0.2]], [[0.0] * 3])
    angles = np.arctan2(vectors(block)[0, :, 2], vectors(block)[0, :, 1])
    np.testing.assert_allclose(angles, [0.3, 0.1, 0.2], rtol=1e-6)


def test_the_softest_are_left_out_and_counted(events: ak.Array) -> None:
    everything, few = (fat_jets(events, spec)[0] for spec in (ALL, FEW))
    # In the frame of all constituents.
    np.testing.assert_array_equal(few, everything[:, :40])
    n = ak.to_numpy(ak.num(events.ParticleFlowCandidate.PT))
    index = np.arange(len(events))
    assert FEW.truncated(ak.flatten(events.FatJet), events, index) == np.sum(n > 10) > 300
    assert ALL.truncated(ak.flatten(events.FatJet), events, index) == 0


def test_other_inputs_come_first(events: ak.Array) -> None:
    spec = Features(inputs=("mass", "event_Event"), constituents=Constituents(count=2), pt="pt")
    named = ak.with_field(events, events.Event.Number, "event_Event")
    table, _ = spec.table(ak.flatten(events.FatJet), named, np.arange(len(events)))
    assert table.shape == (len(events), 10)
    np.testing.assert_array_equal(table[:, 0], ak.flatten(events.FatJet.mass))
    np.testing.assert_array_equal(table[:, 2:], fat_jets(events, ALL)[0][:, :8])


def test_no_jets_give_an_empty_table(events: ak.Array) -> None:
    table, reco = ALL.table(ak.flatten(events.FatJet[:0]), events[:0], np.empty(0, dtype=np.int64))
    assert (table.shape, reco.shape) == ((0, 400), (0,))


# -- values that are refused -------------------------------------------------------------------------------------------

ZERO = [[0.0], [0.0, 0.0]]


def test_a_jet_without_constituents_is_refused_with_count_and_place() -> None:
    with pytest.raises(NonFiniteFeatureError, match="2 of 3 jets have no constituents, first at jet 1"):
        of_lists(Constituents(), [[1.0], [], [0.0]], [[0.0], [], [1.0]], [[0.0], [], [1.0]], [[0.0], [], [1.0]])


@pytest.mark.parametrize(("name", "value"), [("pt", np.nan), ("pt", -1.0), ("eta", np.inf), ("mass", np.nan)])
def test_a_value_that_is_no_momentum_is_refused(name: str, value: float) -> None:
    lists: dict[str, Any] = {"pt": [[2.0], [1.0, 3.0]], "eta": ZERO, "phi": ZERO, "mass": ZERO}
    lists[name] = [lists[name][0], [lists[name][1][0], value]]
    with pytest.raises(NonFiniteFeatureError, match=r"1 of 2 jets have a constituent with a NaN.*first at jet 1"):
        of_lists(Constituents(), *lists.values())


def test_a_constituent_without_direction_is_left_out() -> None:
    given = of_lists(Constituents(count=2), [[2.0, 0.0, 1.0]], [[0.0, 9.0, 0.1]], [[0.0, 1.0, 0.1]], [[0.0, 0.5, 0.1]])
    np.testing.assert_array_equal(
        given, of_lists(Constituents(count=2), [[2.0, 1.0]], [[0.0, 0.1]], [[0.0, 0.1]], [[0.0, 0.1]])
    )


def test_a_mass_below_zero_by_rounding_is_zero() -> None:
    block = of_lists(Constituents(count=1, frame="lab"), [[3.0]], [[0.0]], [[0.0]], [[-0.002]])
    assert block.tolist() == [[3.0, 3.0, 0.0, 0.0]]


def test_columns_out_of_order_and_jets_without_constituents_are_refused() -> None:
    two = Constituents(count=2)
    block = np.tile(np.array([5, 3, 4, 0, 4, 0, 4, 0], dtype=np.float32), (4, 1))
    two.check(block)
    # Of the same p_T but for the rounding.
    block[1, 4:] = 5.000001, 5.000001, 0, 0
    two.check(block)
    block[2, 4:] = 5.0001, 5.0001, 0, 0
    with pytest.raises(NonFiniteFeatureError, match=r"1 of 4 jets have constituents.* not in falling p_T.* at jet 2"):
        two.check(block)
    block[2:, :] = 0
    with pytest.raises(NonFiniteFeatureError, match=r"2 of 4 jets have no constituents, first at jet 2"):
        two.check(block)


def test_a_constituent_without_momentum_is_not_left_out() -> None:
    assert Constituents(count=2).truncated(ak.zip({"pt": ak.Array([[1.0, 0.0, 2.0], [3.0, 2.0, 1.0]])})) == 1


@pytest.mark.parametrize(("frame", "eta"), [("lab", 200.0), ("jet", 1000.0)])
def test_an_energy_beyond_single_precision_is_refused(frame: Any, eta: float) -> None:
    block = of_lists(Constituents(count=1, frame=frame), [[3.0]], [[eta]], [[0.0]], [[0.0]])
    with pytest.raises(NonFiniteFeatureError, match="NaN or infinite"):
        Constituents(count=1).check(block)


# -- files that are refused --------------------------------------------------------------------------------------------


def with_candidates(content: dict[str, Any]) -> None:
    """Fat jets with candidates in the directions of all jets of the event."""
    content["FatJet"] = content["Jet"]
    content["ParticleFlowCandidate"] = content["Jet"][["PT", "Eta", "Phi", "Mass"]]


def test_events_with_several_jets_are_refused(tmp_path: Path, write_delphes: Any, read_events: Read) -> None:
    events = read_events(write_delphes(tmp_path / "many.root", edit=with_candidates), "delphes")
    counts = ak.to_numpy(ak.num(events.FatJet))
    several = rf"{np.sum(counts > 1)} events have several FatJet jets, but one list ParticleFlowCandidate"
    index = np.repeat(np.arange(len(events)), counts)
    with pytest.raises(SchemaError, match=rf"many\.root.*{several}.*one jet per event"):
        FEW.table(ak.flatten(events.FatJet), events, index)
    # A selection of jets does not change whose candidates they are.
    hard = events.FatJet[:, :1]
    with pytest.raises(SchemaError, match=several):
        FEW.table(ak.flatten(hard), events, np.flatnonzero(counts))
    single = events[counts == 1]
    table, reco = FEW.table(ak.flatten(single.FatJet), single, np.arange(len(single)))
    np.testing.assert_allclose(table[:, 1], reco, rtol=1e-6)


def test_candidates_that_are_not_those_of_the_jet_are_refused(
    tmp_path: Path, write_delphes: Any, read_events: Read
) -> None:
    def elsewhere(content: dict[str, Any]) -> None:
        with_candidates(content)
        away = ak.with_field(content["Jet"], -content["Jet"].Phi, "Phi")
        content["ParticleFlowCandidate"] = away[["PT", "Eta", "Phi", "Mass"]]

    events = read_events(write_delphes(tmp_path / "all.root", edit=elsewhere), "delphes")
    single = events[ak.num(events.FatJet) == 1]
    with pytest.raises(SchemaError, match=r"the constituents of \d+ of \d+ jets sum to a momentum more than 0.4 away"):
        FEW.table(ak.flatten(single.FatJet), single, np.arange(len(single)))


def pfnano(candidates: str = "JetPFCands", index: str = "pFCandsIdx", step: int = 1) -> Callable[[Any], None]:
    """Two constituents along each jet, linked under the given names, from the first jet to the last or back."""

    def edit(content: dict[str, Any]) -> None:
        jets = ak.with_field(content["Jet"], ak.full_like(content["Jet"].nConstituents, 2), "nConstituents")
        raw = jets.pt * (1 - jets.rawFactor)
        twice = {"pt": raw / 2, "eta": jets.eta, "phi": jets.phi, "mass": 0 * raw, "charge": 0 * raw}
        twice = {name: ak.flatten(ak.concatenate([v[..., None]] * 2, axis=2), axis=2) for name, v in twice.items()}
        order = ak.local_index(twice["pt"])
        content |= {"Jet": jets, "PFCands": ak.zip(twice)}
        content[candidates] = ak.zip({"jetIdx": order // 2, index: order})[:, ::step]

    return edit


def test_constituents_of_another_jet_are_refused(tmp_path: Path, write_nanoaod: Any, read_events: Read) -> None:
    spec = Features(constituents=Constituents(count=2), pt="raw")
    good = read_events(write_nanoaod(tmp_path / "good.root", edit=pfnano()), "pfnano")
    table, reco = spec.table(ak.flatten(good.Jet))
    np.testing.assert_allclose(table[:, [1, 5]], np.stack([reco, reco], axis=1) / 2, rtol=1e-5)
    # The file says whose they are, but in another order than that of the jets.
    other = read_events(write_nanoaod(tmp_path / "other.root", edit=pfnano(step=-1)), "pfnano")
    with pytest.raises(SchemaError, match=r"other\.root.*JetPFCands_jetIdx is not that of the jet it is stored with"):
        spec.table(ak.flatten(other.Jet))


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("FatJetPFCands", "pFCandsIdx"), "JetPFCands_pFCandsIdx"),
        (("JetPFCands", "pfCandIdx"), "JetPFCands_pFCandsIdx"),
    ],
)
def test_the_branches_that_pfnano_lacks_are_named(
    names: tuple[str, str], missing: str, tmp_path: Path, write_nanoaod: Any, read_events: Read, fileset_of: Any
) -> None:
    path = write_nanoaod(tmp_path / "other.root", edit=pfnano(*names))
    table = JetPairs.from_fileset(fileset_of(path), Features(inputs=("eta",)), show=False)
    assert table.source["schema"] == "pfnano"
    with pytest.raises(MissingFieldError, match=rf"other\.root: .*lacks the branches {missing} that"):
        JetPairs.from_fileset(fileset_of(path), FEW, show=False)
    events = read_events(path, "pfnano")
    with pytest.raises(MissingFieldError, match=rf"no constituents of Jet jets in this file: it lacks {missing};"):
        FEW.require(events.Jet, events)
    with pytest.raises(MissingFieldError, match="they need Jet_nConstituents, JetPFCands_pFCandsIdx, PFCands_pt"):
        jet_constituents(ak.flatten(events.Jet))


def test_delphes_jets_need_their_events(events: ak.Array, calibrator: Calibrator) -> None:
    with pytest.raises(MissingFieldError, match=r"Delphes keeps in the events: call calibrator\(jets, event=events\)"):
        calibrator(events.FatJet)


def test_delphes_without_candidates_says_what_is_missing(
    tmp_path: Path, write_delphes: Any, read_events: Read, fileset_of: Callable[..., Fileset]
) -> None:
    path = write_delphes(tmp_path / "plain.root")
    events = read_events(path, "delphes")
    with pytest.raises(MissingFieldError, match=r"plain\.root.*no collection ParticleFlowCandidate"):
        FEW.require(events.Jet, events)
    with pytest.raises(MissingFieldError, match=r"plain\.root.*ParticleFlowCandidate\.PT"):
        JetPairs.from_fileset(fileset_of(path), FEW, show=False)


def test_plain_nanoaod_says_that_pfnano_is_needed(
    tmp_path: Path, write_nanoaod: Any, read_events: Read, fileset_of: Callable[..., Fileset]
) -> None:
    path = write_nanoaod(tmp_path / "nano.root")
    with pytest.raises(MissingFieldError, match=r"constituents of Jet jets.*PFNano"):
        FEW.require(read_events(path, "nanoaod").Jet)
    with pytest.raises(MissingFieldError, match="plain NanoAOD has none: use PFNano"):
        JetPairs.from_fileset(fileset_of(path), FEW, show=False)


def test_pfnano_jets_that_lost_their_link_are_refused(real_nanoaod: Any) -> None:
    events = real_nanoaod("pfnano.root")
    with pytest.raises(MissingFieldError, match="lost the link to their constituents"):
        FEW.require(events.Jet[["pt", "eta", "phi", "mass", "pFCandsIdxG"]])
    with pytest.raises(MissingFieldError, match="no constituents of FatJet jets in this file"):
        FEW.require(events.FatJet)


# -- what is read, and how ---------------------------------------------------------------------------------------------


def test_only_the_needed_branches_are_read(read_events: Read) -> None:
    log: list[Any] = []
    events = read_events(TOP, "delphes", access_log=log)
    FEW.require(events.FatJet, events)
    assert not log
    fat_jets(events, FEW)
    momentum = ("PT", "Eta", "Phi", "Mass")
    candidates = {f"ParticleFlowCandidate/ParticleFlowCandidate.{branch}" for branch in momentum}
    jets = {f"FatJet/FatJet.{branch}" for branch in momentum[:3]}
    assert {access.branch for access in log} == {"FatJet_size", "ParticleFlowCandidate_size", *jets, *candidates}


def test_only_the_needed_branches_of_pfnano_are_read(shared: Path, read_events: Read) -> None:
    log: list[Any] = []
    events = read_events(shared / "data" / "nanoaod" / "pfnano.root", "pfnano", access_log=log)
    Features(constituents=Constituents(), pt="raw").table(ak.flatten(events.Jet))
    links = {"nJet", "Jet_nConstituents", "nJetPFCands", "JetPFCands_pFCandsIdx", "JetPFCands_jetIdx", "nPFCands"}
    momenta = {f"PFCands_{name}" for name in ("pt", "eta", "phi", "mass")}
    assert {access.branch for access in log} == {"Jet_pt", "Jet_rawFactor", "Jet_eta", "Jet_phi", *links, *momenta}


def test_constituents_and_their_jets_are_four_vectors(events: ak.Array) -> None:
    momenta, jets = events.ParticleFlowCandidate, ak.flatten(events.FatJet)
    total = ak.sum(momenta, axis=1)
    np.testing.assert_allclose(total.pt, jets.pt, rtol=0.05)
    assert ak.all(abs(total.eta - jets.eta) < 0.05)
    assert ak.all(ak.flatten(events.GenFatJet).energy > 0)


def test_the_schema_of_coffea_works_too(events: ak.Array) -> None:
    plain = NanoEventsFactory.from_root({str(TOP): "Delphes"}, schemaclass=DelphesSchema).events()
    np.testing.assert_array_equal(fat_jets(plain, FEW)[0], fat_jets(events, FEW)[0])


def test_candidates_without_a_mass_leave_the_file_readable(
    tmp_path: Path, write_delphes: Any, read_events: Read
) -> None:
    def without_mass(content: dict[str, Any]) -> None:
        with_candidates(content)
        content["ParticleFlowCandidate"] = content["Jet"][["PT", "Eta", "Phi"]]

    events = read_events(write_delphes(tmp_path / "old.root", edit=without_mass), "delphes")
    assert ak.all(events.ParticleFlowCandidate.PT > 0)
    with pytest.raises(MissingFieldError, match=r"old\.root.*no branches ParticleFlowCandidate\.Mass"):
        FEW.require(events.FatJet, events)


# -- training tables ---------------------------------------------------------------------------------------------------


def test_rows_are_one_jet_and_its_top_per_event(pairs: JetPairs, events: ak.Array) -> None:
    table, reco = fat_jets(events, FEW)
    np.testing.assert_array_equal(pairs.features, table)
    np.testing.assert_array_equal(pairs.reco, reco)
    np.testing.assert_array_equal(pairs.truth, events.Particle.PT[:, 0])
    np.testing.assert_array_equal(pairs.event, np.arange(len(events)))
    assert pairs.spec == FEW
    source = {name: pairs.source[name] for name in ("jets", "truth", "max_dr", "truth_jets", "unmatched")}
    assert source == {"jets": "FatJet", "truth": "Particle[0]", "max_dr": 1.2, "truth_jets": 400, "unmatched": 0}
    assert pairs.source["truncated_jets"] == FEW.truncated(ak.flatten(events.FatJet), events, np.arange(400))
    assert pairs.source["reco_threshold"] == 0, "these jets were not selected by their p_T"


def test_the_truth_is_the_particle_that_is_asked_for(events: ak.Array, fileset_of: Callable[..., Fileset]) -> None:
    first_copy = JetPairs.from_fileset(fileset_of(TOP), FEW, jets="FatJet", truth="Particle[1]", show=False)
    rows = first_copy.event
    assert len(rows) + first_copy.source["unmatched"] == 400
    np.testing.assert_array_equal(first_copy.truth, events.Particle.PT[:, 1][rows])
    close = JetPairs.from_fileset(fileset_of(TOP), FEW, jets="FatJet", truth="Particle[0]", max_dr=0.05, show=False)
    top, jet = events.Particle[:, 0], events.FatJet[:, 0]
    dphi = np.remainder(top.phi - jet.phi + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_array_equal(close.event, np.flatnonzero(np.hypot(top.eta - jet.eta, dphi) < 0.05))
    assert close.source["unmatched"] == 400 - len(close) > 0


def test_fat_jets_have_defaults_of_their_own(fileset_of: Callable[..., Fileset]) -> None:
    table = JetPairs.from_fileset(fileset_of(TOP), jets="FatJet", truth="GenFatJet", show=False)
    assert table.spec == FATJET_FEATURES["delphes"]
    assert "EhadOverEem" not in table.spec.names
    assert table.source["max_dr"] == 0.4
    assert len(table) > 350
    assert np.median(table.reco / table.truth) == pytest.approx(1, abs=0.05)


def test_a_run_takes_the_collections_of_the_training(fileset_of: Callable[..., Fileset], tmp_path: Path) -> None:
    table = JetPairs.from_fileset(fileset_of(TOP), jets="FatJet", truth="GenFatJet", show=False)
    calibrator = hepcal.train(table, hepcal.MSE(hidden=(4,), max_updates=30, patience=30), show=False)
    with open_executor("iterative") as executor:
        with pytest.warns(NotIndependentWarning, match="was trained on 1 of these files"):
            run_dijets(fileset_of(TOP), calibrator, executor, tmp_path / "own", plots=False, show=False)
        with pytest.raises(ReadError, match=r"Jet\.PT"):
            run_dijets(fileset_of(TOP), calibrator, executor, tmp_path / "other", jets="Jet", show=False)
    figures = hepcal.closure.closure(hepcal.closure.load_hists(tmp_path / "own"), "pt", "reco", total=True)
    assert figures.n_eff[0] == pytest.approx(len(table))
    assert 1 + figures.bias[0] == pytest.approx(np.mean(table.reco / table.truth), abs=1e-6)


def test_a_run_needs_particle_level_jets(fileset_of: Callable[..., Fileset]) -> None:
    table = JetPairs.from_fileset(fileset_of(TOP), jets="FatJet", truth="Particle[0]", show=False)
    calibrator = hepcal.train(table, hepcal.MSE(hidden=(4,), max_updates=30, patience=30), show=False)
    with pytest.raises(SchemaError, match=r"one particle per event, Particle\[0\].*truth='GenFatJet'"):
        DijetProcessor(calibrator)
    assert DijetProcessor(calibrator, truth="GenFatJet").jets == "FatJet"


@pytest.mark.parametrize("name", ["nano_tt_v12.root", "pfnano.root"])
def test_fat_jets_of_nanoaod_are_matched_to_theirs(shared: Path, name: str, fileset_of: Callable[..., Fileset]) -> None:
    path = shared / "data" / "nanoaod" / name
    options = {"jets": "FatJet", "truth": "GenJetAK8", "keep_leptons": True}
    table = JetPairs.from_fileset(fileset_of(path), **options, show=False)
    assert (table.spec, table.spec.pt) == (FATJET_FEATURES["nanoaod"], "raw")
    with uproot.open(path) as file:
        stored = file["Events"].arrays([f"FatJet_{name}" for name in ("pt", "rawFactor", "genJetAK8Idx")])
        truth = file["Events/GenJetAK8_pt"].array()
    # Rows by event and falling truth p_T.
    linked = ak.argsort(truth, axis=1, ascending=False, stable=True)[:, :2]
    expected = [
        (raw, event_truth[t])
        for event_truth, order, *jets in zip(truth.to_list(), linked.to_list(), *ak.unzip(stored), strict=True)
        for t in order
        for raw in [pt * (1 - factor) for pt, factor, index in zip(*jets, strict=True) if index == t][:1]
    ]
    found = set(zip(table.reco.tolist(), table.truth.tolist(), strict=True))
    assert len(found) == len(table) > 0
    for reco, value in found:
        assert any(reco == pytest.approx(r, rel=1e-5) and value == np.float32(t) for r, t in expected)
    assert 0.7 < np.median(table.reco / table.truth) < 1.3


@pytest.mark.parametrize(("options", "said"), [({"truth": "Particle[-1]"}, "Particle"), ({"max_dr": 0.0}, "positive")])
def test_an_impossible_selection_is_refused(options: Any, said: str, fileset_of: Callable[..., Fileset]) -> None:
    with pytest.raises(PairsError, match=said):
        JetPairs.from_fileset(fileset_of(TOP), FEW, jets="FatJet", show=False, **options)


def test_a_collection_that_is_not_there_is_named(fileset_of: Callable[..., Fileset]) -> None:
    with pytest.raises(ReadError, match=r"top_demo\.root.*GenJet\.PT"):
        JetPairs.from_fileset(fileset_of(TOP), FEW, jets="FatJet", show=False)
    with pytest.raises(MissingFieldError, match=r"top_demo\.root.*Jet\.PT"):
        JetPairs.from_fileset(fileset_of(TOP), FEW, truth="Particle[0]", show=False)


# -- calibrated jets ---------------------------------------------------------------------------------------------------


def test_columns_are_attached_to_fat_jets(calibrator: Calibrator, pairs: JetPairs, events: ak.Array) -> None:
    jets = calibrator(events.FatJet, event=events)
    expected = calibrator.predict(pairs.features, pairs.reco)
    np.testing.assert_array_equal(ak.flatten(jets.pt_calib), expected.mean)
    np.testing.assert_array_equal(ak.flatten(jets.pt_calib_sigma_stoch), expected.sigma_stoch)
    chosen = events.FatJet.pt > 600
    hard = calibrator(events.FatJet[chosen], event=events)
    assert hard.pt_calib.to_list() == jets.pt_calib[chosen].to_list()
    first = calibrator(ak.firsts(events.FatJet), event=events)
    assert first.pt_calib.to_list() == ak.flatten(jets.pt_calib).to_list()


def test_jets_of_another_collection_are_refused(
    calibrator: Calibrator, tmp_path: Path, write_delphes: Any, read_events: Read
) -> None:
    events = read_events(write_delphes(tmp_path / "both.root", edit=with_candidates), "delphes")
    jets = events.Jet
    # A selection remembers what it is from.
    for part in (jets, jets[jets.pt > 100], jets[ak.argsort(jets.pt, axis=1)], ak.firsts(jets)):
        with pytest.raises(SchemaError, match=r"trained on FatJet jets; these are Jet jets.*events\.FatJet"):
            calibrator(part, event=events)
    single = events[ak.num(jets) == 1]
    expected = calibrator(single.FatJet, event=single).pt_calib.to_list()
    assert len(expected) > 0
    # The same jets under another name, and jets that do not say what they are.
    renamed = ak.with_parameter(single.Jet, "collection_name", "FatJet")
    assert calibrator(renamed, event=single).pt_calib.to_list() == expected
    mixed = ak.concatenate([single.Jet[:, :0], single.FatJet], axis=1)
    assert calibrator(mixed, event=single).pt_calib.to_list() == expected


class Attach(ProcessorABC):
    """What an analyst writes."""

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator

    def process(self, events: ak.Array) -> dict[str, Any]:
        jets = self.calibrator(events.FatJet, event=events)
        return {"pt_calib": {events.metadata["entrystart"]: ak.to_numpy(ak.flatten(jets.pt_calib))}}

    def postprocess(self, accumulator: Any) -> Any:
        return np.concatenate([accumulator["pt_calib"][start] for start in sorted(accumulator["pt_calib"])])


@pytest.mark.parametrize(("executor", "chunksize"), [("iterative", 400), ("futures", 150)], indirect=["executor"])
def test_a_processor_attaches_them_in_any_executor(
    calibrator: Calibrator, pairs: JetPairs, executor: ExecutorFactory, chunksize: int, fileset_of: Any
) -> None:
    found = run(fileset_of(TOP), Attach(calibrator), executor, chunksize=chunksize, show=False).output
    np.testing.assert_array_equal(found, calibrator.predict(pairs.features, pairs.reco).mean)


@pytest.fixture(scope="module")
def pfnano_calibrator(shared: Path) -> Calibrator:
    """Trained on the jets of ten events, many times."""
    path = shared / "data" / "nanoaod" / "pfnano.root"
    spec = Features(inputs=("eta",), constituents=Constituents(count=20))
    few = JetPairs.from_fileset(hepcal.load_fileset({"MC": {"files": [str(path)]}}), spec, show=False)
    again = few.take(np.tile(np.arange(len(few)), 30))
    many = JetPairs.from_arrays(
        again.features, ["eta"], reco=again.reco, truth=again.truth, pt="raw", constituents=spec.constituents
    )
    return hepcal.train(many, TINY, seed=1, show=False)


def test_pfnano_jets_need_no_events(pfnano_calibrator: Calibrator, real_nanoaod: Any) -> None:
    jets = real_nanoaod("pfnano.root").Jet
    calibrated = pfnano_calibrator(jets).pt_calib
    table, reco = pfnano_calibrator.card.features.table(ak.flatten(jets))
    np.testing.assert_array_equal(ak.flatten(calibrated), pfnano_calibrator.predict(table, reco).mean)
    chosen = jets.pt > 40
    assert pfnano_calibrator(jets[chosen]).pt_calib.to_list() == calibrated[chosen].to_list()


def test_the_dijet_processor_finds_constituents_of_pfnano(
    pfnano_calibrator: Calibrator, shared: Path, fileset_of: Any
) -> None:
    with open_executor("iterative") as executor:
        path = shared / "data" / "nanoaod" / "pfnano.root"
        output = run(fileset_of(path), DijetProcessor(pfnano_calibrator), executor, show=False).output
    assert output["counts"]["QCD"]["events"] == 10
    assert output["hists"]["pt"][{"level": "calib"}].sum(flow=True).value > 0
