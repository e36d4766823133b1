"""The Gaussian Ansatz against closed forms: its loss, its start, its training, its calibrator."""

import math

import numpy as np
import pydantic
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

import hepcal
from hepcal.errors import CalibratorFileError, TrainingError
from hepcal.methods.ansatz import descent as ansatz_descent
from hepcal.methods.ansatz.calibrator import GaussianAnsatz
from hepcal.methods.ansatz.descent import Events, maximum_checks
from hepcal.methods.ansatz.learning import fit_ansatz
from hepcal.methods.ansatz.network import (
    AnsatzLayout,
    AnsatzNetworks,
    Pairing,
    dvr_loss,
    dvr_loss_in_blocks,
    dvr_value,
    grid_maximum,
)
from hepcal.methods.ansatz.start import inversion, starting_point

SIGMA, EPSILON = 1.0, 2.0
INFORMATION = 0.5 * math.log(1 + SIGMA**2 / EPSILON**2)
QUICK = GaussianAnsatz(hidden=(8, 8), networks="affine", batch=500, epochs=3, iterations=40)


def random_numbers(seed):
    return torch.Generator().manual_seed(seed)


class ExactT:
    """T of the Gaussian example (bias-and-priors, section 3.2), with the parameters that a training would have."""

    def __init__(self):
        exact = [0.5 / (SIGMA**2 + EPSILON**2), 0.0, 1.0, 0.0, -(EPSILON**-2), 0.0, 0.0]
        self.flat = torch.tensor(exact, dtype=torch.float64, requires_grad=True)

    def __call__(self, x, z):
        a2, a1, b1, b0, c0, cx, cz = self.flat
        x = x[:, 0]
        a, b, c = a2 * x**2 + a1 * x, b1 * x + b0, c0 + cx * x + cz * z
        return a + 0.5 * (z - b) ** 2 * c


def quadrature(nodes=22):
    """Weighted events (x, z) that integrate the Gaussian example exactly; all weights are positive."""
    points, weights = hermegauss(nodes)
    z, noise = np.meshgrid(SIGMA * points, EPSILON * points, indexing="ij")
    weight = np.outer(weights, weights) / weights.sum() ** 2
    parts = (torch.from_numpy(part.ravel()) for part in (z + noise, z, weight))
    x, z, weight = parts
    return x[:, None], z, weight


def all_pairs(weight):
    """The product of the marginals with nothing left out."""
    n = len(weight)
    return Pairing.of(torch.stack([torch.arange(n).roll(k) for k in range(1, n)]), weight)


def gaussian_events(n, seed):
    rng = np.random.default_rng(seed)
    z = SIGMA * rng.normal(size=n)
    return z + EPSILON * rng.normal(size=n), z


def moved_networks(layout, seed=1, dtype=torch.float64):
    """Networks with parameters that are nowhere special."""
    generator = random_numbers(seed)
    flat = layout.start(generator) + 0.3 * torch.randn(layout.count, generator=generator)
    return AnsatzNetworks(layout, flat.to(dtype).requires_grad_())


# -- loss -----------------------------------------------------------------------------------------------------------


def test_the_exact_solution_has_minus_the_mutual_information_as_loss_and_is_stationary():
    exact = ExactT()
    x, z, weight = quadrature()
    loss = dvr_loss(exact, x, z, weight, all_pairs(weight))
    loss.backward()
    assert loss.item() == pytest.approx(-INFORMATION, abs=1e-6)
    assert exact.flat.grad.abs().max() < 1e-5
    # Not because the loss is flat: the slope that a regression finds costs a quarter of the information.
    with torch.no_grad():
        exact.flat[2] = 0.2
    assert dvr_loss(exact, x, z, weight, all_pairs(weight)).item() > -0.9 * INFORMATION


def test_the_value_of_the_exact_solution_on_events_has_the_error_that_it_says():
    found = []
    for seed in range(30):
        x, z = (torch.from_numpy(part) for part in gaussian_events(4000, seed))
        weight = torch.ones(4000)
        found.append(dvr_value(ExactT(), x[:, None], z, weight, Pairing.draw(z, weight, 16, random_numbers(seed))))
    values, errors = np.array([f.value for f in found]), np.array([f.unc for f in found])
    assert values.mean() == pytest.approx(INFORMATION, abs=4 * values.std() / math.sqrt(30))
    # The error of a spread from 30 samples is 13 %.
    assert errors.mean() == pytest.approx(values.std(), rel=0.35)


