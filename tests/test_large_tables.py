"""Tables larger than memory: rows on disk, the same training from them, and tables written file by file."""

import filecmp
import pickle
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hepcal
from hepcal.errors import IncompleteRunError, OutputError, PairsError
from hepcal.events.constituents import Constituents
from hepcal.methods.regression import ensemble
from hepcal.methods.training.inputs import StreamedInputs, input_tensor, network_inputs, raw_chunks
from hepcal.networks.scaling import MOMENTUM, InputScaling, transform
from hepcal.tables import rows as on_disk
from hepcal.tables import writing
from hepcal.tables.from_events import PairsProcessor
from hepcal.tables.reading import Reading, ReadingOptions
from hepcal.tables.rows import StoredRows, check_rows, chunks, open_column, stored, taken

JETS = 700
SMALL = {"hidden": (8, 6), "batch": 64, "max_updates": 60, "patience": 40}
METHODS = {
    "bnn": hepcal.BNN(**SMALL, draws=3),
    "bootstrap": hepcal.Ensemble(**SMALL, n=3),
    "parts": hepcal.Ensemble(**SMALL, n=3, sample="parts"),
    "hessian": hepcal.Hessian(**SMALL, draws=5, directions=3),
    "heteroscedastic": hepcal.Heteroscedastic(**SMALL),
    "dropout": hepcal.Dropout(**SMALL),
    "mse": hepcal.MSE(**SMALL),
}


