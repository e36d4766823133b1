"""Particle-level and detector-level jets are matched one to one, closest pair first."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepcal.events.matching import MAX_DR, leading, match

Direction = tuple[float, float]


def jets(events: list[list[Direction]], **fields: list[list[Any]]) -> ak.Array:
    """Jets of the given (eta, phi), ``events * var``."""
    counts = np.array([len(event) for event in events], dtype=np.int64)
    flat = np.array([d for event in events for d in event], dtype=np.float64).reshape(-1, 2)
    columns = {"eta": flat[:, 0], "phi": flat[:, 1]}
    columns |= {name: np.array([v for event in values for v in event]) for name, values in fields.items()}
    return ak.unflatten(ak.zip(columns), counts)


def distance(a: Direction, b: Direction) -> float:
    around = abs(a[1] - b[1]) % (2 * np.pi)
    return float(np.hypot(a[0] - b[0], min(around, 2 * np.pi - around)))


def closest_first(truth: list[Direction], reco: list[Direction], max_dr: float) -> list[int | None]:
    """The definition, one event at a time: take the closest pair, remove its jets, repeat."""
    pairs = sorted((distance(t, r), i, j) for i, t in enumerate(truth) for j, r in enumerate(reco))
    partner: dict[int, int] = {}
    for dr, i, j in pairs:
        if dr < max_dr and i not in partner and j not in partner.values():
            partner[i] = j
    return [partner.get(i) for i in range(len(truth))]


# Few distinct directions on purpose: crowded events, in which jets compete for partners, across phi = +-pi.
ETA = st.floats(-0.3, 0.3)
PHI = st.one_of(st.floats(-np.pi, -np.pi + 0.2), st.floats(np.pi - 0.2, np.pi))
EVENT = st.tuples(st.lists(st.tuples(ETA, PHI), max_size=6), st.lists(st.tuples(ETA, PHI), max_size=6))


def distinct(events: list[tuple[list[Direction], list[Direction]]]) -> bool:
    """No two pairs of an event at nearly equal distance, and none at the edge: there the choice is arbitrary."""
    for truth, reco in events:
        all_dr = np.sort([distance(t, r) for t in truth for r in reco])
        if np.any(np.diff(all_dr) < 1e-9) or np.any(np.abs(all_dr - MAX_DR) < 1e-9):
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=5).filter(distinct))
def test_match_is_closest_first_in_each_event(events: Any) -> None:
    truth, reco = ([event[side] for event in events] for side in (0, 1))
    found = match(jets(truth), jets(reco)).to_list()
    assert found == [closest_first(t, r, MAX_DR) for t, r in events]


@settings(max_examples=50, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=4))
def test_match_is_one_to_one_and_within_max_dr(events: Any) -> None:
    truth, reco = ([event[side] for event in events] for side in (0, 1))
    for (t, r), partner in zip(events, match(jets(truth), jets(reco)).to_list(), strict=True):
        taken = [j for j in partner if j is not None]
        assert len(partner) == len(t)
        assert len(set(taken)) == len(taken)
        assert all(distance(t[i], r[j]) < MAX_DR + 1e-12 for i, j in enumerate(partner) if j is not None)


@settings(max_examples=50, deadline=None)
@given(EVENT.filter(lambda event: distinct([event])), st.randoms(use_true_random=False))
def test_partners_do_not_depend_on_the_order_of_jets(event: Any, random: Any) -> None:
    truth, reco = event
    order_t, order_r = list(range(len(truth))), list(range(len(reco)))
    random.shuffle(order_t)
    random.shuffle(order_r)
    (before,) = match(jets([truth]), jets([reco])).to_list()
    (after,) = match(jets([[truth[i] for i in order_t]]), jets([[reco[j] for j in order_r]])).to_list()
    original = {order_t[i]: None if j is None else order_r[j] for i, j in enumerate(after)}
    assert [original[i] for i in range(len(truth))] == before


def test_each_particle_level_jet_lines_up_with_its_partner() -> None:
    truth = jets([[(0.0, 0.0), (1.0, 1.0)], [], [(2.0, 2.0)]])
    reco = jets([[(1.01, 1.0), (0.01, 0.0)], [(0.0, 0.0)], []])
    partner = match(truth, reco)
    assert partner.to_list() == [[1, 0], [], [None]]
    assert reco[partner].eta.to_list() == [[0.01, 1.01], [], [None]]
    assert ak.num(partner).to_list() == ak.num(truth).to_list()


@pytest.mark.parametrize("turn", [0.0, 2 * np.pi, -2 * np.pi])
def test_jets_on_both_sides_of_phi_pi_are_close(turn: float) -> None:
    truth, reco = jets([[(0.5, np.pi - 0.05)]]), jets([[(0.5, -np.pi + 0.05 + turn)]])
    assert match(truth, reco).to_list() == [[0]]


@pytest.mark.parametrize(("dr", "partner"), [(0.0, 0), (0.199, 0), (0.201, None), (2.0, None)])
def test_pairs_beyond_max_dr_are_no_pairs(dr: float, partner: int | None) -> None:
    truth = jets([[(0.0, 0.0)]])
    assert match(truth, jets([[(dr, 0.0)]])).to_list() == [[partner]]
    assert match(truth, jets([[(0.0, dr)]])).to_list() == [[partner]]


def test_max_dr_can_be_chosen() -> None:
    truth, reco = jets([[(0.0, 0.0)]]), jets([[(0.3, 0.0)]])
    assert match(truth, reco, max_dr=0.4).to_list() == [[0]]
    assert match(truth, reco, max_dr=0.1).to_list() == [[None]]


def test_the_closest_pair_wins_even_if_it_leaves_another_jet_alone() -> None:
    # The second particle-level jet is closest to the only detector-level jet.
    assert match(jets([[(0.15, 0.0), (0.05, 0.0)]]), jets([[(0.0, 0.0)]])).to_list() == [[None, 0]]


def test_a_jet_whose_first_choice_is_taken_gets_its_second() -> None:
    truth, reco = jets([[(0.00, 0.0), (0.10, 0.0)]]), jets([[(0.08, 0.0), (0.20, 0.0)]])
    assert match(truth, reco).to_list() == [[None, 0]]
    assert match(truth, reco, max_dr=0.3).to_list() == [[1, 0]]


def test_a_long_chain_of_competitors_is_settled() -> None:
    # Each jet prefers a partner that its neighbour is closer to, down to the last pair.
    n = 20
    gaps = np.cumsum(np.linspace(0.19, 0.01, 2 * n - 1))
    places = np.concatenate([[0], gaps])
    truth, reco = [(float(x), 0.0) for x in places[::2]], [(float(x), 0.0) for x in places[1::2]]
    assert match(jets([truth]), jets([reco])).to_list() == [closest_first(truth, reco, MAX_DR)]


# -- with the generator's index ---------------------------------------------------------------------------------------


def test_the_generator_index_decides_where_there_is_one() -> None:
    truth = jets([[(0.00, 0.0), (0.05, 0.0)]])
    reco = jets([[(0.00, 0.0), (0.05, 0.0)]], genJetIdx=[[1, 0]])
    assert match(truth, reco).to_list() == [[1, 0]]


def test_two_jets_of_one_particle_level_jet_leave_the_closer_one() -> None:
    truth = jets([[(0.0, 0.0)]])
    assert match(truth, jets([[(0.1, 0.0), (0.02, 0.0)]], genJetIdx=[[0, 0]])).to_list() == [[1]]


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_to_no_jet_means_no_partner(index: int) -> None:
    truth = jets([[(0.0, 0.0)], [(0.0, 0.0)]])
    reco = jets([[(0.0, 0.0)], [(0.0, 0.0)]], genJetIdx=[[index], [0]])
    assert match(truth, reco).to_list() == [[None], [0]]


def test_max_dr_holds_for_indexed_pairs_too() -> None:
    assert match(jets([[(0.0, 0.0)]]), jets([[(0.3, 0.0)]], genJetIdx=[[0]])).to_list() == [[None]]


# -- leading jets -----------------------------------------------------------------------------------------------------


def test_leading_jets_are_those_of_highest_pt_highest_first() -> None:
    collection = ak.Array([[{"pt": 30.0}, {"pt": 50.0}, {"pt": 40.0}], [], [{"pt": 20.0}]])
    assert collection[leading(collection)].pt.to_list() == [[50.0, 40.0], [], [20.0]]
    assert collection[leading(collection, 1)].pt.to_list() == [[50.0], [], [20.0]]


def test_leading_keeps_the_order_of_the_file_among_equals() -> None:
    collection = ak.Array([[{"pt": 30.0, "id": 0}, {"pt": 30.0, "id": 1}, {"pt": 30.0, "id": 2}]])
    assert collection[leading(collection)].id.to_list() == [[0, 1]]
