"""Calibrators, tables and results that an earlier version wrote load, and say what they said then."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

import hepcal
from hepcal.closure.report import closure_tables

OLD = Path(__file__).parent / "data" / "files_8c113b2.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD) as archive:
        archive.extractall(directory, filter="data")
    return directory


def names() -> list[str]:
    """Methods that there were."""
    with tarfile.open(OLD) as archive:
        found = {Path(member).stem for member in archive.getnames() if member.endswith(".safetensors")}
    return sorted(found & TINY.keys())


@pytest.mark.parametrize("name", names())
def test_a_calibrator_of_every_method_says_what_it_said(name: str, old: Path) -> None:
    calibrator = hepcal.Calibrator.load(old / f"{name}.safetensors")
    prediction = calibrator.predict(hepcal.JetPairs.open(old / "table"))[:50]
    then = np.load(old / "predictions.npz")
    mean, sigma_tot = then[f"{name}_mean"], then.get(f"{name}_sigma_tot")
    # To the last bit on the processor that wrote them; others round float32 in another way.
    one_step = np.spacing(mean)
    assert np.all(np.abs(prediction.mean - mean) <= one_step + (0 if sigma_tot is None else 1e-5 * sigma_tot))
    assert (prediction.sigma_tot is None) == (sigma_tot is None)
    if sigma_tot is not None:
        np.testing.assert_allclose(prediction.sigma_tot, sigma_tot, rtol=1e-5)


def test_a_table_has_the_hash_that_it_had(old: Path) -> None:
    pairs = hepcal.JetPairs.open(old / "table")
    assert (pairs.sha256, len(pairs)) == (str(np.load(old / "predictions.npz")["sha256"]), 500)


def test_a_result_shows_its_closure(old: Path) -> None:
    summary, hists = (load(old / "results") for load in (hepcal.closure.load_summary, hepcal.closure.load_hists))
    assert summary["calibrator"]["sha256"] == hepcal.Calibrator.load(old / "delphes.safetensors").sha256
    figures = hepcal.closure.closure(hists, "pt", "calib")
    told = summary["samples"]["qcd"]["pt"]["calib"]
    for name in ("bias", "resolution"):
        kept = np.array([np.nan if value is None else value for value in told[name]], dtype=float)
        np.testing.assert_allclose(getattr(figures, name), kept, rtol=1e-9)
    assert len(list(closure_tables(summary))) >= 1