def test_the_error_of_a_difference_is_that_of_paired_events():
    x, z = (torch.from_numpy(part) for part in gaussian_events(4000, 1))
    weight, other = torch.ones(4000), ExactT()
    pairing = Pairing.draw(z, weight, 16, random_numbers(1))
    with torch.no_grad():
        other.flat[2] = 0.95
    values = [dvr_value(t, x[:, None], z, weight, pairing) for t in (ExactT(), other)]
    assert values[0].unc_of_difference(values[0]) == 0
    assert 0 < values[0].unc_of_difference(values[1]) < 0.2 * values[0].unc


@pytest.mark.parametrize("negative", [False, True])
def test_a_constant_in_t_changes_nothing(negative):
    layout = AnsatzLayout(2, (6, 5))
    networks = moved_networks(layout)
    generator = random_numbers(3)
    x, z = torch.randn((60, 2), generator=generator).double(), torch.randn(60, generator=generator).double()
    weight = torch.rand(60, generator=generator).double()
    if negative:
        weight[::9] *= -1
    pairing = Pairing.draw(z, weight, 4, generator)
    before = dvr_loss(networks, x, z, weight, pairing)
    with torch.no_grad():
        a = layout.split(networks.flat)["a"]
        a[-1] += 700
    assert dvr_loss(networks.renewed(), x, z, weight, pairing).item() == pytest.approx(before.item(), abs=1e-9)


def test_an_event_given_twice_is_an_event_of_weight_two():
    networks = moved_networks(AnsatzLayout(1, (6, 5)))
    x, z = torch.linspace(-1, 2, 12).double()[:, None], torch.linspace(-1, 1, 12).double().square()
    weight = torch.ones(12).double()
    weight[3], weight[7] = 2, 2
    twice = torch.cat([torch.arange(12), torch.tensor([3, 7])])
    weighted = dvr_loss(networks, x, z, weight, all_pairs(weight))
    repeated = dvr_loss(networks, x[twice], z[twice], weight[twice] ** 0, all_pairs(torch.ones(14).double()))
    assert weighted.item() == pytest.approx(repeated.item(), abs=1e-12)


@pytest.mark.parametrize("negative", [False, True])
def test_drawn_pairs_stand_for_all_of_them(negative):
    """The mean over draws of sum w_i w_j e^T, against the sum over all pairs."""
    generator = random_numbers(5)
    z = torch.randn(90, generator=generator).double().exp()
    x = (z + 0.3 * torch.randn(90, generator=generator))[:, None]
    weight = 0.2 + torch.rand(90, generator=generator).double()
    if negative:
        weight[::7] *= -0.5
    exact = weight[:, None] * weight[None] * (-((x - z[None]) ** 2)).exp()
    found = []
    for _ in range(400):
        pairing = Pairing.draw(z, weight, 8, generator)
        t = -((x[:, 0] - z[pairing.partner]) ** 2)
        # Normalised by its own sum of weights, whose mean is that of all pairs, too.
        found.append(float(pairing.log_mean(t).exp()))
    share = exact.sum() / (weight[:, None] * weight[None]).sum()
    assert np.mean(found) == pytest.approx(float(share), abs=5 * np.std(found) / 20 + 1e-3 * float(share))
    assert np.std(found) < 0.1 * float(share)


def test_every_event_meets_its_own_truth_and_one_of_each_cell():
    z = torch.cat([torch.linspace(0, 1, 95), torch.tensor([5.0, 7.0, 7.5, 9.0, 10.0])])
    pairing = Pairing.draw(z, torch.ones(100), 6, random_numbers(1))
    assert torch.equal(pairing.partner[0], torch.arange(100))
    rows = z[pairing.partner[1:]]
    assert bool((rows[:-1].amax(1) <= rows[1:].amin(1)).all())
    assert pairing.log_weight.exp().sum().item() == pytest.approx(1)
    # Events of one cell are used equally often.
    counts = torch.bincount(pairing.partner[-1], minlength=100)
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 1


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("layout", [AnsatzLayout(2, (6, 5)), AnsatzLayout(2, (6,), affine=True, constrained=False)])
def test_blocks_give_the_loss_and_the_gradient(layout, negative, monkeypatch):
    monkeypatch.setattr("hepcal.methods.ansatz.network.PAIRS", 60)
    networks = moved_networks(layout)
    generator = random_numbers(7)
    x, z = torch.randn((50, 2), generator=generator).double(), torch.randn(50, generator=generator).double()
    weight = torch.rand(50, generator=generator).double()
    weight[4] *= -0.3 if negative else 1
    pairing = Pairing.draw(z, weight, 5, generator)
    loss = dvr_loss(networks, x, z, weight, pairing)
    (gradient,) = torch.autograd.grad(loss, networks.flat)
    assert dvr_loss_in_blocks(networks.renewed(), x, z, weight, pairing).item() == pytest.approx(loss.item())
    torch.testing.assert_close(networks.flat.grad, gradient)
    assert -dvr_value(networks, x, z, weight, pairing).value == pytest.approx(loss.item())


