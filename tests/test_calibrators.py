"""A calibrator as an object and as a file: determinism, closure on a toy, safety."""

import json
import pickle
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import hepcal
from hepcal.errors import CalibratorFileError, HepcalError, NonFiniteFeatureError, OutputError, TrainingError
from hepcal.events.features import Features
from hepcal.methods import cache
from hepcal.methods.card import joint_features
from hepcal.networks.inference import BLOCK
from hepcal.storage.artefact import CARD_KEY
from hepcal.storage.tensors import pack


@pytest.fixture(scope="module")
def jets(small_calibrator):
    """More than three blocks of plausible jets: features (n, d) and reco p_T [GeV]."""
    rng = np.random.default_rng(7)
    d = len(small_calibrator.card.features.names)
    n = 3 * BLOCK + 100
    return np.abs(rng.normal(1, 0.5, (n, d))).astype(np.float32), rng.uniform(100, 2000, n).astype(np.float32)


def columns(prediction):
    return np.stack([prediction.mean, prediction.sigma_stoch, prediction.sigma_pred, prediction.in_range])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 3 * BLOCK))
def test_a_jet_gets_the_same_bits_in_any_company(small_calibrator, jets, seed, size):
    features, reco = jets
    chosen = np.random.default_rng(seed).choice(len(reco), size, replace=False)
    alone = columns(small_calibrator.predict(features[chosen], reco[chosen]))
    together = columns(small_calibrator.predict(features, reco))[:, chosen]
    assert alone.tobytes() == together.tobytes()


def test_the_number_of_threads_does_not_reach_the_bits(small_calibrator, jets):
    before = torch.get_num_threads()
    try:
        found = set()
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.add(columns(small_calibrator.predict(*jets)).tobytes())
            assert torch.get_num_threads() == threads
        assert len(found) == 1
    finally:
        torch.set_num_threads(before)


