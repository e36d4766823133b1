"""Which particle-level jets are prompt leptons: electrons, muons and taus that a jet algorithm took for jets.

Particle-level jets are clustered from all visible particles, so that a lepton of a W or Z is a jet, too. It is measured
as one, but with the response of a lepton, and has no place in what a calibration of jets learns from or is judged by.
"""

from __future__ import annotations

import awkward as ak
import numpy as np

__all__ = ["MIN_SHARE", "lepton_jets"]

# A jet is a lepton if one lies inside its radius that carries at least this share of its p_T.
MIN_SHARE = 0.5
RADIUS, RADIUS_FATJET = 0.4, 0.8
FATJETS = ("GenJetAK8", "GenFatJet")
# Bits of statusFlags of NanoAOD: prompt; directly from the decay of a prompt tau; last copy.
PROMPT, FROM_PROMPT_TAU, LAST_COPY = 1 << 0, 1 << 5, 1 << 13
ELECTRON, MUON, TAU = 11, 13, 15
# Particles with numbers from here on are hadrons.
FIRST_HADRON = 100
GENPART = ("pt", "eta", "phi", "pdgId", "status", "statusFlags")
PARTICLE = ("PT", "Eta", "Phi", "PID", "Status", "M1")


def lepton_jets(truth: ak.Array, events: ak.Array, collection: str) -> tuple[ak.Array, str]:
    """Which of the particle-level jets are prompt leptons.

    On NanoAOD leptons are those of ``GenDressedLepton`` and ``GenVisTau``, and the prompt electrons, muons and taus of
    ``GenPart``; on Delphes those of ``Particle`` without a hadron among their ancestors, if the file has the mothers.

    Args:
        truth: ``events * var * GenJet``, all that the events have.
        events: The events.
        collection: Name of ``truth``, which says its radius.

    Returns:
        ``events * var * bool``, and the collections that told; empty if the file does not say which jets are leptons:
        then none is.
    """
    found = _leptons(events)
    if not found:
        return ak.zeros_like(truth.pt, dtype=bool), ""
    counts, positions = ak.to_numpy(ak.num(truth.pt)), ak.local_index(truth.pt)
    radius = RADIUS_FATJET if collection in FATJETS else RADIUS
    chosen = np.zeros(int(counts.sum()), dtype=bool)
    for pt, eta, phi in found.values():
        pairs = ak.cartesian([truth.pt, pt]), ak.cartesian([truth.eta, eta]), ak.cartesian([truth.phi, phi])
        (jet_pt, lepton_pt), (eta_1, eta_2), (phi_1, phi_2) = (ak.unzip(pair) for pair in pairs)
        dphi = np.remainder(phi_1 - phi_2 + np.pi, 2 * np.pi) - np.pi
        near = ((eta_1 - eta_2) ** 2 + dphi**2 < radius**2) & (lepton_pt >= MIN_SHARE * jet_pt)
        first = (np.cumsum(counts) - counts)[:, None]
        jet = ak.unzip(ak.cartesian([positions, pt]))[0] + first
        chosen[ak.to_numpy(ak.flatten(jet[near]))] = True
    return ak.unflatten(ak.Array(chosen), counts), "+".join(sorted(found))


def _leptons(events: ak.Array) -> dict[str, tuple[ak.Array, ak.Array, ak.Array]]:
    """p_T, eta and phi of the prompt leptons by the collection that has them, ``events * var`` each."""
    # Without coffea's classes, which refuse four-vectors that lack a component even where it is not needed.
    events, found = ak.Array(events.layout), {}
    for name in ("GenDressedLepton", "GenVisTau"):
        if _has(events, name, ("pt", "eta", "phi")):
            found[name] = events[name].pt, events[name].eta, events[name].phi
    if _has(events, "GenPart", GENPART):
        part = events.GenPart
        chosen = _prompt_of_nanoaod(part, taus="GenVisTau" not in found)
        found["GenPart"] = part.pt[chosen], part.eta[chosen], part.phi[chosen]
    elif _has(events, "Particle", PARTICLE):
        particle = events.Particle
        chosen = _prompt_of_delphes(particle)
        found["Particle"] = particle.PT[chosen], particle.Eta[chosen], particle.Phi[chosen]
    return found


def _has(events: ak.Array, collection: str, fields: tuple[str, ...]) -> bool:
    return collection in events.fields and set(fields) <= set(events[collection].fields)


def _prompt_of_nanoaod(part: ak.Array, *, taus: bool) -> ak.Array:
    kind, flags = abs(part.pdgId), part.statusFlags
    light = ((kind == ELECTRON) | (kind == MUON)) & (part.status == 1) & ((flags & (PROMPT | FROM_PROMPT_TAU)) != 0)
    if not taus:
        return light
    return light | ((kind == TAU) & ((flags & PROMPT) != 0) & ((flags & LAST_COPY) != 0))


def _prompt_of_delphes(particle: ak.Array) -> ak.Array:
    """Stable electrons and muons, and taus, whose first ancestor that is no charged lepton is no hadron."""
    counts = ak.to_numpy(ak.num(particle.PID))
    kind = np.abs(ak.to_numpy(ak.flatten(particle.PID)))
    mother = ak.to_numpy(ak.flatten(particle.M1)).astype(np.int64)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    known = (mother >= 0) & (mother < np.repeat(counts, counts))
    mother = np.where(known, mother + first, -1)
    leptons = np.isin(kind, (ELECTRON, MUON, TAU))
    stable = ak.to_numpy(ak.flatten(particle.Status)) == 1
    chosen = np.flatnonzero(leptons & (stable | (kind == TAU)))
    ancestor = mother[chosen]
    # A chain of copies ends; a record that goes in circles does not, and is left after as many steps.
    for _ in range(int(counts.max(initial=0))):
        climbing = (ancestor >= 0) & leptons[ancestor]
        if not climbing.any():
            break
        ancestor[climbing] = mother[ancestor[climbing]]
    prompt = np.zeros(len(kind), dtype=bool)
    prompt[chosen] = (ancestor >= 0) & (kind[ancestor] < FIRST_HADRON)
    return ak.unflatten(ak.Array(prompt), counts)
