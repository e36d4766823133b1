"""The Lorentz-layer tagger and its figures of merit, against closed forms."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

import hepcal
from hepcal.errors import CalibratorFileError, CollapsedWarning, NonFiniteFeatureError, TrainingError
from hepcal.networks.inference import BLOCK
from hepcal.networks.parallel import threads
from hepcal.tagging import (
    LoLa,
    Tagger,
    auc,
    auc_difference,
    calibration_error,
    gaussian_score,
    parabola,
    reliability,
    roc,
    scan_prior,
    train,
)
from hepcal.tagging.lola import LoLaNetwork, TaggerObjective
from hepcal.tagging.lorentz import MOMENTUM_UNIT, LorentzLayout, mass_squared

QUICK = LoLa(combinations=2, leading=2, hidden=(16,), batch=200, max_updates=250, draws=10, learning_rate=2e-2)
# ln(mass) of both classes is Gaussian; nothing else differs.
CENTRE, HALF_GAP, WIDTH = np.log(80.0), 0.2, 0.2
BEST_AUC = norm.cdf(2 * HALF_GAP / (np.sqrt(2) * WIDTH))


def two_prongs(n: int, sign: int, seed: int, slots: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Jets of two massless constituents and an empty slot (n, 4 slots), and ln of their masses."""
    generator = np.random.default_rng(seed)
    log_mass = generator.normal(CENTRE + sign * HALF_GAP, WIDTH, n)
    energy, share, phi = (generator.uniform(*limits, n) for limits in ((400, 800), (0.5, 0.7), (0, 2 * np.pi)))
    first, second = share * energy, (1 - share) * energy
    # m² = 2 E1 E2 (1 - cos(angle)), opened around +x with balanced transverse momenta only roughly.
    angle = np.arccos(1 - np.exp(2 * log_mass) / (2 * first * second))
    jets = np.zeros((n, slots, 4))
    for slot, (e, a) in enumerate(((first, (1 - share) * angle), (second, -share * angle))):
        jets[:, slot] = np.stack([e, e * np.cos(a), e * np.sin(a) * np.cos(phi), e * np.sin(a) * np.sin(phi)], axis=1)
    return jets.reshape(n, -1).astype(np.float32), log_mass


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    return two_prongs(3000, 1, 1)[0], two_prongs(3000, -1, 2)[0]


@pytest.fixture(scope="module")
def tagger(samples: tuple[np.ndarray, np.ndarray]) -> Tagger:
    return train(*samples, QUICK, seed=3, show=False)


@pytest.fixture(scope="module")
def judges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jets, whether they are signal, and the true logit, which is linear in ln(mass)."""
    (ours, m1), (theirs, m0) = two_prongs(4000, 1, 11), two_prongs(4000, -1, 12)
    truth = 2 * HALF_GAP / WIDTH**2 * (np.concatenate([m1, m0]) - CENTRE)
    return np.concatenate([ours, theirs]), np.arange(8000) < 4000, truth


# -- figures of merit ---------------------------------------------------------------------------------------------


def scored(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounded scores, so that there are ties, labels, and weights of either sign."""
    generator = np.random.default_rng(seed)
    is_signal = generator.random(n) < 0.4
    score = np.round(expit(generator.normal(is_signal, 1.0)), 2)
    return score, is_signal, generator.normal(1, 0.8, n)


def test_auc_counts_pairs():
    score, is_signal, weight = scored(150)
    above = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    for w in (np.ones(150), weight):
        pairs = np.outer(w * is_signal, w * ~is_signal)
        assert auc(score, is_signal, w)[0] == pytest.approx((pairs * above).sum() / pairs.sum(), rel=1e-12)
    assert auc(score, is_signal)[0] == auc(logit(score / 1.01 + 1e-3), is_signal)[0]
    assert auc(-score, is_signal)[0] == pytest.approx(1 - auc(score, is_signal)[0])


def test_auc_of_two_gaussians_and_its_error():
    generator = np.random.default_rng(5)
    found = []
    for _ in range(300):
        is_signal = np.arange(500) < 200
        found.append(auc(generator.normal(is_signal, 1.0), is_signal))
    areas, errors = np.array(found).T
    assert areas.mean() == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=3 * areas.std() / np.sqrt(300))
    assert errors.mean() == pytest.approx(areas.std(ddof=1), rel=3 / np.sqrt(600))


