"""Features: what a calibrator reads, checked before any network sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import awkward as ak
import numpy as np
import pytest
from pydantic import ValidationError

from hepcal.errors import MissingFieldError, NonFiniteFeatureError, SchemaError
from hepcal.events.constituents import Constituents
from hepcal.events.features import DEFAULT_FEATURES, Feature, Features

N = 5


@pytest.fixture
def jets() -> ak.Array:
    """Five flat jets with more fields than any features here use."""
    return ak.zip(
        {
            "pt": np.linspace(100, 500, N),
            "rawFactor": np.linspace(0, 0.2, N),
            "eta": np.linspace(-2, 2, N),
            "mass": np.linspace(0, 40, N),
            "area": np.full(N, 0.5),
            "unused": np.full(N, np.nan),
        }
    )


def spoiled(jets: ak.Array, name: str, value: float, *rows: int) -> ak.Array:
    column = ak.to_numpy(jets[name]).copy()
    column[list(rows)] = value
    return ak.with_field(jets, column, name)


# -- the specification ------------------------------------------------------------------------------------------------


def test_a_bare_name_means_no_transform() -> None:
    spec = Features(inputs=("eta", Feature(name="mass", transform="log1p")))
    assert spec.inputs == (Feature(name="eta", transform="identity"), Feature(name="mass", transform="log1p"))
    assert spec.names == ("eta", "mass")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inputs": ("eta", "area", "eta")}, "listed twice.*eta"),
        ({"inputs": ("eta", {"name": "eta", "transform": "abs"})}, "listed twice.*eta"),
        ({"features": ("eta",)}, "features"),
        ({"inputs": ({"name": "eta", "transfrom": "abs"},)}, "transfrom"),
        ({"inputs": ({"name": "eta", "transform": "sqrt"},)}, "identity.*abs.*log.*log1p"),
        ({"inputs": ({"transform": "abs"},)}, "name"),
        ({"pt": "jec"}, "raw.*pt"),
    ],
)
def test_a_wrong_specification_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){said}"):
        Features(**given)


def test_a_specification_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Features(inputs=("eta",)).pt = "raw"  # type: ignore[misc]


def test_a_specification_survives_json() -> None:
    for spec in DEFAULT_FEATURES.values():
        assert Features.model_validate_json(spec.model_dump_json()) == spec


def test_the_defaults_of_a_schema_fill_in_what_was_not_chosen() -> None:
    assert Features().resolved("nanoaod") == DEFAULT_FEATURES["nanoaod"]
    assert Features().resolved("delphes").pt == "pt"
    chosen = Features(inputs=("eta",), pt="pt").resolved("nanoaod")
    assert (chosen.names, chosen.pt) == (("eta",), "pt")
    assert Features(inputs=("eta",)).resolved("nanoaod").pt == "raw"


def test_the_jet_fields_that_are_read_follow_from_the_specification() -> None:
    assert Features(inputs=("eta", "event_rho", "pt"), pt="raw").jet_fields == ("pt", "rawFactor", "eta")
    assert Features(inputs=("eta",), pt="pt").jet_fields == ("pt", "eta")
    assert Features(inputs=("eta",), constituents=Constituents(), pt="pt").jet_fields == ("pt", "eta", "phi")
    assert Features(inputs=("eta", "event_rho", "event_npv")).event_names == ("event_rho", "event_npv")


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_holds_the_declared_columns_in_order_untransformed(jets: ak.Array) -> None:
    spec = Features(inputs=("mass", Feature(name="eta", transform="abs")), pt="raw")
    table, reco = spec.table(jets)
    assert (table.dtype, reco.dtype) == (np.float32, np.float32)
    assert table.shape == (N, 2)
    np.testing.assert_allclose(table[:, 0], jets.mass, rtol=1e-6)
    np.testing.assert_allclose(table[:, 1], jets.eta, rtol=1e-6)
    np.testing.assert_allclose(reco, jets.pt * (1 - jets.rawFactor), rtol=1e-6)


def test_only_declared_columns_are_read(jets: ak.Array) -> None:
    read: list[str] = []

    def reading(name: str) -> Callable[[], np.ndarray]:
        return lambda: read.append(name) or ak.to_numpy(jets[name])

    form, length, buffers = ak.to_buffers(jets)
    lazy = {key: reading(name) for key, name in zip(buffers, jets.fields, strict=True)}
    Features(inputs=("eta", "area"), pt="pt").table(ak.from_buffers(form, length, lazy))
    assert sorted(read) == ["area", "eta", "pt"]


def test_event_level_inputs_are_repeated_for_the_jets_of_their_event(jets: ak.Array) -> None:
    events = ak.Array({"event_rho": [10.0, 20.0, 30.0]})
    spec = Features(inputs=("eta", "event_rho"), pt="pt")
    table, _ = spec.table(jets, events, np.array([0, 0, 2, 2, 2]))
    assert table[:, 1].tolist() == [10.0, 10.0, 30.0, 30.0, 30.0]


def test_no_jets_give_an_empty_table(jets: ak.Array) -> None:
    table, reco = Features(inputs=("eta", "area"), pt="raw").table(jets[:0])
    assert (table.shape, reco.shape) == ((0, 2), (0,))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_field_is_named_with_what_there_is(jets: ak.Array) -> None:
    with pytest.raises(MissingFieldError, match=r"no field 'nConstituents'.*they have pt, rawFactor, eta"):
        Features(inputs=("eta", "nConstituents"), pt="pt").table(jets)


def test_uncorrected_pt_needs_the_correction_that_was_applied(jets: ak.Array) -> None:
    with pytest.raises(SchemaError, match="rawFactor"):
        Features(inputs=("eta",), pt="raw").table(ak.without_field(jets, "rawFactor"))


def test_event_level_inputs_need_the_events(jets: ak.Array) -> None:
    with pytest.raises(MissingFieldError, match=r"event_rho, event_npv.*calibrator\(jets, event=events\)"):
        Features(inputs=("event_rho", "event_npv"), pt="pt").table(jets)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_with_name_count_and_place(jets: ak.Array, value: float) -> None:
    with pytest.raises(NonFiniteFeatureError, match=r"2 of 5 jets have a 'area'.*first at jet 1"):
        Features(inputs=("eta", "area"), pt="pt").table(spoiled(jets, "area", value, 1, 4))


@pytest.mark.parametrize(
    ("transform", "value", "good"),
    [
        ("log", 0.0, False),
        ("log", -1.0, False),
        ("log", 1e-3, True),
        ("log1p", -1.0, False),
        ("log1p", -0.5, True),
        ("log1p", 0.0, True),
        ("identity", -5.0, True),
        ("abs", -5.0, True),
    ],
)
def test_a_value_outside_the_domain_of_its_transform_is_refused(
    jets: ak.Array, transform: Any, value: float, good: bool
) -> None:
    spec = Features(inputs=(Feature(name="area", transform=transform),), pt="pt")
    given = spoiled(jets, "area", value, 3)
    if good:
        assert spec.table(given)[0][3, 0] == np.float32(value)
        return
    with pytest.raises(NonFiniteFeatureError, match=rf"1 of 5 jets have a 'area'.*'{transform}'.*first at jet 3"):
        spec.table(given)


@pytest.mark.parametrize("value", [0.0, -10.0, np.nan, np.inf])
def test_a_detector_level_pt_is_positive(jets: ak.Array, value: float) -> None:
    with pytest.raises(NonFiniteFeatureError, match=r"1 of 5 jets have a 'detector-level pt'.*first at jet 2"):
        Features(inputs=("eta",), pt="pt").table(spoiled(jets, "pt", value, 2))


def test_a_nan_in_a_field_that_is_not_used_does_not_matter(jets: ak.Array) -> None:
    assert len(Features(inputs=("eta",), pt="raw").table(jets)[1]) == N


def test_an_integer_field_keeps_its_values_in_single_precision(jets: ak.Array) -> None:
    counted = ak.with_field(jets, np.array([0, 1, 7, 100, 255], dtype=np.uint8), "nConstituents")
    table, _ = Features(inputs=("nConstituents",), pt="pt").table(counted)
    assert table[:, 0].tolist() == [0, 1, 7, 100, 255]