def test_threads_of_one_process_do_not_disturb_each_other(small_calibrator, jets):
    expected = columns(small_calibrator.predict(*jets)).tobytes()
    found = []
    workers = [
        threading.Thread(target=lambda: found.append(columns(small_calibrator.predict(*jets)).tobytes()))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 4


def test_moments_agree_with_a_plain_float64_loop_over_the_draws(small_calibrator, jets):
    features, reco = (column[:50] for column in jets)
    prediction = small_calibrator.predict(features, reco)
    card, tensors = small_calibrator.card, small_calibrator.tensors
    raw = np.column_stack([reco, features]).astype(np.float64)
    kinds = ("log", *(f.transform for f in card.features.inputs))
    functions = {"identity": lambda v: v, "abs": np.abs, "log": np.log, "log1p": np.log1p}
    x = np.column_stack([functions[k](raw[:, i]) for i, k in enumerate(kinds)])
    x = (x - tensors["input_mean"].numpy()) / tensors["input_scale"].numpy()
    sizes = (x.shape[1], *card.settings["hidden"], 2)
    means, variances = [], []
    for draw in tensors["draws"].numpy().astype(np.float64):
        h, start = x, 0
        for layer, (fan_in, out) in enumerate(pairwise(sizes)):
            block = draw[start : start + out * (fan_in + 1)].reshape(out, fan_in + 1)
            h = h @ block[:, :-1].T + block[:, -1]
            start += out * (fan_in + 1)
            h = np.maximum(h, 0) if layer < len(sizes) - 2 else h
        means.append((card.target_location + card.target_scale * h[:, 0]) * reco)
        variances.append(((np.logaddexp(0, h[:, 1]) + 1e-3) * card.target_scale * reco) ** 2)
    tolerance = 1e-5 * prediction.sigma_tot
    assert np.all(np.abs(prediction.mean - np.mean(means, axis=0)) < tolerance)
    assert np.all(np.abs(prediction.sigma_stoch - np.sqrt(np.mean(variances, axis=0))) < tolerance)
    assert np.all(np.abs(prediction.sigma_pred - np.std(means, axis=0, ddof=1)) < tolerance)
    assert np.allclose(prediction.replicas(), means, rtol=1e-5)


def before_rounding(calibrator, features, reco):
    """Columns of jets as they are computed, before pt_calib is rounded to float32."""
    raw = torch.from_numpy(np.ascontiguousarray(np.column_stack([reco, features]).T))
    return calibrator._evaluate(calibrator.inputs(raw), reco.astype(np.float64), replicas=False)


def agree(found, expected, sigma_tot):
    for name in ("pt_calib", "pt_calib_sigma_stoch", "pt_calib_sigma_pred"):
        assert np.all(np.abs(found[name] - expected[name].astype(np.float64)) < 1e-5 * sigma_tot), name


def test_float32_networks_agree_with_float64_to_1e5_of_sigma_tot(small_calibrator, jets, monkeypatch):
    """What the hardware of the training or of a worker can change is how float32 rounds."""
    found = before_rounding(small_calibrator, *jets)
    layers = small_calibrator._layout.split(small_calibrator.tensors["draws"].double())

    def exact(inputs):
        x = inputs.double().expand(small_calibrator.replicas, -1, -1)
        for number, (weight, bias) in enumerate(layers):
            x = torch.bmm(weight, torch.relu(x) if number else x) + (0 if bias is None else bias[:, :, None])
        return x

    monkeypatch.setattr(small_calibrator, "_networks", exact)
    agree(found, before_rounding(small_calibrator, *jets), found["pt_calib_sigma_tot"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_to_1e5_of_sigma_tot(small_calibrator, jets):
    there = small_calibrator.to("cuda")
    found, expected = before_rounding(there, *jets), before_rounding(small_calibrator, *jets)
    agree(found, expected, expected["pt_calib_sigma_tot"])
    # A float32 p_T of more than 84 sigma_tot has steps of more than 1e-5 of sigma_tot: the column may differ by one.
    here, there = small_calibrator.predict(*jets).mean, there.predict(*jets).mean
    assert np.all(np.abs(there.astype(np.float64) - here) < 1e-5 * expected["pt_calib_sigma_tot"] + np.spacing(here))


def test_a_saved_calibrator_gives_the_same_bits(small_calibrator, jets, tmp_path):
    small_calibrator.save(tmp_path / "jets.safetensors")
    loaded = hepcal.Calibrator.load(tmp_path / "jets.safetensors")
    assert loaded.sha256 == small_calibrator.sha256
    assert loaded.card == small_calibrator.card
    assert columns(loaded.predict(*jets)).tobytes() == columns(small_calibrator.predict(*jets)).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["jets.safetensors"]


def test_unpickling_builds_a_calibrator_once_per_process(small_calibrator):
    text = pickle.dumps(small_calibrator)
    first = pickle.loads(text)  # noqa: S301
    before = cache.loads()
    assert all(pickle.loads(text) is first for _ in range(5))  # noqa: S301
    assert cache.loads() == before


def test_a_changed_byte_on_the_way_is_noticed(small_calibrator, monkeypatch):
    build, (content, *others) = small_calibrator.__reduce__()
    monkeypatch.setattr(cache, "_calibrators", {})
    with pytest.raises(CalibratorFileError, match="does not match its hash"):
        build(content[:-1] + bytes([content[-1] ^ 1]), *others)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"not a calibrator at all", "damaged"),
        (pickle.dumps({"weights": [1, 2]}), "damaged"),
        (save({"a": torch.zeros(2)}), "not one of hepcal"),
        (save({"a": torch.zeros(2)}, metadata={"hepcal_card": '{"version": 2}'}), "card is not valid"),
    ],
)
def test_foreign_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CalibratorFileError, match=message):
        hepcal.Calibrator.load(tmp_path / "x.safetensors")


