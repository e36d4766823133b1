"""What the weights of simulated data sets are worth together: by cross sections, or by the weights in the files.

Events of a data set with a cross section share it in proportion to their weights: each has weight times cross section
over the sum of the weights that were *generated*. A skim holds fewer events than that; NanoAOD keeps the sum in its
``Runs`` tree, and where it does, that is the sum which is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hepcal.errors import FilesetError
from hepcal.events.filesets import FILE_WEIGHTS, Fileset
from hepcal.events.inspection import FileInfo
from hepcal.progress import say

__all__ = ["Normalisation", "dataset_factors", "normalise", "require_comparable", "say_normalisation"]

Origin = Literal["Runs/genEventSumw", "events read"]
# Sums of the same weights agree to single precision, and a little less where most of them cancel.
SAME_SUM = 1e-3


class Normalisation(BaseModel):
    """How the file weights of one data set are scaled.

    Attributes:
        cross_section: What they are scaled to [pb], or None.
        sum_of_weights: Sum of the file weights that stands for it.
        origin: Where that sum is from: of all generated events, or of those that were read.
        read: Sum of the file weights of the events that were read.
        factor: On the file weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_section: float | None
    sum_of_weights: float
    origin: Origin
    read: float
    factor: float


def require_comparable(files: Sequence[FileInfo], fileset: Fileset) -> None:
    """Refuse, before events are read, data sets of simulation whose weights cannot be compared.

    Raises:
        FilesetError: Several have no cross section and do not say that file weights are to be compared, or only some
            have one; files without weights would be compared with files that have them; or only some files of a data
            set say how much was generated, or one says what cannot be.
    """
    events: dict[str, int] = {}
    for info in files:
        if info.simulation:
            events[info.dataset] = events.get(info.dataset, 0) + info.entries
    names = [name for name, entries in events.items() if entries]
    _require_cross_sections(names, fileset, events)
    scaled = {dataset.name for dataset in fileset.datasets if dataset.cross_section is not None}
    if len(names) > 1 and not scaled.intersection(names):
        _require_weights([info for info in files if info.dataset in names and info.entries])
    for name in names:
        if name in scaled:
            _require_generated(name, [info for info in files if info.dataset == name])


def _require_cross_sections(names: Sequence[str], fileset: Fileset, events: Mapping[str, int]) -> None:
    """Several data sets have all a cross section, or all say that they have none."""
    given = {dataset.name: dataset for dataset in fileset.datasets}
    without = [name for name in names if given[name].cross_section is None]
    if len(names) < 2 or not without:
        return
    unsaid = [name for name in without if not given[name].mixes_by_file_weights]
    if len(without) < len(names) or unsaid:
        counts = {name: f" ({events[name]} events)" for name in names if events.get(name)}
        listed = ", ".join(f"{name!r}{counts.get(name, '')}" for name in unsaid or without)
        raise FilesetError(
            f"data sets without a cross_section [pb] in their metadata: {listed}; the weights in files of different "
            "samples have different meanings. Give a 'cross_section' to all simulated data sets, or say "
            f"'cross_section': {FILE_WEIGHTS!r} in all of them, if their weights can be compared as they are"
        )


def _require_weights(files: Iterable[FileInfo]) -> None:
    weighted = {info.weighted: info for info in files}
    if len(weighted) > 1:
        raise FilesetError(
            f"data set {weighted[False].dataset!r} has no weights ({weighted[False].path} lacks the branch "
            f"{weighted[False].schema.weight}), data set {weighted[True].dataset!r} has: every event of the first "
            "would count as 1 beside weights of any size; give all of them a cross_section"
        )


def _require_generated(name: str, files: Sequence[FileInfo]) -> None:
    """All files of a data set say how much was generated for them, or none does."""
    known = {info.generated is not None: info.path for info in files}
    if len(known) > 1:
        raise FilesetError(
            f"data set {name!r}: {known[True]} holds the sum of generated weights (Runs/genEventSumw), {known[False]} "
            "does not, so no sum stands for the cross_section: use files that have kept their Runs tree"
        )
    for info in files:
        if info.generated is None:
            continue
        count, total = info.generated.events, info.generated.sum_of_weights
        if count is not None and count < info.entries:
            raise FilesetError(
                f"{info.path}: Runs/genEventCount says that {count} events were generated, but the file holds "
                f"{info.entries}: its Runs tree is not that of all its events, and cannot normalise them"
            )
        if not math.isfinite(total):
            raise FilesetError(f"{info.path}: Runs/genEventSumw is {total}, and cannot normalise the events")


