"""The training table: what is in it, and that it survives disk, splits and parallel reading."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepcal import Features, JetPairs
from hepcal.demo import demo_fileset
from hepcal.errors import FilesetError, HepcalError, MissingFieldError, PairsError

COLUMNS = ("features", "reco", "truth", "weight", "event")


@pytest.fixture(scope="module")
def table():
    return JetPairs.from_fileset(demo_fileset("train"), show=False)


def toy(n=40, **changes):
    rng = np.random.default_rng(1)
    arrays = {
        "reco": rng.uniform(50, 500, n),
        "truth": rng.uniform(50, 500, n),
        "event": np.repeat(np.arange(n // 2), 2),
    } | changes
    return JetPairs.from_arrays(rng.normal(size=(n, 2)), ["a", {"name": "b", "transform": "abs"}], **arrays)


def test_rows_are_the_matched_leading_jets(table):
    assert table.source["events"] == 5_000
    assert table.source["truth_jets"] == 10_000
    assert len(table) == 10_000 - table.source["unmatched"]
    assert 0 < table.source["unmatched"] < 50
    response = table.reco / table.truth
    assert response.mean() == pytest.approx(0.947, abs=0.005)
    assert np.median(response) == pytest.approx(0.975, abs=0.005)
    assert np.bincount(np.unique(table.event, return_counts=True)[1]).argmax() == 2
    assert table.n_eff == pytest.approx(len(table))


@pytest.mark.parametrize("executor", ["futures"], indirect=True)
@pytest.mark.parametrize("chunksize", [700, 100_000])
def test_rows_do_not_depend_on_chunks_or_processes(table, executor, chunksize):
    again = JetPairs.from_fileset(demo_fileset("train"), executor=executor, chunksize=chunksize, show=False)
    assert again.sha256 == table.sha256


def test_a_saved_table_is_memory_mapped_and_equal(table, tmp_path):
    table.save(tmp_path / "pairs")
    opened = JetPairs.open(tmp_path / "pairs")
    assert isinstance(opened.features, np.memmap)
    assert opened.sha256 == table.sha256
    assert opened.spec == table.spec
    assert dict(opened.source) == dict(table.source)
    table.take(np.arange(100)).save(tmp_path / "pairs")
    assert len(JetPairs.open(tmp_path / "pairs")) == 100


def test_save_does_not_overwrite_what_is_not_a_table(tmp_path):
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(PairsError, match="not a training table"):
        toy().save(tmp_path)


def test_a_damaged_table_is_refused(tmp_path):
    toy().save(tmp_path / "pairs")
    (tmp_path / "pairs" / "truth.npy").unlink()
    with pytest.raises(PairsError, match=r"truth\.npy"):
        JetPairs.open(tmp_path / "pairs")
    with pytest.raises(PairsError, match="hepcal pairs"):
        JetPairs.open(tmp_path)


@settings(deadline=None)
@given(fraction=st.floats(0.1, 0.9), seed=st.integers(0, 1000))
def test_split_keeps_events_together_and_loses_nothing(fraction, seed):
    table = toy(60)
    first, second = table.split(fraction, seed)
    assert not set(first.event) & set(second.event)
    assert len(first) + len(second) == len(table)
    assert len(np.unique(first.event)) == round(fraction * 30)
    assert first.sha256 == table.split(fraction, seed)[0].sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reco": np.zeros(40)}, "detector-level pt"),
        ({"truth": np.full(40, np.nan)}, "'truth' is NaN"),
        ({"truth": np.ones(3)}, r"truth has the shape \(3,\)"),
        ({"weight": np.full(40, np.inf)}, "'weight' is NaN"),
    ],
)
def test_bad_columns_are_refused_with_their_name(changes, message):
    with pytest.raises(PairsError, match=message):
        toy(**changes)


def test_nan_features_are_refused_with_their_name():
    features = np.zeros((10, 2))
    features[3, 1] = np.nan
    with pytest.raises(PairsError, match=r"1 of 10 jets have a 'b'.*first at jet 3"):
        JetPairs.from_arrays(features, ["a", "b"], reco=np.ones(10), truth=np.ones(10))


def test_empty_tables_are_refused():
    with pytest.raises(PairsError, match="no matched jets"):
        JetPairs.from_arrays(np.empty((0, 1)), ["a"], reco=np.empty(0), truth=np.empty(0))


def test_the_hash_sees_every_column(table):
    few = table.take(np.arange(50))
    for name in COLUMNS:
        changed = getattr(few, name).copy()
        changed.flat[7] += 1
        assert dataclasses.replace(few, **{name: changed}).sha256 != few.sha256
    assert dataclasses.replace(few, spec=Features(inputs=few.spec.inputs, pt="raw")).sha256 != few.sha256


def test_cross_sections_weight_the_training_events(table):
    train = demo_fileset("train").datasets[0]
    first, second = train.files
    given = {"a": {"files": [first], "metadata": {"cross_section": 30.0}}, "b": {"files": [second]}}
    with pytest.raises(FilesetError, match="without a cross_section"):
        JetPairs.from_fileset(given, show=False)
    given["b"]["metadata"] = {"cross_section": 10.0}
    scaled = JetPairs.from_fileset(given, show=False)
    file = scaled.event >> 40
    assert np.allclose(scaled.weight[file == 0], 30.0 / 2500)
    assert np.allclose(scaled.weight[file == 1], 10.0 / 2500)
    assert np.array_equal(scaled.reco, table.reco)


def test_the_threshold_of_the_files_is_noted(table):
    assert 50 <= table.source["reco_threshold"] < 51


def test_arrays_of_raw_momenta_are_marked_as_such():
    assert toy(pt="raw").spec.pt == "raw"
    with pytest.raises(PairsError, match="must be integers"):
        toy(event=np.linspace(0, 1, 40))


@pytest.mark.parametrize("written", [False, True])
def test_files_that_lack_an_input_are_left_out_as_in_a_run(tmp_path, write_nanoaod, written):
    def without_mass(content):
        content["Jet"] = content["Jet"][[name for name in content["Jet"].fields if name != "mass"]]

    good = write_nanoaod(tmp_path / "good.root")
    slim = write_nanoaod(tmp_path / "slim.root", seed=1, edit=without_mass)
    (tmp_path / "cut.root").write_bytes(good.read_bytes()[:3_000])
    fileset = {"QCD": [str(good), str(slim), str(tmp_path / "cut.root")]}
    features = Features(inputs=("eta", "mass"))
    if written:
        found = JetPairs.write(fileset, tmp_path / "pairs", features, allow_skipped=True, show=False)
    else:
        found = JetPairs.from_fileset(fileset, features, allow_skipped=True, show=False)
    alone = JetPairs.from_fileset({"QCD": [str(good)]}, features, show=False)
    assert found.sha256 == alone.sha256
    skipped = {Path(path).name: reason for path, reason in found.source["skipped_files"]}
    assert set(skipped) == {"slim.root", "cut.root"}
    assert "Jet_mass" in skipped["slim.root"]
    with pytest.raises(MissingFieldError, match=r"slim\.root.*Jet_mass"):
        JetPairs.from_fileset({"QCD": [str(good), str(slim)]}, features, show=False)
    with pytest.raises(MissingFieldError, match=r"slim\.root.*Jet_mass"):
        JetPairs.from_fileset({"QCD": [str(slim)]}, features, allow_skipped=True, show=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunksize": 0}, "chunksize is a number of events, at least 1, not 0"),
        ({"chunksize": -5}, "at least 1, not -5"),
        ({"chunksize": 2.5}, "at least 1, not 2.5"),
        ({"chunksize": "many"}, "at least 1, not 'many'"),
        ({"executor": "futures"}, r"open_executor\('futures'\) gives, not 'futures'"),
        ({"jets": 3}, "jets is the name of a collection, such as 'Jet' or 'GenJet', not 3"),
        ({"truth": None}, "truth is the name of a collection"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_before_anything_is_read(arguments, message):
    with pytest.raises(HepcalError, match=message):
        JetPairs.from_fileset(demo_fileset("train"), show=False, **arguments)