# -- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [False, True])
def test_t_is_the_ansatz(affine):
    layout = AnsatzLayout(2, (6, 5), affine=affine)
    networks = moved_networks(layout)
    generator = random_numbers(2)
    x, z = torch.randn((9, 2), generator=generator).double(), torch.randn((4, 9), generator=generator).double()
    parts = layout.split(networks.flat)

    def value(name, inputs):
        return layout.parts[name].forward(parts[name], inputs)[:, 0]

    for k in range(4):
        both = torch.cat([x, z[k][:, None]], 1)
        b = value("b_line", x) + (0 if affine else value("b_bend", x))
        c = -torch.nn.functional.softplus(value("c_line", both) + (0 if affine else value("c_bend", both)))
        expected = value("a", x) + 0.5 * (z[k] - b) ** 2 * c
        torch.testing.assert_close(networks(x, z)[k], expected)
        torch.testing.assert_close(networks(x, z[k]), expected)
    assert layout.count == sum(len(part) for part in parts.values())
    with pytest.raises(ValueError, match="expected"):
        AnsatzNetworks(layout, networks.flat[1:])


def test_b_is_the_maximum_of_t_where_the_curvature_is_negative():
    layout = AnsatzLayout(1, (8, 8))
    networks = moved_networks(layout, dtype=torch.float64)
    x = torch.linspace(-2, 2, 300).double()[:, None]
    b = networks.b(x).detach()
    low, high = float(b.min()) - 1, float(b.max()) + 1
    assert (grid_maximum(networks, x, low, high) - b).abs().max() < (high - low) / 255**2


def test_a_curvature_that_is_not_negative_is_counted():
    layout = AnsatzLayout(1, (8,), affine=True, constrained=False)
    flat = torch.zeros(layout.count)
    layout.split(flat)["b_line"][0] = 2.0
    layout.split(flat)["c_line"][:] = torch.tensor([-1.0, 0.0, 0.0])
    x, z = torch.linspace(-1, 1, 200)[:, None], torch.linspace(-1, 1, 200)
    events = Events(x, z, torch.ones(200))
    found = maximum_checks(AnsatzNetworks(layout, flat), events, events)
    # B = 2 x leaves the truth range (-1, 1) for half of the events; C = -x is negative for x > 0.
    assert found["outside_truth"] == pytest.approx(0.5)
    assert found["curvature_not_negative"] == pytest.approx(0.5)
    assert found["beside_maximum"] == pytest.approx(0.5, abs=0.02)


# -- start ----------------------------------------------------------------------------------------------------------


def test_numerical_inversion_of_a_curved_response():
    rng = np.random.default_rng(1)
    z = rng.uniform(0, 2, 20_000)
    weight = np.where(rng.random(20_000) < 0.1, -0.5, 1.0)
    response = z + 0.2 * z**2
    inverse, curvature = inversion(response + 0.1 * np.exp(0.3 * z) * rng.normal(size=20_000), z, weight)
    probe = np.linspace(0.1, 1.9, 10)
    np.testing.assert_allclose(inverse(probe + 0.2 * probe**2), probe, atol=0.01)
    np.testing.assert_allclose(curvature(probe), -(((1 + 0.4 * probe) / 0.1 / np.exp(0.3 * probe)) ** 2), rtol=0.1)
    # Outside the range it goes on straight.
    assert inverse(np.array([4.0]))[0] == pytest.approx(2 + (4.0 - 2.8) / 1.8, abs=0.02)


def test_a_start_needs_a_response_that_grows():
    z = np.linspace(0, 1, 1000)
    with pytest.raises(TrainingError, match="does not grow"):
        inversion(-z, z, np.ones(1000))