def test_truncated_missing_and_unknown_calibrators_are_refused(small_calibrator, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(small_calibrator.content[:-10])
    with pytest.raises(CalibratorFileError, match=r"x\.safetensors is damaged"):
        hepcal.Calibrator.load(path)
    with pytest.raises(CalibratorFileError, match="cannot read the calibrator"):
        hepcal.Calibrator.load(tmp_path / "absent.safetensors")
    card = json.loads(small_calibrator.card.model_dump_json()) | {"method": "magic"}
    path.write_bytes(pack(CARD_KEY, json.dumps(card), small_calibrator.tensors))
    with pytest.raises(CalibratorFileError, match=r"unknown method .*'magic'"):
        hepcal.Calibrator.load(path)
    tensors = {name: t for name, t in small_calibrator.tensors.items() if name != "draws"}
    path.write_bytes(pack(CARD_KEY, small_calibrator.card.model_dump_json(), tensors))
    with pytest.raises(CalibratorFileError, match="draws"):
        hepcal.Calibrator.load(path)


def test_predict_refuses_what_does_not_fit(small_calibrator, jets):
    features, reco = jets
    with pytest.raises(ValueError, match=r"expected features of shape \(n, 8\)"):
        small_calibrator.predict(features[:, :3], reco)
    broken = features.copy()
    broken[5, 0] = np.nan
    with pytest.raises(NonFiniteFeatureError, match=r"'eta'.*first at jet 5"):
        small_calibrator.predict(broken, reco)
    assert len(small_calibrator.predict(features[:0], reco[:0])) == 0


def test_a_calibrator_without_inputs_says_none():
    values = np.linspace(100, 200, 100)
    pairs = hepcal.JetPairs.from_arrays(np.empty((100, 0)), [], reco=values, truth=values)
    calibrator = hepcal.train(pairs, hepcal.OptimalTransport(), data=values, show=False)
    with pytest.raises(ValueError, match=r"shape \(n, 0\) for none and reco"):
        calibrator.predict(np.ones((3, 1)), np.ones(3))


def card_with(calibrator, *inputs, pt="pt"):
    return calibrator.card.model_copy(update={"features": Features(inputs=inputs, pt=pt)})


def test_joint_features_keep_the_order_of_every_calibrator(small_calibrator):
    cards = {
        "one": card_with(small_calibrator),
        "two": card_with(small_calibrator, "mass", "area"),
        "three": card_with(small_calibrator, "eta", "mass"),
    }
    joint = joint_features(cards)
    assert joint.pt == "pt"
    assert joint.names == ("eta", "mass", "area")
    assert all(joint.selected(card.features.names) == card.features for card in cards.values())
    assert joint_features({"one": cards["one"]}) == Features(pt="pt")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"inputs": ("eta", "mass"), "pt": "raw"}, "a from 'pt', b from 'raw'"),
        ({"inputs": ("mass", "eta")}, "a: eta, mass; b: mass, eta"),
        ({"inputs": ({"name": "eta", "transform": "abs"},)}, "'eta' with the transform 'identity', .* 'abs'"),
    ],
)
def test_inputs_that_no_table_can_serve_are_refused(small_calibrator, other, message):
    cards = {
        "a": card_with(small_calibrator, "eta", "mass"),
        "b": card_with(small_calibrator, *other["inputs"], pt=other.get("pt", "pt")),
    }
    with pytest.raises(TrainingError, match=message):
        joint_features(cards)


def test_units_change_every_sigma_by_exactly_the_factor(small_calibrator, jets):
    """y is dimensionless: p_T in TeV only shifts ln p_T, which the standardisation of a new training removes."""
    features, reco = jets
    base = small_calibrator.predict(features, reco)
    tensors = dict(small_calibrator.tensors)
    shift = torch.zeros_like(tensors["input_mean"])
    shift[0] = np.log(0.25)
    for name in ("input_mean",):
        tensors[name] = tensors[name] + shift
    scaled = type(small_calibrator)(small_calibrator.card, tensors).predict(features, reco * np.float32(0.25))
    for name in ("mean", "sigma_stoch", "sigma_pred"):
        assert np.allclose(4 * getattr(scaled, name), getattr(base, name), rtol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"hidden": (16, 16)}}, "draws"),
        ({"settings": {"hidden": (64, 64)}}, "draws"),
        ({"target_scale": 0.0}, "target scale"),
        ({"tensors": {"input_scale": torch.zeros(9)}}, "not positive"),
        ({"tensors": {"input_mean": torch.zeros(3)}}, "input_mean"),
        ({"tensors": {"input_low": torch.zeros(9, dtype=torch.float64)}}, "float64"),
        ({"tensors": {"draws": "nan"}}, "not finite"),
    ],
)
def test_a_card_that_does_not_fit_its_tensors_is_refused(small_calibrator, tmp_path, change, message):
    card = json.loads(small_calibrator.card.model_dump_json())
    tensors = dict(small_calibrator.tensors)
    for name, tensor in change.get("tensors", {}).items():
        tensors[name] = torch.full_like(tensors[name], float("nan")) if isinstance(tensor, str) else tensor
    card["settings"] |= change.get("settings", {})
    card |= {name: value for name, value in change.items() if name not in ("tensors", "settings")}
    (tmp_path / "x.safetensors").write_bytes(pack(CARD_KEY, json.dumps(card), tensors))
    with pytest.raises(CalibratorFileError, match=message):
        hepcal.Calibrator.load(tmp_path / "x.safetensors")