def test_an_integer_weight_is_that_many_jets():
    score, is_signal, _ = scored(300)
    times = np.random.default_rng(1).integers(0, 4, 300)
    again = np.repeat(np.arange(300), times)
    assert auc(score, is_signal, times)[0] == pytest.approx(auc(score[again], is_signal[again])[0], rel=1e-12)
    ours = calibration_error(score, is_signal, times)[0]
    assert ours == pytest.approx(calibration_error(score[again], is_signal[again])[0], rel=1e-12)
    curve, repeated = roc(score, is_signal, times), roc(score[again], is_signal[again])
    assert curve.background_at(0.5) == pytest.approx(repeated.background_at(0.5), rel=1e-12)


def test_a_difference_of_aucs_knows_that_the_jets_are_the_same():
    score, is_signal, weight = scored(2000)
    assert auc_difference(score, 3 * score - 1, is_signal, weight) == (0, 0)
    worse = score + np.random.default_rng(2).normal(0, 0.05, 2000)
    difference, error = auc_difference(score, worse, is_signal)
    assert difference == pytest.approx(auc(score, is_signal)[0] - auc(worse, is_signal)[0])
    assert 0 < error < 0.5 * auc(score, is_signal)[1]


def test_the_area_under_the_roc_is_the_auc():
    score, is_signal, _ = scored(500)
    weight = np.random.default_rng(3).uniform(0.1, 3, 500)
    curve = roc(score, is_signal, weight)
    area = np.trapezoid(curve.signal, curve.background)
    assert area == pytest.approx(auc(score, is_signal, weight)[0], rel=1e-12)
    assert (curve.signal[0], curve.background[0]) == (0, 0)
    assert (curve.signal[-1], curve.background[-1]) == pytest.approx((1, 1))
    assert len(curve.threshold) == len(np.unique(score)) + 1
    cut = curve.threshold[20]
    kept = weight * is_signal * (score >= cut)
    assert curve.signal[20] == pytest.approx(kept.sum() / (weight * is_signal).sum())


# Logit, sigma, mean and standard deviation of the score, parabola, probit approximation.
GAUSS_HERMITE = [
    (0, 0.1, 0.50000, 0.02494, 0.02500, 0.50000),
    (0, 1.0, 0.50000, 0.20828, 0.25000, 0.50000),
    (1, 0.5, 0.72058, 0.09697, 0.10067, 0.72197),
    (1, 1.0, 0.69673, 0.18263, 0.21130, 0.70001),
    (2, 0.5, 0.87099, 0.05628, 0.05618, 0.87085),
    (2, 1.0, 0.84454, 0.12464, 0.13129, 0.84485),
    (4, 1.0, 0.97190, 0.03188, 0.02731, 0.96737),
]