@pytest.mark.parametrize("networks", ["affine", "dense"])
def test_the_start_is_numerical_inversion_and_its_a_is_the_normaliser(networks):
    x, z = gaussian_events(20_000, 3)
    x, z = (x - x.mean()) / x.std(), (z - z.mean()) / z.std()
    method = GaussianAnsatz(hidden=(16, 16), networks=networks)
    layout = method.layout(1)
    flat = starting_point(layout, "inversion", x[:, None], z, np.ones(len(z)), random_numbers(1))
    found, rho = AnsatzNetworks(layout, flat), 1 / math.sqrt(5)
    probe = torch.linspace(-2, 2, 9).double()[:, None]
    np.testing.assert_allclose(found.b(probe).numpy(), probe[:, 0].numpy() / rho, atol=0.2)
    np.testing.assert_allclose(found.c(probe, torch.zeros(9).double()).numpy(), -(rho**2) / (1 - rho**2), rtol=0.1)
    a = found.a(probe).numpy()
    np.testing.assert_allclose(a - a[4], 0.5 * probe[:, 0].numpy() ** 2, atol=0.15)
    mse = AnsatzNetworks(layout, starting_point(layout, "mse", x[:, None], z, np.ones(len(z)), random_numbers(1)))
    np.testing.assert_allclose(mse.b(probe).numpy(), rho * probe[:, 0].numpy(), atol=0.05)


# -- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_mse():
    """A short training from the prior-dependent regression: its slope is 0.2, and 1 is right."""
    x, z = gaussian_events(6000, 8)
    return fit_ansatz(x, z, method=QUICK.model_copy(update={"start": "mse"}), seed=2)


def test_a_training_leaves_the_regression_for_the_likelihood(from_mse):
    x, z = gaussian_events(50_000, 9)
    slope = float(np.diff(from_mse.calibrated(np.array([-1.0, 1.0])))[0]) / 2
    # The error of the slope is 2.7 % for so many events (bias-and-priors, section 7.1).
    assert slope == pytest.approx(1, abs=0.15)
    assert from_mse.sigma(np.zeros(1))[0] == pytest.approx(2, abs=0.3)
    value = from_mse.dvr(x, z)
    assert value.value == pytest.approx(INFORMATION, abs=4 * value.unc + 0.006)
    assert from_mse.history[-1][1] < from_mse.history[0][1]


def test_the_training_says_what_it_is_worth(from_mse):
    figures = from_mse.figures
    assert figures["dvr"] == pytest.approx(INFORMATION, abs=4 * figures["dvr_unc"])
    assert figures["dvr_fitted"] == pytest.approx(INFORMATION, abs=0.04)
    assert figures["beside_maximum"] == figures["curvature_not_negative"] == figures["nonfinite_batches"] == 0
    # B(x) = x is as wide as x, sqrt(5), and the truth reaches some 3.5.
    assert 0.02 < figures["outside_truth"] < 0.25


def test_an_event_outside_the_range_of_the_training_has_no_part_in_the_value(from_mse):
    x, z = gaussian_events(3000, 9)
    value = from_mse.dvr(x, z).value
    assert from_mse.dvr(np.append(x, 60.0), np.append(z, 30.0)).value == pytest.approx(value, rel=1e-9)


