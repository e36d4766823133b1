"""The jets of the studies: fat jets of tops (and of QCD) with their constituents, and what the files say of the top."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uproot

import hepcal
from hepcal.events.filesets import load_fileset

__all__ = ["RANGE", "SLICES", "Sample", "inside", "load"]

# Fat-jet p_T [GeV] of the training, and slices that are judged (arXiv:2003.11099, Eqs. 12 and 13).
RANGE = (400.0, 1000.0)
SLICES = {"600-620": (600.0, 620.0), "500-800": (500.0, 800.0)}
FILESETS = {"top": "top/*isr_off*.root", "top_isr": "top/*isr_on*.root", "qcd": "qcd_fatjets/*.root"}
RADIUS = 1.2
EVENT_BITS = 40


@dataclass(frozen=True)
class Sample:
    """Fat jets with 400 < p_T < 1000 GeV.

    Attributes:
        pairs: Table: constituents, fat-jet p_T, true p_T of the top (last copy before its decay).
        constituents: Number of constituents, int64 of shape (n,).
        first_copy: p_T of the first copy of the top [GeV]; that of the parton for QCD.
        contained: Whether the three quarks of the decay lie within dR < 1.2 of the jet axis; false for QCD.
    """

    pairs: hepcal.JetPairs
    constituents: np.ndarray
    first_copy: np.ndarray
    contained: np.ndarray

    def take(self, rows: np.ndarray) -> Sample:
        """Some of the jets."""
        parts = (self.constituents, self.first_copy, self.contained)
        return Sample(self.pairs.take(rows), *(part[rows] for part in parts))


def inside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Which values lie in an interval, lower end included."""
    return (values >= limits[0]) & (values < limits[1])


def load(name: str, data: Path, output: Path, jets: int | None = None, *, pt: tuple[float, float] = RANGE) -> Sample:
    """A sample, from a table in ``output`` that is made from the files on first use.

    Args:
        name: ``top``, ``top_isr`` or ``qcd``.
        data: Folder with ``top/`` and ``qcd_fatjets/``.
        output: Where tables are kept.
        jets: Only the first so many jets of the table; default: all.
        pt: Fat-jet p_T [GeV] to keep.
    """
    paths = sorted(data.glob(FILESETS[name]))
    if not paths:
        raise SystemExit(f"{data} has no files {FILESETS[name]}: say with --data where the samples are")
    fileset = load_fileset({name: {"files": {str(path): "Delphes" for path in paths}}})
    table = output / "tables" / name
    if not table.exists():
        hepcal.JetPairs.from_fileset(
            fileset,
            hepcal.Features(constituents=hepcal.Constituents()),
            jets="FatJet",
            truth="Particle[0]",
            chunksize=10_000,
        ).save(table)
    pairs = hepcal.JetPairs.open(table)
    found = sorted(uproot.open(path).file.uuid.hex for path in fileset.paths)
    if found != sorted(pairs.source["files"]):
        raise SystemExit(f"{table} was made from other files than those in {data}: delete it, or use another --output")
    rows = np.flatnonzero(inside(np.asarray(pairs.reco), pt))[:jets]
    pairs = pairs.take(rows)
    files, entries = pairs.event >> EVENT_BITS, pairs.event & ((1 << EVENT_BITS) - 1)
    first_copy, contained = np.full(len(pairs), np.nan, np.float32), np.zeros(len(pairs), dtype=bool)
    for number, path in enumerate(fileset.paths):
        here = files == number
        first_copy[here], contained[here] = (column[entries[here]] for column in _tops(path, quarks=name != "qcd"))
    filled = np.asarray(pairs.features[:, ::4]) > 0
    return Sample(pairs, filled.sum(axis=1), first_copy, contained)


def _tops(path: str, *, quarks: bool) -> tuple[np.ndarray, np.ndarray]:
    """p_T of the first copy, and whether the decay is contained, for all events of a file."""
    with uproot.open(path) as file:
        tree = file["Delphes"]
        columns = {name: tree[f"Particle.{name}"].array() for name in ("PT", "Eta", "Phi")}
        axis = {name: tree[f"FatJet.{name}"].array()[:, 0].to_numpy() for name in ("Eta", "Phi")}
    if not quarks:
        return columns["PT"][:, 0].to_numpy(), np.zeros(len(axis["Eta"]), dtype=bool)
    near = []
    for quark in (2, 3, 4):
        dphi = np.remainder(columns["Phi"][:, quark].to_numpy() - axis["Phi"] + np.pi, 2 * np.pi) - np.pi
        near.append(np.hypot(columns["Eta"][:, quark].to_numpy() - axis["Eta"], dphi) < RADIUS)
    return columns["PT"][:, 1].to_numpy(), np.all(near, axis=0)
