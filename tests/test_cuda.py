"""Every method on a CUDA device, where there is one: predictions and trainings agree with those of the CPU."""

import numpy as np
import pytest
import torch
from conftest import TINY

import hepcal

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def columns(prediction):
    sigmas = (getattr(prediction, f"sigma_{kind}") for kind in ("stoch", "pred", "cal"))
    return [prediction.mean, *(sigma for sigma in sigmas if sigma is not None)]


def total(prediction):
    """sigma_tot [GeV]; a twentieth of p_T for methods without uncertainties."""
    return 0.05 * np.abs(prediction.mean) if prediction.sigma_tot is None else prediction.sigma_tot


def agree(found, expected, tolerance):
    """Columns to a part of sigma_tot; a float32 has steps of its own."""
    for there, here in zip(columns(found), columns(expected), strict=True):
        missing = np.isnan(here)
        assert np.array_equal(np.isnan(there), missing)
        away = np.abs(there.astype(np.float64) - here)[~missing]
        assert np.all(away <= (tolerance * total(expected) + np.spacing(np.abs(here)))[~missing])


@pytest.mark.parametrize("name", TINY)
def test_predictions_agree_to_1e5_of_sigma_tot(name, tiny_calibrator, tiny_pairs):
    here = tiny_calibrator(name)
    there = here.to("cuda")
    found, expected = there.predict(tiny_pairs), here.predict(tiny_pairs)
    agree(found, expected, 1e-5)
    if here.replicas:
        away = np.abs(found.replicas().astype(np.float64) - expected.replicas())
        assert np.all(away <= 1e-5 * total(expected) + np.spacing(np.abs(expected.replicas())))


@pytest.mark.parametrize("name", [name for name in TINY if name != "transport"])
def test_a_training_agrees_with_that_of_the_cpu(name, tiny_calibrator, tiny_pairs):
    """Random numbers are those of the CPU; what thirty updates make of another rounding is small."""
    there = hepcal.train(tiny_pairs, TINY[name], seed=3, show=False, device="cuda")
    agree(there.predict(tiny_pairs), tiny_calibrator(name).predict(tiny_pairs), 1e-2)


@pytest.mark.parametrize("name", ["bnn", "hessian", "hessian_tails"])
def test_a_jet_has_the_same_bits_in_any_company(name, tiny_calibrator, tiny_pairs):
    there = tiny_calibrator(name).to("cuda")
    whole, part = there.predict(tiny_pairs), there.predict(tiny_pairs.take(np.arange(100, 137)))
    for all_jets, some in zip(columns(whole), columns(part), strict=True):
        assert np.array_equal(all_jets[100:137], some)
