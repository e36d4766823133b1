"""Make the sample that `hepcal demo` runs on from the full QCD dijet files.

    python analysis/filesets/slim_demo_sample.py ../shared/data/qcd hepcal/data

Takes the first 5000 events each of two files, keeps the branches that the default calibration and its closure need,
and writes four files of 2500 events with the branch names of Delphes. Values are copied unchanged.
"""

import sys
from pathlib import Path

import awkward as ak
import uproot

KEEP = {
    "Event": ("Number", "Weight"),
    "GenJet": ("PT", "Eta", "Phi", "Mass"),
    "Jet": (
        "PT", "Eta", "Phi", "Mass", "DeltaEta", "DeltaPhi", "NCharged", "NNeutrals",
        "NeutralEnergyFraction", "EhadOverEem",
    ),
}  # fmt: skip
SOURCES = ("qcd_pthat1000_cms_01.root", "qcd_pthat1000_cms_21.root")
EVENTS_PER_FILE = 2500


def slim(source: Path, start: int, target: Path) -> None:
    with uproot.open(source) as file:
        tree = file["Delphes"]
        stop = start + EVENTS_PER_FILE
        collections = {
            name: ak.zip({b: tree[f"{name}/{name}.{b}"].array(entry_start=start, entry_stop=stop) for b in branches})
            for name, branches in KEEP.items()
        }
    with uproot.recreate(target, compression=uproot.LZMA(9)) as out:
        types = {name: records.type.content for name, records in collections.items()}
        tree = out.mktree(
            "Delphes", types, counter_name=lambda name: f"{name}_size", field_name=lambda name, b: f"{name}/{name}.{b}"
        )
        tree.extend(collections)


if __name__ == "__main__":
    origin, destination = map(Path, sys.argv[1:])
    for letter, name in zip("ab", SOURCES, strict=True):
        for part in (0, 1):
            slim(origin / name, part * EVENTS_PER_FILE, destination / f"qcd_{letter}{part + 1}.root")