def test_the_seed_fixes_everything():
    x, z = gaussian_events(1500, 4)
    method = QUICK.model_copy(update={"iterations": 10})
    first, again, other = (fit_ansatz(x, z, method=method, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.networks.flat, again.networks.flat)
    assert not torch.equal(first.networks.flat, other.networks.flat)


def test_batches_without_a_finite_loss_are_left_out_and_counted(monkeypatch):
    calls = []

    def sometimes(*arguments):
        calls.append(1)
        return dvr_loss(*arguments) * (math.nan if len(calls) % 4 == 0 else 1)

    monkeypatch.setattr(ansatz_descent, "dvr_loss", sometimes)
    x, z = gaussian_events(4000, 4)
    fit = fit_ansatz(x, z, method=QUICK.model_copy(update={"iterations": 0}))
    assert len(calls) == 3 * 7
    assert fit.figures["nonfinite_batches"] == 21 // 4
    assert torch.isfinite(fit.networks.flat).all()


def test_weights_of_other_units_change_nothing():
    x, z = gaussian_events(1500, 4)
    weight = np.random.default_rng(1).uniform(0.5, 1.5, 1500)
    fits = [fit_ansatz(x, z, w, QUICK.model_copy(update={"iterations": 10})) for w in (weight, 1024e-9 * weight)]
    probe = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(fits[0].calibrated(probe), fits[1].calibrated(probe), rtol=1e-3, atol=1e-3)


def test_too_few_pairs_are_refused():
    with pytest.raises(pydantic.ValidationError, match="at least 1000 are needed"):
        GaussianAnsatz(batch=100, cells=8)
    assert GaussianAnsatz(batch=125, cells=8).batch == 125


# -- calibrator -----------------------------------------------------------------------------------------------------


def falling_jets(n, seed):
    rng = np.random.default_rng(seed)
    truth = 1800 + rng.exponential(250, n)
    feature = rng.normal(size=(n, 1))
    return hepcal.JetPairs.from_arrays(
        feature, ["f"], reco=truth * (0.95 + 0.05 * rng.normal(size=n)), truth=truth, weight=rng.uniform(0.5, 1.5, n)
    )


@pytest.fixture(scope="module", params=["affine", "dense"])
def calibrator(request):
    method = GaussianAnsatz(hidden=(8, 8), networks=request.param, epochs=2, iterations=20)
    return hepcal.train(falling_jets(5000, 1), method, seed=1, show=False)


def test_the_calibrator_is_close_to_the_likelihood(calibrator):
    jets = falling_jets(20_000, 2)
    found = calibrator.predict(jets.features, jets.reco)
    assert calibrator.card.quantity == "mode"
    assert calibrator.columns == ("pt_calib", "pt_calib_sigma_stoch", "pt_calib_in_range")
    # 0.9972 and 0.0525 are exact; the training is a very short one.
    assert np.mean(found.mean / jets.truth) == pytest.approx(0.9972, abs=0.02)
    assert np.median(found.sigma_stoch / found.mean) == pytest.approx(0.0525, rel=0.3)
    assert {"dvr", "dvr_unc", "beside_maximum", "curvature_not_negative", "outside_truth", "nonfinite_batches"} <= set(
        calibrator.card.figures
    )


def test_the_calibrator_survives_its_file(calibrator, tmp_path):
    jets = falling_jets(3000, 3)
    calibrator.save(tmp_path / "jets.safetensors")
    again = hepcal.Calibrator.load(tmp_path / "jets.safetensors")
    found, expected = (c.predict(jets.features, jets.reco) for c in (again, calibrator))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.sigma_stoch, expected.sigma_stoch)
    # The same jet gets the same bits in any company.
    some = np.random.default_rng(1).permutation(3000)[:777]
    np.testing.assert_array_equal(calibrator.predict(jets.features[some], jets.reco[some]).mean, expected.mean[some])


def test_the_calibrator_is_the_network_of_the_training(calibrator):
    jets = falling_jets(200, 5)
    tensors = calibrator.tensors
    layout = GaussianAnsatz.model_validate(calibrator.card.settings).layout(2)
    networks = AnsatzNetworks(layout, tensors["ansatz"].double())
    raw = torch.from_numpy(np.concatenate([jets.reco[None], jets.features.T]))
    x = torch.cat([raw[:1], calibrator.inputs(raw)[1:]]).T
    x = ((x - tensors["ansatz_mean"]) / tensors["ansatz_scale"]).double()
    b = networks.b(x)
    found = calibrator.predict(jets.features, jets.reco)
    location, scale = calibrator.card.target_location, calibrator.card.target_scale
    np.testing.assert_allclose(found.mean, location + scale * b.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.sigma_stoch, scale * (-1 / networks.c(x, b)).sqrt().numpy(), rtol=1e-4)


def test_jets_outside_the_truth_range_are_flagged(calibrator):
    low, high = calibrator.tensors["truth_range"].tolist()
    reco = np.array([1300, 1750, 2000, 2400, 9000], dtype=np.float32)
    found = calibrator.predict(np.zeros((5, 1)), reco)
    inside = (found.mean >= low) & (found.mean <= high)
    assert not found.in_range[~inside].any()
    assert not found.in_range[0]
    assert found.in_range[2:4].all()
    assert not found.in_range[4]


def test_a_damaged_file_is_refused(calibrator):
    tensors = dict(calibrator.tensors)
    for name, value in {"ansatz": torch.zeros(3), "truth_range": torch.tensor([2.0, 1.0])}.items():
        with pytest.raises(CalibratorFileError):
            type(calibrator)(calibrator.card, {**tensors, name: value})