def normalise(sums: Mapping[str, float], files: Sequence[FileInfo], fileset: Fileset) -> dict[str, Normalisation]:
    """Factors on the file weights of simulated data sets.

    Where all have cross sections, weights of a data set that was generated in full sum to its own; where none has,
    all weights together sum to one.

    Args:
        sums: Sum of the weights of the events that were read, of each simulated data set with events.
        files: The files that were read.
        fileset: Their data sets.

    Raises:
        FilesetError: As :func:`require_comparable`, weights do not sum to a positive number, or files that hold all
            their events have other weights than were generated.
    """
    cross_sections = {dataset.name: dataset.cross_section for dataset in fileset.datasets}
    read_of = {name: [info for info in files if info.dataset == name] for name in sums}
    entries = {name: sum(info.entries for info in read) for name, read in read_of.items()}
    _require_cross_sections(list(sums), fileset, entries)
    used: dict[str, tuple[float, Origin]] = {}
    for name, total in sums.items():
        generated = [info.generated for info in read_of[name]]
        if cross_sections[name] is None or not generated or None in generated:
            used[name] = total, "events read"
        else:
            used[name] = math.fsum(each.sum_of_weights for each in generated if each), "Runs/genEventSumw"
            counts = [each.events for each in generated if each]
            if entries[name] == sum(count or 0 for count in counts):
                _require_same_sum(name, total, used[name][0])
    factors = dataset_factors({name: total for name, (total, _) in used.items()}, cross_sections)
    return {
        name: Normalisation(
            cross_section=cross_sections[name],
            sum_of_weights=used[name][0] if used[name][1] != "events read" else _rounded(total),
            origin=used[name][1],
            read=_rounded(total),
            factor=factors[name],
        )
        for name, total in sums.items()
    }


def dataset_factors(sums: Mapping[str, float], cross_sections: Mapping[str, float | None]) -> dict[str, float]:
    """Factors on the file weights of simulated data sets.

    Args:
        sums: Sum of the file weights of each data set that stands for its cross section.
        cross_sections: Cross section [pb] of each data set, or None.

    Returns:
        Factors that make the weights of a data set sum to its cross section where all give one; where none does, all
        weights together sum to one, so that data sets count by their weights.

    Raises:
        FilesetError: Only some data sets give a cross section, or weights do not sum to a positive number.
    """
    without = [name for name in sums if cross_sections.get(name) is None]
    if without and len(without) < len(sums):
        raise FilesetError(
            f"data sets without a cross_section [pb] in their metadata: {', '.join(without)}; "
            "give one to all simulated data sets, or to none"
        )
    if bad := [name for name, total in sums.items() if not 0 < total < math.inf]:
        raise FilesetError(f"the weights of data set {', '.join(bad)} do not sum to a positive number")
    pooled = sum(sums.values())
    factors = {name: (cross_sections.get(name) or total / pooled) / total for name, total in sums.items()}
    if bad := [name for name, factor in factors.items() if not 0 < factor < math.inf]:
        raise FilesetError(f"the cross_section of data set {', '.join(bad)} is beyond any number of pb")
    return factors


def _rounded(value: float) -> float:
    """Without the digits in which sums over chunks differ by the order of the chunks."""
    return float(f"{value:.9e}")


def _require_same_sum(name: str, read: float, generated: float) -> None:
    if not abs(read - generated) <= SAME_SUM * abs(generated):
        raise FilesetError(
            f"data set {name!r} holds all events that were generated, but their weights sum to {read:.6g}, and to "
            f"{generated:.6g} in Runs/genEventSumw: the weights were changed, and that sum cannot normalise them; "
            "leave out the Runs tree, or use the weights as generated"
        )


def say_normalisation(found: Mapping[str, Normalisation]) -> None:
    """Print which sum of weights stands for each cross section."""
    for name, each in found.items():
        if each.cross_section is not None:
            whose = "all generated events" if each.origin != "events read" else "the events that were read"
            say(
                f"data set {name!r}: {each.cross_section:g} pb for a sum of weights of {each.sum_of_weights:.6g}, "
                f"that of {whose} ({each.origin}); those that were read sum to {each.read:.6g}"
            )