def test_tensors_cannot_be_changed_behind_the_hash(small_calibrator):
    with pytest.raises(TypeError):
        small_calibrator.tensors["draws"] = torch.zeros(1)


# -- inference by moments ---------------------------------------------------------------------------------------------


def test_moments_are_opt_in_and_travel_with_the_calibrator(small_calibrator, jets):
    moments = small_calibrator.with_inference("moments")
    by_draws, by_moments = (c.predict(*jets) for c in (small_calibrator, moments))
    # How well they agree is tested in test_inference, on real jets; these are not.
    assert not np.array_equal(by_moments.mean, by_draws.mean)
    # Another process, or dask: the same inference. The file knows nothing of it.
    again = pickle.loads(pickle.dumps(moments))  # noqa: S301 - our own bytes
    assert again.inference == "moments"
    assert again.predict(*jets).mean.tobytes() == by_moments.mean.tobytes()
    assert moments.sha256 == small_calibrator.sha256
    assert moments.to("cpu").inference == "moments"
    # Densities and replicas are those of the draws.
    assert np.array_equal(by_moments.replicas(), by_draws.replicas())


def test_unknown_inference_is_refused(small_calibrator):
    with pytest.raises(HepcalError, match="no inference 'moment'; there are draws, moments"):
        small_calibrator.with_inference("moment")


def test_moments_are_refused_where_there_are_none():
    rng = np.random.default_rng(1)
    pairs = hepcal.JetPairs.from_arrays(
        rng.normal(size=(100, 1)), ["x"], reco=rng.uniform(100, 200, 100), truth=rng.uniform(100, 200, 100)
    )
    quick = {"hidden": (4,), "max_updates": 10, "patience": 10}
    methods = (
        hepcal.BNN(**quick, head="tails", draws=2),
        hepcal.Ensemble(**quick, n=2),
        hepcal.MSE(**quick),
        hepcal.NumericalInversion(n=3, form="polynomial", degree=1),
        hepcal.OptimalTransport(),
    )
    for method in methods:
        data = {"data": pairs.truth} if method.needs_data else {}
        calibrator = hepcal.train(pairs, method, show=False, **data)
        with pytest.raises(HepcalError, match="a Bayesian network with a Gaussian likelihood: use draws"):
            calibrator.with_inference("moments")
        assert calibrator.with_inference("draws").sha256 == calibrator.sha256


def test_files_of_another_version_are_refused(small_calibrator, tmp_path):
    card = json.loads(small_calibrator.card.model_dump_json()) | {"version": 1}
    path = tmp_path / "old.safetensors"
    path.write_bytes(pack(CARD_KEY, json.dumps(card), small_calibrator.tensors))
    with pytest.raises(CalibratorFileError, match=r"of version 1; this hepcal reads version 2\. Train it again"):
        hepcal.Calibrator.load(path)


def test_saving_replaces_a_calibrator_and_nothing_else(tiny_calibrator, tmp_path):
    calibrator = tiny_calibrator("mse")
    for name, content in {
        "README.md": b"# mine",
        "table.json": b'{"jets": 3}',
        "other.safetensors": b"x" * 600,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OutputError, match=f"{name} is another file, which would be replaced"):
            calibrator.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    for _ in range(2):
        calibrator.save(tmp_path / "mine.safetensors")
    tiny_calibrator("bnn").save(tmp_path / "mine.safetensors")
    assert hepcal.Calibrator.load(tmp_path / "mine.safetensors").card.method == "bnn"
