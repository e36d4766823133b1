"""Cross-fitting: every jet is tested once, by a training that has not seen its event."""

from __future__ import annotations

import numpy as np
import pytest

import hepcal
from hepcal.errors import TrainingError
from hepcal.evaluation.cross_fit import cross_fit, folds_of

METHOD = hepcal.NumericalInversion()


def toy(n: int = 600, seed: int = 0) -> hepcal.JetPairs:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(100, 200, n)
    reco = truth * rng.normal(0.9, 0.1, n).clip(0.5)
    return hepcal.JetPairs.from_arrays(np.empty((n, 0)), [], reco=reco, truth=truth, event=np.arange(n) // 2)


def seen(calibrator: hepcal.Calibrator, pairs: hepcal.JetPairs) -> dict[str, np.ndarray]:
    jets = calibrator.card.source.jets + calibrator.card.source.validation_jets
    return {
        "event": np.asarray(pairs.event),
        "trained_on": np.full(len(pairs), jets),
        "seed": np.full(len(pairs), calibrator.card.source.seed),
    }


def test_jets_of_an_event_share_a_fold_whatever_their_order():
    pairs = toy()
    fold = folds_of(pairs, 5, seed=3)
    assert np.array_equal(fold[::2], fold[1::2])
    assert np.bincount(fold).tolist() == [120] * 5
    order = np.random.default_rng(1).permutation(len(pairs))
    assert np.array_equal(folds_of(pairs.take(order), 5, seed=3), fold[order])
    assert not np.array_equal(folds_of(pairs, 5, seed=4), fold)


def test_every_jet_is_read_by_the_training_of_the_other_folds():
    pairs = toy()
    found = cross_fit(pairs, METHOD, folds=5, seed=3, read=seen, show=False)
    assert np.array_equal(found["event"], pairs.event)
    assert np.array_equal(found["fold"], folds_of(pairs, 5, seed=3))
    assert set(found["trained_on"]) == {480}
    assert np.array_equal(found["seed"], 3 + found["fold"])


def test_columns_are_those_of_a_training_by_hand():
    pairs = toy()
    found = cross_fit(pairs, METHOD, folds=4, seed=1, show=False)
    rows = np.flatnonzero(found["fold"] == 2)
    by_hand = hepcal.train(pairs.take(np.flatnonzero(found["fold"] != 2)), METHOD, seed=3, show=False)
    prediction = by_hand.predict(pairs.features[rows], pairs.reco[rows])
    assert np.array_equal(found["pt_calib"][rows], prediction.mean)
    assert np.array_equal(found["pt_calib_in_range"][rows], prediction.in_range)


def test_only_some_folds_leave_the_others_empty():
    found = cross_fit(toy(), METHOD, folds=5, only=(1,), show=False)
    assert np.array_equal(np.isfinite(found["pt_calib"]), found["fold"] == 1)


def test_a_part_of_the_training_table():
    found = cross_fit(toy(), METHOD, folds=5, read=seen, train_on=lambda table, k: table.take(np.arange(100 + 2 * k)),
                      show=False)  # fmt: skip
    assert np.array_equal(found["trained_on"], 100 + 2 * found["fold"])


def test_stored_trainings_are_not_repeated(tmp_path, monkeypatch):
    pairs = toy()
    first = cross_fit(pairs, METHOD, folds=3, store=tmp_path, only=(0, 1), show=False)
    assert len(list(tmp_path.iterdir())) == 2
    trained = []
    train = hepcal.evaluation.cross_fit.train

    def counted(*args, **kwargs):
        trained.append(kwargs["seed"])
        return train(*args, **kwargs)

    monkeypatch.setattr("hepcal.evaluation.cross_fit.train", counted)
    second = cross_fit(pairs, METHOD, folds=3, store=tmp_path, show=False)
    assert trained == [2]
    done = first["fold"] != 2
    assert np.array_equal(first["pt_calib"][done], second["pt_calib"][done])
    assert np.isfinite(second["pt_calib"]).all()
    cross_fit(pairs, hepcal.NumericalInversion(validation=0.2), folds=3, store=tmp_path, only=(0,), show=False)
    assert trained == [2, 0]


def test_a_damaged_store_is_refused(tmp_path):
    cross_fit(toy(), METHOD, folds=3, store=tmp_path, only=(0,), show=False)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=f"{path.name} is not a stored training"):
        cross_fit(toy(), METHOD, folds=3, store=tmp_path, only=(0,), show=False)


def test_impossible_folds_are_refused():
    with pytest.raises(TrainingError, match="300 events cannot be cut into 1 folds"):
        folds_of(toy(), 1)
    with pytest.raises(TrainingError, match="300 events cannot be cut into 301 folds"):
        folds_of(toy(), 301)


def test_columns_without_a_name_to_store_by_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"columns of .*<lambda> cannot be stored"):
        cross_fit(toy(), METHOD, folds=3, store=tmp_path, read=lambda calibrator, pairs: {}, show=False)


def with_fold(calibrator: hepcal.Calibrator, pairs: hepcal.JetPairs) -> dict[str, np.ndarray]:
    return {"fold": np.zeros(len(pairs))}


def test_a_column_called_fold_is_refused():
    with pytest.raises(TrainingError, match="called 'fold'"):
        cross_fit(toy(), METHOD, folds=3, read=with_fold, show=False)


def test_the_key_belongs_to_what_is_stored(tmp_path):
    for key in (None, 1, [1, 2]):
        cross_fit(toy(), METHOD, folds=3, store=tmp_path, key=key, only=(0,), show=False)
    assert len(list(tmp_path.iterdir())) == 3


def test_noisy_labels_keep_the_sign_of_sigma_cal():
    method = hepcal.NoisyLabels(
        method=hepcal.Heteroscedastic(hidden=(8,), max_updates=40, batch=50, patience=40), fraction=0.05
    )
    found = cross_fit(toy(), method, folds=2, show=False)
    squared, sigma = found["sigma_cal_squared"], found["pt_calib_sigma_cal"]
    assert np.array_equal(np.isnan(sigma), squared < 0)
    assert np.allclose(sigma[squared >= 0] ** 2, squared[squared >= 0], rtol=1e-5)