def with_constituents(n=JETS, seed=1):
    """Jets with inputs of every transform and five constituents of mass zero; half the weights differ from one."""
    rng = np.random.default_rng(seed)
    layout = Constituents(count=5)
    occupied = np.arange(layout.count) < rng.integers(1, layout.count + 1, n)[:, None]
    pt = -np.sort(-rng.uniform(1, 90, (n, layout.count)) * occupied, axis=1)
    eta, phi = rng.normal(0, 0.3, (2, n, layout.count))
    vectors = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    scalars = np.stack([rng.normal(size=n), rng.normal(size=n), *rng.exponential(3, (2, n))], axis=1)
    named = [{"name": name, "transform": name} for name in ("identity", "abs", "log", "log1p")]
    reco = rng.uniform(100, 900, n)
    return hepcal.JetPairs.from_arrays(
        np.concatenate([scalars, vectors.reshape(n, -1)], axis=1),
        named,
        reco=reco,
        truth=reco * (1.1 + 0.02 * scalars[:, 0] + 0.05 * rng.normal(size=n)),
        weight=np.where(rng.random(n) < 0.5, 1.0, rng.uniform(-0.2, 2, n)),
        event=np.arange(n) // 2 + (1 << 40),
        constituents=layout,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A table in memory, and where it is saved."""
    table, path = with_constituents(), tmp_path_factory.mktemp("tables") / "pairs"
    table.save(path)
    return table, path


@pytest.fixture
def lazy(monkeypatch):
    """Read every table from disk, and in chunks of a few rows."""
    monkeypatch.setattr(on_disk, "LAZY_BYTES", 0)
    monkeypatch.setattr(on_disk, "CHUNK_BYTES", 9_100)


# -- rows on disk ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """An array, and its file."""
    array, path = np.arange(200, dtype=np.float32).reshape(50, 4), tmp_path_factory.mktemp("rows") / "column.npy"
    np.save(path, array)
    return array, path


@given(
    key=st.one_of(
        st.slices(30),
        st.lists(st.integers(-30, 29), max_size=40).map(partial(np.array, dtype=np.int64)),
        st.lists(st.booleans(), min_size=30, max_size=30).map(np.array),
        st.integers(-30, 29),
        st.just(np.array([[1, 2, 3], [29, 0, 0]])),
    ),
    columns=st.one_of(st.slices(4), st.lists(st.integers(-4, 3), min_size=1), st.integers(-4, 3)),
    chosen=st.one_of(st.none(), st.lists(st.integers(0, 49), min_size=30, max_size=30)),
)
def test_rows_on_disk_are_those_of_the_array(numbers, key, columns, chosen):
    array, path = numbers
    view = StoredRows(open_column(path))
    assert np.array_equal(view[5:40:3], array[5:40:3])
    view = view.take(np.arange(30) if chosen is None else chosen)
    array = array[np.arange(30) if chosen is None else chosen]
    assert np.array_equal(view, array)
    assert np.array_equal(view[key], array[key])
    assert view[key].shape == array[key].shape
    assert np.array_equal(view[:, columns], array[:, columns])
    assert np.array_equal(view[key][..., columns], view[key, columns])
    if not isinstance(columns, int):
        assert np.array_equal(view.select(columns).take([3, 1, 1])[:2], array[:, columns][[3, 1]])


def test_places_in_a_file_of_gigabytes_are_found_from_short_row_numbers(tmp_path):
    # Sparse: it takes no space, and its last rows are beyond what 32 bits can count in bytes.
    path, last = tmp_path / "column.npy", 2_999_998
    column = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(last + 2, 400))
    column[[7, last, last + 1], 0] = 1, 2, 3
    column.flush()
    del column
    view, rows = StoredRows(open_column(path)), np.array([last, 7, last + 1], dtype=np.int32)
    assert view[rows][:, 0].tolist() == view.take(rows)[:][:, 0].tolist() == [2, 1, 3]
    assert StoredRows(open_column(path), rows=rows)[np.array([0, 2], dtype=np.int8)][:, 0].tolist() == [2, 3]


def test_rows_on_disk_describe_themselves_and_travel_as_an_array(saved, lazy):
    table, path = saved
    view = stored(hepcal.JetPairs.open(path).features)
    assert isinstance(view, StoredRows)
    assert (len(view), view.shape, view.ndim, view.dtype) == (JETS, (JETS, 24), 2, np.float32)
    assert view.nbytes == table.features.nbytes
    assert repr(view) == f"<StoredRows: {JETS} x 24 float32, on disk>"
    assert np.array_equal(pickle.loads(pickle.dumps(view)), table.features)  # noqa: S301
    assert np.asarray(view, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(view, copy=False)
    with pytest.raises(IndexError, match=f"row {JETS}"):
        view[np.array([0, JETS])]
    # A part of the rows in one piece is a part of the file.
    assert np.array_equal(stored(hepcal.JetPairs.open(path).features[100:])[:3], table.features[100:103])


def test_what_is_small_or_in_memory_stays_an_array(saved, monkeypatch):
    table, path = saved
    opened = hepcal.JetPairs.open(path)
    assert isinstance(opened.features, np.memmap)
    assert stored(opened.features) is opened.features
    few = opened.take(np.arange(10))
    assert type(few.features) is np.ndarray or type(few.features) is np.memmap
    monkeypatch.setattr(on_disk, "LAZY_BYTES", table.features.nbytes // 2)
    assert isinstance(stored(opened.features), StoredRows)
    assert isinstance(opened.take(slice(0, JETS - 1)).features, StoredRows)
    assert type(opened.take(np.arange(10)).features) is np.ndarray
    assert stored(table.features) is table.features
    assert taken(table.features, slice(0, 2)).base is table.features
    # Copied on write: what is in memory is not what is in the file.
    changed = np.load(path / "features.npy", mmap_mode="c")
    assert stored(changed) is changed


def test_a_table_that_is_replaced_is_still_read_from_its_own_file(tmp_path, lazy):
    table, other = with_constituents(), with_constituents(seed=2)
    table.save(tmp_path / "pairs")
    opened = hepcal.JetPairs.open(tmp_path / "pairs")
    other.save(tmp_path / "pairs")
    assert opened.sha256 == table.sha256
    assert opened.take(np.arange(JETS)).sha256 == table.sha256
    assert hepcal.JetPairs.open(tmp_path / "pairs").sha256 == other.sha256


def test_a_file_that_is_cut_is_an_error(tmp_path, lazy):
    with_constituents().save(tmp_path / "pairs")
    view = stored(hepcal.JetPairs.open(tmp_path / "pairs").features)
    with (tmp_path / "pairs" / "features.npy").open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(PairsError, match=r"has no byte \d+: its file was cut"):
        view[np.arange(0, JETS, 50)]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_table_on_disk_is_split_and_hashed_as_one_in_memory(saved, lazy):
    table, path = saved
    opened = hepcal.JetPairs.open(path)
    opened.check()
    assert opened.sha256 == table.sha256
    for part, expected in zip(opened.split(0.7, seed=3), table.split(0.7, seed=3), strict=True):
        assert isinstance(part.features, StoredRows)
        part.check()
        assert part.sha256 == expected.sha256
    spec = table.spec.selected(("log", "abs"), constituents=True)
    assert isinstance(opened.select(spec).features, StoredRows)
    assert opened.select(spec).sha256 == table.select(spec).sha256
    assert opened.take(np.flatnonzero(table.reco > 500)).sha256 == table.take(table.reco > 500).sha256


def test_an_older_table_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    table, other = with_constituents(n=20), with_constituents(n=30)
    table.save(tmp_path / "pairs")
    move = Path.rename

    def fails(self, target):
        if self.name == "table":
            assert not (tmp_path / "pairs").exists()
            raise OSError("no space")
        return move(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OutputError, match=r"cannot write the table .*pairs: no space"):
        other.save(tmp_path / "pairs")
    assert hepcal.JetPairs.open(tmp_path / "pairs").sha256 == table.sha256
    monkeypatch.setattr(Path, "rename", move)
    other.save(tmp_path / "pairs")
    assert hepcal.JetPairs.open(tmp_path / "pairs").sha256 == other.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_a_table_of_no_rows_is_not_written(tmp_path):
    with pytest.raises(PairsError, match="would have no rows"):
        with_constituents(n=20).take(np.arange(0)).save(tmp_path / "pairs")
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_table_on_disk_is_saved_as_one_in_memory(saved, lazy, tmp_path):
    table, path = saved
    rows = np.random.default_rng(5).permutation(JETS)[:300]
    table.take(rows).save(tmp_path / "memory")
    hepcal.JetPairs.open(path).take(rows).save(tmp_path / "disk")
    for name in ("table.json", *(f"{column}.npy" for column in table.columns)):
        assert filecmp.cmp(tmp_path / "memory" / name, tmp_path / "disk" / name, shallow=False)
    np.save(tmp_path / "features.npy", table.features[rows])
    assert filecmp.cmp(tmp_path / "features.npy", tmp_path / "disk" / "features.npy", shallow=False)


def test_bad_rows_anywhere_in_a_table_on_disk_are_counted(saved, lazy, tmp_path):
    table, _ = saved
    features = table.features.copy()
    features[[150, 400, 600], 1] = np.nan
    np.save(tmp_path / "features.npy", features)
    with pytest.raises(hepcal.errors.NonFiniteFeatureError, match=r"3 of 700 jets have a 'abs'.*first at jet 150"):
        check_rows(table.spec.check, open_column(tmp_path / "features.npy"), table.reco)
    with pytest.raises(hepcal.errors.NonFiniteFeatureError, match=r"3 of 700 jets have a 'abs'"):
        check_rows(table.spec.check, features, table.reco)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_training_from_disk_gives_the_calibrator_of_training_in_memory(saved, lazy, name):
    table, path = saved
    streamed = hepcal.train(hepcal.JetPairs.open(path), METHODS[name], seed=4, show=False)
    in_memory = hepcal.train(table, METHODS[name], seed=4, show=False)
    assert streamed.sha256 == in_memory.sha256
    found = streamed.predict(stored(hepcal.JetPairs.open(path).features), table.reco)
    expected = in_memory.predict(table.features, table.reco)
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.in_range, expected.in_range)
    if found.sigma_stoch is not None:
        part = slice(11, 20)
        assert np.array_equal(found.density(table.truth[:, None])[part], expected.density(table.truth[:, None])[part])


def test_methods_that_need_all_inputs_copy_them(saved, lazy):
    table, path = saved
    method = hepcal.GeneralisedInversion(hidden=(4,), max_updates=20, patience=10)
    features = table.spec.selected(("identity",))
    streamed = hepcal.train(hepcal.JetPairs.open(path).select(features), method, seed=1, show=False)
    assert streamed.sha256 == hepcal.train(table.select(features), method, seed=1, show=False).sha256


def test_an_interrupted_training_goes_on_from_disk(saved, lazy, tmp_path):
    table, path = saved
    whole = hepcal.train(table, METHODS["bnn"], seed=4, show=False, checkpoint=tmp_path / "whole")
    opened = hepcal.JetPairs.open(path)
    again = hepcal.train(opened, METHODS["bnn"], seed=4, show=False, checkpoint=tmp_path / "whole")
    assert again.sha256 == whole.sha256


def test_no_step_of_a_training_reads_more_than_a_chunk(saved, monkeypatch):
    _, path = saved
    sizes = []
    fill = StoredRows._fill

    def counted(self, parts, rows):
        sizes.append(sum(len(part) for (part,) in parts))
        fill(self, parts, rows)

    monkeypatch.setattr(on_disk, "LAZY_BYTES", 10_000)
    monkeypatch.setattr(on_disk, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr("hepcal.methods.training.trainer.JUDGED_JETS", 50)
    monkeypatch.setattr(StoredRows, "_fill", counted)
    whole = StoredRows.__array__

    def small(self, *arguments, **options):
        assert self.nbytes <= 10_000
        return whole(self, *arguments, **options)

    monkeypatch.setattr(StoredRows, "__array__", small)
    hepcal.train(hepcal.JetPairs.open(path), METHODS["bnn"], seed=4, show=False)
    assert sizes.count(METHODS["bnn"].batch * 24 * 4) >= METHODS["bnn"].max_updates
    assert max(sizes) <= 10_000


def test_streamed_inputs_have_the_bits_of_those_in_memory(saved, lazy):
    table, path = saved
    opened, cpu = hepcal.JetPairs.open(path), torch.device("cpu")
    names = ("log", *(f.transform for f in table.spec.inputs), *[MOMENTUM] * 20)
    scaling = InputScaling.fit_chunks(partial(raw_chunks, table), names, torch.ones(JETS))
    whole = network_inputs(table, scaling, cpu)
    streamed = network_inputs(opened, scaling, cpu)
    assert isinstance(streamed, StreamedInputs)
    assert len(streamed) == len(whole) == JETS
    assert torch.equal(input_tensor(opened, scaling, cpu), whole)
    raw = torch.from_numpy(np.concatenate([table.reco[None], table.features.T]))
    assert torch.equal(scaling(raw).T, whole)
    for rows in (torch.tensor([5]), torch.randperm(JETS)[:333], torch.randint(JETS, (3, 17))):
        assert torch.equal(streamed[rows], whole[rows])
    assert torch.equal(streamed.index_select(0, torch.tensor([7, 2])), whole[[7, 2]])
    with pytest.raises(ValueError, match="dimension 0"):
        streamed.index_select(1, torch.tensor([0]))


def plain_scaling(raw, names, weight):
    """Mean, scale and range of all jets at once, as they are defined."""
    momentum = torch.tensor([name == MOMENTUM for name in names])
    values, share = transform(raw, names).double(), (weight / weight.sum()).double()
    mean = torch.where(momentum, 0.0, (values * share).sum(1))
    there = torch.where(momentum, ((values != 0) * share).sum(1), 1.0)
    scale = (((values - mean[:, None]) ** 2 * share).sum(1) / there).sqrt().float()
    standardised = (transform(raw, names) - mean.float()[:, None]) / scale[:, None]
    return momentum, mean.float(), scale, standardised.amin(1), standardised.amax(1)


def test_one_chunk_is_standardised_as_before_and_many_nearly_so(saved, monkeypatch):
    table, _ = saved
    names = ("log", *(f.transform for f in table.spec.inputs), *[MOMENTUM] * 20)
    weight = torch.from_numpy(table.weight.astype(np.float32))
    raw = torch.from_numpy(np.concatenate([table.reco[None], table.features.T]))
    momentum, mean, scale, low, high = plain_scaling(raw, names, weight)
    one = InputScaling.fit_chunks(partial(raw_chunks, table), names, weight)
    for found in (one, InputScaling.fit(raw, names, weight)):
        assert torch.equal(found.mean, mean)
        assert torch.equal(found.scale, scale)
        assert torch.equal(found.low[~momentum], low[~momentum])
        assert torch.equal(found.high[~momentum], high[~momentum])
        assert (found.high[momentum] > 1e38).all()
    monkeypatch.setattr(on_disk, "CHUNK_BYTES", 9_100)
    assert len(list(raw_chunks(table))) == 8
    many = InputScaling.fit_chunks(partial(raw_chunks, table), names, weight)
    for part in ("mean", "scale", "low", "high"):
        assert torch.allclose(getattr(many, part), getattr(one, part), rtol=3e-7, atol=1e-7)


def test_a_slot_that_the_training_never_saw_occupied_is_out_of_range():
    slots = torch.tensor([[5.0, 3.0], [4.0, 0.0], [3.0, -1.0], [2.0, 0.0]]).T
    unseen = torch.zeros((2, 4))
    raw = torch.cat([torch.tensor([[90.0, 80.0, 100.0, 85.0]]), slots, unseen])
    scaling = InputScaling.fit(raw, ("log", *[MOMENTUM] * 4), torch.ones(4))
    assert scaling.inside(scaling(raw)).all()
    far = raw.clone()
    far[1:3] *= 1000
    assert scaling.inside(scaling(far)).all()
    far[3, 1], far[4, 2] = 1e-3, -1e-3
    assert scaling.inside(scaling(far)).tolist() == [True, False, False, True]


def test_multiplicities_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    event = np.arange(1001) // 2
    whole = ensemble.multiplicities(event, 5, torch.Generator().manual_seed(1))
    monkeypatch.setattr(ensemble, "EVENTS_AT_ONCE", 77)
    assert torch.equal(ensemble.multiplicities(event, 5, torch.Generator().manual_seed(1)), whole)
    assert whole.double().mean() == pytest.approx(1, abs=0.05)


def test_chunks_are_all_rows_once(lazy):
    column = np.arange(4321)
    parts = list(chunks(column))
    assert len(parts) == 4
    assert np.array_equal(np.concatenate([values for _, values in parts]), column)


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, write_delphes):
    return [write_delphes(tmp_path / f"{seed}.root", events=40 + 5 * seed, seed=seed) for seed in range(3)]


def two_sets(files):
    """Two data sets with cross sections, the second of two files."""
    return {
        "a": {"files": [str(files[0])], "metadata": {"cross_section": 3.0}},
        "b": {"files": [str(path) for path in files[1:]], "metadata": {"cross_section": 0.5}},
    }


@pytest.mark.parametrize("at_once", [1, 256 * 2**20])
def test_a_table_written_file_by_file_is_the_table_that_is_saved(files, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(writing, "GROUP_BYTES", at_once)
    table = hepcal.JetPairs.from_fileset(two_sets(files), show=False)
    table.save(tmp_path / "saved")
    written = hepcal.JetPairs.write(two_sets(files), tmp_path / "written", chunksize=17, show=False)
    assert written.sha256 == table.sha256
    assert len(set(np.round(table.weight, 12))) == 2
    for name in ("table.json", *(f"{column}.npy" for column in table.columns)):
        assert filecmp.cmp(tmp_path / "saved" / name, tmp_path / "written" / name, shallow=False)


def test_nothing_is_left_half_written(files, tmp_path, write_delphes, monkeypatch):
    monkeypatch.setattr(writing, "GROUP_BYTES", 1)
    hepcal.JetPairs.write(two_sets(files[:2]), tmp_path / "pairs", show=False)
    before = hepcal.JetPairs.open(tmp_path / "pairs").sha256
    fail_on(monkeypatch, files[2])
    with pytest.raises(IncompleteRunError, match=str(files[2])):
        hepcal.JetPairs.write(two_sets(files), tmp_path / "pairs", show=False)
    assert hepcal.JetPairs.open(tmp_path / "pairs").sha256 == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.root", "1.root", "2.root", "pairs"]
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(PairsError, match="not a training table"):
        hepcal.JetPairs.write(two_sets(files), tmp_path, show=False)


def fail_on(monkeypatch, path):
    """Let a file fail while it is read."""
    process = PairsProcessor.process

    def failing(self, events):
        if events.metadata["filename"] == str(path):
            raise RuntimeError("a damaged basket")
        return process(self, events)

    monkeypatch.setattr(PairsProcessor, "process", failing)


@pytest.mark.parametrize("at_once", [1, 256 * 2**20])
def test_files_that_fail_while_reading_are_left_out_where_that_is_allowed(files, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(writing, "GROUP_BYTES", at_once)
    fail_on(monkeypatch, files[1])
    found = hepcal.JetPairs.write(two_sets(files), tmp_path / "pairs", allow_skipped=True, show=False)
    expected = hepcal.JetPairs.from_fileset(two_sets(files), allow_skipped=True, show=False)
    assert found.sha256 == expected.sha256
    assert dict(found.source) == dict(expected.source)
    assert [path for path, _ in found.source["skipped_files"]] == [str(files[1])]
    only = {"a": {"files": [str(files[1])]}}
    with pytest.raises(IncompleteRunError, match="no file is left"):
        hepcal.JetPairs.write(only, tmp_path / "pairs", allow_skipped=True, show=False)


def test_arguments_of_a_reading_are_its_options(files):
    arguments = [field.name for field in fields(Reading) if field.init]
    assert arguments == ["fileset", "features", *ReadingOptions.__annotations__]
    with pytest.raises(TypeError, match="unexpected keyword argument 'jet'"):
        hepcal.JetPairs.from_fileset(two_sets(files), jet="FatJet")


def test_files_without_jets_make_no_table(tmp_path, write_delphes):
    empty = write_delphes(tmp_path / "empty.root", events=0)
    with pytest.raises(PairsError, match="no matched jets"):
        hepcal.JetPairs.write({"a": {"files": [str(empty)]}}, tmp_path / "pairs", show=False)
    assert not (tmp_path / "pairs").exists()
