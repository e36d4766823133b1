"""Where coffea (2026.9) offers no way of its own: the only place that reaches into it, each time with the reason.

* :class:`Quiet`: what the constructor of a schema warns of has no switch.
* :class:`FatJetDelphesSchema`: which collections of Delphes are four-vectors is decided in ``_build_collections``, the
  only place that sees the branches of the file; the number of entries of what is joined is lost there otherwise.
* :func:`file_of`: a processor is not told from which open file its columns come.
* :func:`events_of`: jets know their events, for cross references, but say so under a private name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from coffea.nanoevents import DelphesSchema, NanoAODSchema, PFNanoAODSchema

from hepcal.events.schemas import CANDIDATES, DELPHES_BRANCHES

__all__ = ["FatJetDelphesSchema", "QuietNanoAODSchema", "QuietPFNanoAODSchema", "events_of", "file_of"]


class Quiet:
    """Mix-in: no warnings, once per chunk and worker, about what no jet calibration needs.

    These are cross references and event ids (run, luminosity block, number) that a skim lacks, and photon masses and
    charges that coffea replaces.
    """

    warn_missing_crossrefs = False
    error_missing_event_ids = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
            warnings.filterwarnings("ignore", "Missing event_ids", RuntimeWarning)
            super().__init__(*args, **kwargs)


class QuietNanoAODSchema(Quiet, NanoAODSchema):  # type: ignore[misc]
    """NanoAODSchema without those warnings."""


class QuietPFNanoAODSchema(Quiet, PFNanoAODSchema):  # type: ignore[misc]
    """PFNanoAODSchema without those warnings."""


class FatJetDelphesSchema(DelphesSchema):  # type: ignore[misc]
    """DelphesSchema in which constituents (``ParticleFlowCandidate``) and ``GenFatJet`` are four-vectors, too.

    ``Rho`` is a list, of which a pile-up card writes several entries per event. What coffea takes for one entry per
    event, and joins without looking, comes with the numbers of entries, ``Event.size``: see
    :mod:`hepcal.events.event_level`.
    """

    singletons: tuple[str, ...] = tuple(name for name in DelphesSchema.singletons if name != "Rho")
    four_vectors: Mapping[str, str] = {CANDIDATES: "Particle", "GenFatJet": "Jet"}

    def _build_collections(self, branch_forms: dict[str, Any]) -> dict[str, Any]:
        # A file that lacks a component stays readable, without the behaviour.
        complete = {
            name: mixin
            for name, mixin in self.four_vectors.items()
            if all(f"{name}/{name}.{branch}" in branch_forms for branch in DELPHES_BRANCHES.values())
        }
        self.mixins = {**DelphesSchema.mixins, **complete}
        sizes = {name: branch_forms.get(f"{name}_size") for name in self.singletons}
        collections: dict[str, Any] = super()._build_collections(branch_forms)
        collections |= {f"{name}.size": size for name, size in sizes.items() if size and name in collections}
        return collections


def file_of(events: Any) -> Any:
    """The open ROOT file that the columns of a chunk come from; a second look at its path might find another one."""
    return events.attrs["@events_factory"].file_handle


def events_of(jets: Any) -> Any:
    """The events that jets were taken from."""
    return jets._events()