def test_a_gaussian_logit_as_a_score():
    mean, sigma, *expected, probit = np.array(GAUSS_HERMITE).T
    found = gaussian_score(mean, sigma)
    for ours, theirs in zip((*found, parabola(found[0], sigma)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(expit(mean / np.sqrt(1 + np.pi * sigma**2 / 8)), probit, atol=1e-5)
    score, spread = gaussian_score(np.array([-3.0, 800.0]), np.zeros(2))
    np.testing.assert_allclose(score, [expit(-3), 1])
    np.testing.assert_allclose(spread, 0, atol=1e-12)
    with pytest.raises(ValueError, match="widths >= 0"):
        gaussian_score(np.zeros(2), -np.ones(2))


def test_the_calibration_error_is_the_distance_to_the_diagonal():
    is_signal = np.arange(1000) % 2 == 0
    assert calibration_error(np.full(1000, 0.7), is_signal)[0] == pytest.approx(0.2)
    two = np.where(np.arange(1000) < 500, 0.3, 0.9)
    assert calibration_error(two, is_signal, bins=10)[0] == pytest.approx(0.5 * 0.2 + 0.5 * 0.4)
    curve = reliability(two, is_signal, bins=10)
    assert curve.share[[3, 9]].tolist() == pytest.approx([0.5, 0.5])
    assert curve.observed[[3, 9]].tolist() == pytest.approx([0.5, 0.5])
    assert curve.score[[3, 9]].tolist() == pytest.approx([0.3, 0.9])
    assert curve.unc[3] == pytest.approx(0.5 / np.sqrt(500))
    assert np.isnan(curve.observed[0])


def test_a_calibrated_score_has_the_calibration_error_of_its_fluctuations():
    generator = np.random.default_rng(4)
    found = []
    for _ in range(60):
        score = generator.random(3000)
        found.append(calibration_error(score, generator.random(3000) < score, replicas=20))
    errors, bootstrap = np.array(found).T
    # Mean |excess| of 15 bins of 200 jets; the mean of p (1 - p) is 1/6.
    assert errors.mean() == pytest.approx(np.sqrt(2 / np.pi / 6 / 200), rel=0.1)
    # Around a minimum of zero the bootstrap, whose jets fluctuate twice, is no exact error.
    assert bootstrap.mean() == pytest.approx(errors.std(ddof=1), rel=0.35)


@pytest.mark.parametrize(
    ("score", "labels", "weight", "problem"),
    [
        ([0.1, 0.2], [1, 1], None, "0 background jets"),
        ([0.1, np.nan], [1, 0], None, "not a number"),
        ([0.1, 0.2], [1, 2], None, "neither true nor false"),
        ([0.1, 0.2], [1, 0, 1], None, "shapes disagree"),
        ([0.1, 0.2], [1, 0], [1.0, -1.0], "1 background jets sum to -1"),
    ],
)
def test_figures_of_merit_refuse_what_they_cannot_use(score, labels, weight, problem):
    weight = None if weight is None else np.array(weight)
    for figure in (auc, roc, calibration_error):
        with pytest.raises(ValueError, match=problem):
            figure(np.array(score), np.array(labels), weight)
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(np.array([0.5, 1.5]), np.array([0, 1]))


def test_figures_of_merit_load_no_torch():
    code = "import sys, hepcal.tagging; print([m for m in ('torch', 'dask', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in hepcal.tagging.__all__:
        assert getattr(hepcal.tagging, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Lola'"):
        _ = hepcal.tagging.Lola


# -- the Lorentz layer --------------------------------------------------------------------------------------------


def random_jets(b: int, slots: int, filled: int, seed: int = 0) -> torch.Tensor:
    """Massive constituents in every direction [GeV], float64 of shape (4 slots, b)."""
    generator = np.random.default_rng(seed)
    p = generator.normal(0, 30, (slots, 3, b))
    e = np.sqrt((p**2).sum(1) + generator.uniform(1, 20, (slots, b)) ** 2)
    jets = np.concatenate([e[:, None], p], axis=1)
    jets[filled:] = 0
    return torch.from_numpy(jets.reshape(4 * slots, b))


def boost_and_rotation(seed: int) -> np.ndarray:
    """A Lorentz transform (4, 4): a rotation after a boost of gamma about 2 in a random direction."""
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=3)
    direction /= np.linalg.norm(direction)
    gamma = 2.0
    beta = np.sqrt(1 - 1 / gamma**2)
    boost = np.eye(4)
    boost[0, 0], boost[0, 1:], boost[1:, 0] = gamma, gamma * beta * direction, gamma * beta * direction
    boost[1:, 1:] += (gamma - 1) * np.outer(direction, direction)
    rotation = np.eye(4)
    rotation[1:, 1:] = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    return rotation @ boost


@pytest.mark.parametrize("seed", range(3))
def test_masses_and_distances_are_lorentz_invariant(seed):
    layout = LorentzLayout(constituents=6, leading=4, combinations=3)
    weights = torch.randn(layout.count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    jets = random_jets(5, 6, 5, seed)
    moved = torch.einsum("ij,pjb->pib", torch.from_numpy(boost_and_rotation(seed)), jets.view(6, 4, 5)).reshape(24, 5)
    here, there = (layout.invariants(layout.prepare(x), weights) for x in (jets, moved))
    for ours, theirs in zip(here[1:], there[1:], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)
    # What is compressed from them is the same, too; p_T and energies are of the frame.
    scalars = layout.made + layout.vectors + layout.made
    here, there = (layout.forward(layout.prepare(x), weights) for x in (jets, moved))
    assert here.shape == (layout.outputs, 5)
    assert torch.allclose(here[:scalars], there[:scalars], rtol=1e-8, atol=1e-8)
    assert ((here - there).abs()[scalars:].amax(1) > 1e-3).all()


def test_the_lorentz_layer_is_what_it_says():
    layout = LorentzLayout(constituents=5, leading=3, combinations=2)
    weights = torch.randn(layout.count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    combine, energy, distance, factors = layout.blocks(weights)
    jets = random_jets(4, 5, 4)
    momenta = jets.view(5, 4, 4) / MOMENTUM_UNIT
    expected = torch.cat([momenta.sum(0)[None], torch.einsum("mp,pcb->mcb", combine, momenta), momenta[:3]])
    prepared = layout.prepare(jets)
    vectors, masses, distances, nearest = layout.invariants(prepared, weights)
    assert torch.allclose(vectors, expected)
    assert torch.allclose(masses, mass_squared(expected))
    separate = torch.stack([mass_squared(vectors - k) for k in momenta])  # (constituent, vector, jet)
    there = separate[:4]  # the last slot is empty
    assert torch.allclose(distances, torch.einsum("vp,pvb->vb", distance[:, :4], there))
    weighted = torch.exp(factors).T[:, :, None] * separate[:3, : layout.made]
    assert torch.allclose(nearest, weighted.amin(0))
    output = layout.forward(prepared, weights)
    energies = output[layout.outputs - 2 * layout.vectors : -layout.vectors]
    inside = (energy @ momenta[:, 0]) * 10
    assert torch.allclose(energies, torch.sign(inside) * torch.log1p(inside.abs()))
    pt = torch.exp(output[-layout.vectors :]) * MOMENTUM_UNIT
    assert torch.allclose(pt**2, (expected[:, 1] ** 2 + expected[:, 2] ** 2) * MOMENTUM_UNIT**2 + 1)


def test_wide_weights_stay_finite():
    layout = LorentzLayout(constituents=6, leading=4, combinations=3)
    weights = 1000 * torch.randn(layout.count, generator=torch.Generator().manual_seed(1))
    found = layout.forward(layout.prepare(random_jets(5, 6, 5).float()), weights)
    assert torch.isfinite(found).all()
    assert found.abs().max() < 50


def test_empty_slots_say_nothing():
    layout = LorentzLayout(constituents=5, leading=4, combinations=2)
    one, other = layout.start(torch.Generator().manual_seed(1)), layout.start(torch.Generator().manual_seed(2))
    for mine, theirs in zip(layout.blocks(other), layout.blocks(one), strict=True):
        mine[:, :3] = theirs[:, :3]
    prepared = layout.prepare(random_jets(7, 5, 3).float())
    ours, theirs = layout.forward(prepared, one), layout.forward(prepared, other)
    empty_vector = layout.made + 3
    kept = torch.ones(layout.outputs, dtype=torch.bool)
    for first, group in ((layout.made, layout.vectors), (2 * layout.made + layout.vectors, layout.vectors)):
        kept[first + empty_vector : first + group] = False
    assert torch.equal(ours[kept], theirs[kept])
    nearest = layout.invariants(prepared, one)[3]
    assert torch.isfinite(nearest).all()


def test_an_empty_slot_is_never_the_nearest():
    layout = LorentzLayout(constituents=3, leading=3, combinations=1)
    prepared = layout.prepare(random_jets(7, 3, 2).float())
    weights = layout.start(torch.Generator().manual_seed(1))
    combine, _, _, factors = layout.blocks(weights)
    combine[:] = torch.tensor([40.0, 30.0, 0.0])
    before = layout.invariants(prepared, weights)[3]
    # The factor on the distance to the third slot, which is empty.
    for power in (-5.0, 5.0):
        factors[:, 2] = power
        assert torch.equal(layout.invariants(prepared, weights)[3], before)


# -- the objective ------------------------------------------------------------------------------------------------


def network(*, bayesian: bool) -> LoLaNetwork:
    generator = torch.Generator().manual_seed(7)
    return LoLaNetwork(*QUICK.layouts(3), generator, 0.1, bayesian=bayesian)


def test_kl_is_that_of_all_weights():
    found = network(bayesian=True)
    with torch.no_grad():
        for rho in (found.rho, found.dense.rho):
            rho.add_(torch.randn(rho.shape, generator=torch.Generator().manual_seed(8)))
    sigma = torch.nn.functional.softplus(found.rho)
    prior = Normal(0.0, 0.3)
    expected = sum(
        kl_divergence(Normal(m, s), prior).sum()
        for m, s in ((found.mean, sigma), (found.dense.mean, found.dense.sigma))
    )
    assert float(found.kl(0.3).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    fixed = network(bayesian=False)
    squares = sum(float((part.detach().double() ** 2).sum()) for part in (fixed.mean, fixed.dense.mean))
    assert float(fixed.kl(0.3).detach()) == pytest.approx(squares / (2 * 0.09), rel=1e-6)


def test_the_loss_is_cross_entropy_plus_kl_per_jet(samples):
    objective = TaggerObjective(network(bayesian=False), 500.0, 0.1, 1)
    jets = torch.from_numpy(np.concatenate([part[:50] for part in samples]))
    y, w = torch.cat([torch.ones(50), torch.zeros(50)]), torch.linspace(0.5, 1.5, 100)
    score = torch.sigmoid(objective.module(jets, torch.Generator())[:, 0].double())
    expected = -(w * torch.log(torch.where(y == 1, score, 1 - score))).mean() + objective.module.kl(0.1) / 500
    found = objective.loss(jets, y, w, torch.Generator()), objective.held_out_loss(jets, y, w)
    assert [float(loss.detach()) for loss in found] == pytest.approx(2 * [float(expected.detach())], rel=1e-6)


def test_random_networks_of_a_loss_have_the_spread_of_the_draws(samples):
    # The Lorentz layer shares its weights among jets, the dense layers do not: each jet alone has the same spread.
    found = network(bayesian=True)
    with torch.no_grad():
        found.rho.fill_(-3.0)
        found.dense.rho.fill_(-3.0)
    jets = torch.from_numpy(samples[0][:3])
    found.standardise(torch.from_numpy(samples[0][:500]), torch.ones(500))
    generator = torch.Generator().manual_seed(1)
    local = torch.stack([found(jets, generator)[:, 0] for _ in range(800)]).detach()
    tensors = found.draw(800, generator)
    layout = found.layout
    drawn = []
    for lorentz, dense in zip(tensors["lorentz_draws"], tensors["dense_draws"], strict=True):
        x = (layout.forward(layout.prepare(jets.T.contiguous()), lorentz).T - found.location) / found.scale
        drawn.append(found.dense.layout.forward(dense, x)[:, 0])
    drawn = torch.stack(drawn)
    spread = drawn.std(0)
    assert torch.allclose(local.mean(0), drawn.mean(0), atol=float(5 * spread.max() / 800**0.5))
    assert torch.allclose(local.std(0), spread, rtol=0.15)


# -- the tagger ---------------------------------------------------------------------------------------------------


def test_the_tagger_finds_the_best_classifier(tagger, samples, judges):
    jets, is_signal, truth = judges
    fixed = train(*samples, QUICK.model_copy(update={"bayesian": False}), seed=3, show=False)
    bayesian, deterministic = tagger.predict(jets), fixed.predict(jets)
    for found in (bayesian, deterministic):
        area, error = auc(found.score, is_signal)
        assert area == pytest.approx(BEST_AUC, abs=4 * error)
        below, uncertainty = auc_difference(expit(truth), found.score, is_signal)
        assert -3 * uncertainty < below < 0.01
        core = np.abs(truth) < 4
        assert np.corrcoef(found.logit[core], truth[core])[0, 1] > 0.97
        assert calibration_error(found.score, is_signal)[0] < 0.03
    assert auc_difference(bayesian.score, deterministic.score, is_signal)[0] == pytest.approx(0, abs=0.01)
    assert deterministic.sigma_logit is None
    assert deterministic.sigma_score is None
    assert deterministic.logits().shape == (1, len(jets))
    assert tagger.card.figures["auc"] == pytest.approx(BEST_AUC, abs=4 * tagger.card.figures["auc_error"])
    assert tagger.card.figures["collapsed"] == 0


def test_moments_are_those_of_the_draws(tagger, judges):
    found = tagger.predict(judges[0])
    logits = found.logits().astype(np.float64)
    scores = expit(logits)
    np.testing.assert_allclose(found.logit, logits.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma_logit, logits.std(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(found.score, scores.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma_score, scores.std(0, ddof=1), rtol=1e-10)
    # The average of sigmoids is less sure than the sigmoid of the average.
    sure = np.abs(found.logit) > 1
    assert (np.abs(found.score - 0.5) < np.abs(expit(found.logit) - 0.5))[sure].mean() > 0.9


def test_errors_fall_with_more_jets(tagger, samples, judges):
    few = train(samples[0][:150], samples[1][:150], QUICK, seed=3, show=False)
    assert np.median(few.predict(judges[0]).sigma_logit) > 1.3 * np.median(tagger.predict(judges[0]).sigma_logit)


def test_a_jet_has_the_same_bits_in_any_company(tagger, judges):
    jets = judges[0][: 2 * BLOCK + 500]
    whole = tagger.predict(jets)
    for part in (slice(0, 1), slice(700, 1900), slice(5, None, 3)):
        alone = tagger.predict(jets[part])
        for name in ("score", "logit", "sigma_logit", "sigma_score"):
            assert np.array_equal(getattr(whole, name)[part], getattr(alone, name))
        assert np.array_equal(whole.logits()[:, part], alone.logits())
    with threads(2):
        assert np.array_equal(tagger.predict(jets).score, whole.score)
    assert len(tagger.predict(jets[:0])) == 0


def test_the_order_of_the_draws_does_not_matter(tagger, judges):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    mixed = {name: part[order] if name.endswith("draws") else part for name, part in tagger.tensors.items()}
    ours, theirs = tagger.predict(judges[0][:500]), Tagger(tagger.card, mixed).predict(judges[0][:500])
    for name in ("score", "logit", "sigma_logit", "sigma_score"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    assert np.array_equal(ours.logits()[order], theirs.logits())


def test_a_tagger_is_a_file(tagger, judges, tmp_path):
    path = tmp_path / "top.safetensors"
    tagger.save(path)
    again = Tagger.load(path)
    assert again.card == tagger.card
    assert again.sha256 == tagger.sha256
    assert np.array_equal(again.predict(judges[0]).score, tagger.predict(judges[0]).score)
    assert pickle.loads(pickle.dumps(tagger)).sha256 == tagger.sha256  # noqa: S301 - our own
    assert tagger.card.features.constituents == hepcal.Constituents(count=3)
    assert set(tagger.card.figures) >= {"auc", "auc_error", "calibration_error", "held_out_loss", "kl", "converged"}
    assert "Bayesian, 10 draws" in repr(tagger)


def test_files_that_are_no_taggers_are_refused(tagger, small_calibrator, tmp_path):
    path = tmp_path / "file.safetensors"
    small_calibrator.save(path)
    with pytest.raises(CalibratorFileError, match="no tagger"):
        Tagger.load(path)
    path.unlink()
    tagger.save(path)
    with pytest.raises(CalibratorFileError, match=r"is no calibrator but a tagger: open it with hepcal.tagging.Tagger"):
        hepcal.Calibrator.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CalibratorFileError, match="damaged"):
        Tagger.load(path)
    with pytest.raises(CalibratorFileError, match="missing"):
        Tagger(tagger.card, {})
    wrong = {**tagger.tensors, "dense_draws": tagger.tensors["dense_draws"][:5]}
    with pytest.raises(CalibratorFileError, match="the card asks for"):
        Tagger(tagger.card, wrong)
    wrong["dense_draws"] = tagger.tensors["dense_draws"] * float("nan")
    with pytest.raises(CalibratorFileError, match="not finite"):
        Tagger(tagger.card, wrong)


def test_columns_are_checked(tagger, judges):
    jets = judges[0][:10].copy()
    with pytest.raises(ValueError, match=r"found \(10, 8\)"):
        tagger.predict(jets[:, :8])
    jets[4, 0] = np.nan
    with pytest.raises(NonFiniteFeatureError, match="1 of 10"):
        tagger.predict(jets)


# -- training -----------------------------------------------------------------------------------------------------


SHORT = QUICK.model_copy(update={"max_updates": 40, "patience": 80, "draws": 2})


def table(jets: np.ndarray, **columns: np.ndarray) -> hepcal.JetPairs:
    """The same jets with a scalar input in front, which the tagger must not see."""
    n = len(jets)
    features = np.concatenate([np.random.default_rng(0).normal(size=(n, 1)), jets], axis=1)
    reco = np.full(n, 500.0)
    spec = hepcal.Constituents(count=jets.shape[1] // 4)
    return hepcal.JetPairs.from_arrays(features, ["eta"], reco=reco, truth=reco, constituents=spec, **columns)


def weights_of(tagger: Tagger) -> torch.Tensor:
    return torch.cat([tagger.tensors["lorentz_draws"].flatten(), tagger.tensors["dense_draws"].flatten()])


def test_tables_and_arrays_give_the_same_tagger(samples, judges):
    arrays = train(*samples, SHORT, seed=1, show=False)
    tables = train(*(table(part) for part in samples), SHORT, seed=1, show=False)
    assert torch.equal(weights_of(arrays), weights_of(tables))
    jets = judges[0][:20]
    with_scalar = np.concatenate([np.zeros((20, 1), np.float32), jets], axis=1)
    assert np.array_equal(tables.predict(jets).score, tables.predict(with_scalar).score)
    assert not torch.equal(weights_of(arrays), weights_of(train(*samples, SHORT, seed=2, show=False)))


def test_a_table_on_disk_gives_the_same_tagger(samples, judges, tmp_path, monkeypatch):
    in_memory = train(*(table(part) for part in samples), SHORT, seed=1, show=False)
    for number, part in enumerate(samples):
        table(part).save(tmp_path / str(number))
    monkeypatch.setattr("hepcal.tables.rows.LAZY_BYTES", 1000)
    stored = [hepcal.JetPairs.open(tmp_path / str(number)) for number in (0, 1)]
    on_disk = train(*stored, SHORT, seed=1, show=False)
    assert torch.equal(weights_of(in_memory), weights_of(on_disk))
    assert on_disk.card.signal_sha256 == in_memory.card.signal_sha256
    there = stored[0].take(np.arange(2000)).features
    assert type(there).__name__ == "StoredRows"
    assert np.array_equal(on_disk.predict(there).score, in_memory.predict(table(samples[0]).features[:2000]).score)


def test_only_the_weights_within_a_class_matter(samples):
    generator = np.random.default_rng(6)
    weight = generator.uniform(0.5, 2, 3000), generator.uniform(0.5, 2, 3000)
    ours = train(*samples, SHORT, weight=weight, seed=1, show=False)
    scaled = train(*samples, SHORT, weight=(weight[0] * 8, weight[1]), seed=1, show=False)
    assert torch.equal(weights_of(ours), weights_of(scaled))
    assert not torch.equal(weights_of(ours), weights_of(train(*samples, SHORT, seed=1, show=False)))
    tables = [table(part, weight=w) for part, w in zip(samples, weight, strict=True)]
    assert torch.equal(weights_of(ours), weights_of(train(*tables, SHORT, seed=1, show=False)))


def test_weights_change_what_is_learned(samples, judges):
    # Signal weighted by its density ratio to background is background: nothing is left to learn.
    _, log_mass = two_prongs(3000, 1, 1)
    weight = np.exp(-2 * HALF_GAP / WIDTH**2 * (log_mass - CENTRE))
    with pytest.warns(CollapsedWarning, match="no better than chance"):
        blind = train(*samples, QUICK, weight=(np.minimum(weight, 20), None), seed=3, show=False)
    logits = blind.predict(judges[0]).logit[np.abs(judges[2]) < 3]
    assert np.std(logits) < 0.25 * np.std(judges[2][np.abs(judges[2]) < 3])


def test_negative_weights_subtract_jets_from_a_class(samples, judges):
    """The signal comes with jets of the background, and as many others are subtracted."""
    more = two_prongs(2000, -1, 21)[0]
    signal = np.concatenate([samples[0], more])
    weight = np.repeat([1.0, 1.0, -1.0], [3000, 1000, 1000])
    found = train(signal, samples[1], QUICK, weight=(weight, None), seed=3, show=False)
    prediction = found.predict(judges[0])
    assert auc(prediction.score, judges[1])[0] == pytest.approx(BEST_AUC, abs=0.02)
    inner = np.abs(judges[2]) < 3
    slope = np.polyfit(judges[2][inner], prediction.logit[inner], 1)[0]
    assert slope == pytest.approx(1, abs=0.25)
    assert found.card.n_eff < 4_500
    with pytest.raises(TrainingError, match="signal jets have negative weights"):
        train(signal, samples[1], SHORT, weight=(np.where(np.arange(5000) % 2, 1.0, -0.99), None), seed=3, show=False)


def test_jets_of_one_event_are_held_out_together(samples):
    event = np.arange(3000) // 3
    found = train(*(table(part, event=event) for part in samples), SHORT, seed=1, show=False)
    assert found.card.held_out_jets == 600
    assert found.card.signal_jets == found.card.background_jets == 2700
    assert found.card.n_eff == pytest.approx(5400)


def test_a_training_goes_on_from_its_checkpoint(samples, tmp_path, monkeypatch):
    path = tmp_path / "state"
    whole = train(*samples, SHORT, seed=1, show=False)
    looks = []

    def interrupted(loop):
        looks.append(loop.update)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return look(loop)

    from hepcal.networks.optimisation import Loop

    look = Loop.look
    monkeypatch.setattr(Loop, "look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(*samples, SHORT, seed=1, show=False, checkpoint=path)
    monkeypatch.undo()
    again = train(*samples, SHORT, seed=1, show=False, checkpoint=path)
    assert torch.equal(weights_of(whole), weights_of(again))
    with pytest.raises(TrainingError, match="seed differ"):
        train(*samples, SHORT, seed=2, show=False, checkpoint=path)


def test_an_absurd_prior_collapses_and_says_so(samples, judges):
    tight = QUICK.model_copy(update={"prior_width": 1e-5, "max_updates": 200})
    with pytest.warns(CollapsedWarning, match="^the trained tagger says the same of every jet"):
        found = train(*samples, tight, seed=1, show=False)
    assert found.card.figures["collapsed"] == 1
    assert found.card.figures["sensitivity"] < 0.05
    assert np.ptp(found.predict(judges[0]).score) < 0.05


def test_a_scan_of_the_prior_has_a_plateau_above_a_collapse(samples, judges):
    test = judges[0][:4000], judges[0][4000:]
    scan = scan_prior(*samples, QUICK, (1.0, 1e-5, 0.1), test=test, seed=3, show=False)
    assert scan.width.tolist() == [1e-5, 0.1, 1.0]
    assert scan.collapsed.tolist() == [True, False, False]
    assert scan.auc[1:].tolist() == pytest.approx(2 * [BEST_AUC], abs=0.02)
    assert scan.below_best.min() == 0
    assert (scan.below_best[1:] < 0.01).all()
    assert scan.sensitivity[0] < 0.05 < 1 < scan.sensitivity[1]
    assert "collapsed" in str(scan).splitlines()[1]
    held_out = scan_prior(*samples, SHORT, (0.1,), seed=3, show=False)
    figures = train(*samples, SHORT, seed=3, show=False).card.figures
    assert held_out.auc[0] == pytest.approx(figures["auc"])
    with pytest.raises(TrainingError, match="needs a Bayesian method"):
        scan_prior(*samples, LoLa(bayesian=False))


def test_bad_training_samples_are_refused(samples):
    signal, background = samples
    plain = hepcal.JetPairs.from_arrays(np.ones((50, 1)), ["eta"], reco=np.ones(50), truth=np.ones(50))
    for arguments, problem in (
        ((signal[:, :10], background), "shape"),
        ((signal, background[:, :8]), "different columns"),
        ((plain, background), "no constituents"),
        ((signal[:10], background), "10 signal events are too few"),
        (
            (signal, np.where(np.arange(3000)[:, None] == 5, np.nan, background)),
            "background, jets from 0 on: 1 of 3000",
        ),
    ):
        with pytest.raises(TrainingError, match=problem):
            train(*arguments, SHORT, show=False)
    with pytest.raises(TrainingError, match="sum to -3000"):
        train(signal, background, SHORT, weight=(-np.ones(3000), None), show=False)
    with pytest.raises(TrainingError, match=r"hepcal\.tagging\.LoLa"):
        train(signal, background, hepcal.BNN(), show=False)
