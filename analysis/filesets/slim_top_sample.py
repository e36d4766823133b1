"""Make the small sample of top jets that tests and notebooks run on from the full files.

    python analysis/filesets/slim_top_sample.py ../shared/data/top tests/data

Takes the first events of one file, keeps the branches that a calibration from constituents needs, and writes one file
with the branch names of Delphes. Values are copied unchanged.
"""

import sys
from pathlib import Path

import awkward as ak
import uproot

KEEP = {
    "Event": ("Number", "Weight"),
    "Particle": ("PID", "Status", "PT", "Eta", "Phi", "Mass"),
    "FatJet": ("PT", "Eta", "Phi", "Mass", "DeltaEta", "DeltaPhi", "NCharged", "NNeutrals", "NeutralEnergyFraction"),
    "GenFatJet": ("PT", "Eta", "Phi", "Mass"),
    "ParticleFlowCandidate": ("PT", "Eta", "Phi", "Mass"),
}
SOURCE, TARGET, EVENTS = "ttbar_had_isr_off_01.root", "top_demo.root", 400


def slim(source: Path, target: Path) -> None:
    with uproot.open(source) as file:
        tree = file["Delphes"]
        collections = {
            name: ak.zip({b: tree[f"{name}/{name}.{b}"].array(entry_stop=EVENTS) for b in branches})
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
    destination.mkdir(parents=True, exist_ok=True)
    slim(origin / SOURCE, destination / TARGET)
