"""The curvature of a loss against matrices over all weights, which are small enough to be written out here."""

import numpy as np
import pytest
import torch
from scipy import stats

from hepcal.distributions import Blend, CrystalBall, NormalMixture
from hepcal.distributions.drawn import displaced
from hepcal.networks.curvature import Curvature, Laplace, Sandwich
from hepcal.networks.dense import DenseLayout
from hepcal.networks.directions import directions
from hepcal.networks.heads import CrystalBallHead, GaussianHead, MixtureHead, TailHead
from hepcal.networks.influence import influence, representatives
from hepcal.networks.jacobian import JacobianRows, Linearisation
from hepcal.networks.tangents import ExactTangents, ProjectedTangents, Projections, fit_projections
from hepcal.tables.signed_weights import Cells
from hepcal.tagging.lola import ClassHead

LAYOUT = DenseLayout((3, 7, 5, 2))
CLOSE = {"rtol": 1e-8, "atol": 1e-10}
DECAY = 0.03


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network():
    """Parameters, and inputs of 40 jets."""
    flat = LAYOUT.start(generator()).double() + 0.1 * torch.randn(
        LAYOUT.count, generator=generator(2), dtype=torch.float64
    )
    return flat, torch.randn((40, 3), generator=generator(3), dtype=torch.float64)


@pytest.fixture(scope="module")
def jacobian(network):
    """Derivatives (jets, outputs, weights) by autograd."""
    flat, x = network
    return torch.autograd.functional.jacobian(lambda w: LAYOUT.forward(w, x), flat)


@pytest.fixture(scope="module")
def linear(network):
    return Linearisation(LAYOUT, *network)


def dense(rows: JacobianRows) -> torch.Tensor:
    """The rows written out, one at a time."""
    return rows.combined(torch.eye(len(rows), dtype=torch.float64))


# -- derivatives ------------------------------------------------------------------------------------------------------


def test_rows_are_the_derivatives_of_autograd(network, linear, jacobian):
    torch.testing.assert_close(linear.outputs, LAYOUT.forward(*network), rtol=1e-12, atol=1e-12)
    vectors = torch.randn(linear.outputs.shape, generator=generator(4), dtype=torch.float64)
    rows = linear.rows(vectors)
    expected = torch.einsum("mk,mkp->mp", vectors, jacobian)
    torch.testing.assert_close(dense(rows), expected, **CLOSE)
    torch.testing.assert_close(rows.kernel(rows[:9]), expected @ expected[:9].T, **CLOSE)
    along = torch.randn((6, LAYOUT.count), generator=generator(5), dtype=torch.float64)
    torch.testing.assert_close(rows.along(along, LAYOUT), expected @ along.T, **CLOSE)
    both = JacobianRows.joined([rows[:3], rows.scaled(torch.full((40,), 2.0, dtype=torch.float64))[3:]])
    torch.testing.assert_close(dense(both), torch.cat([expected[:3], 2 * expected[3:]]), **CLOSE)


HEADS = {
    "gaussian": GaussianHead(), "mixture": MixtureHead(3), "crystal ball": CrystalBallHead(), "tails": TailHead(),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_the_mean_of_a_likelihood_is_that_of_its_density(name):
    head = HEADS[name]
    outputs = torch.randn((30, head.outputs), generator=generator(), dtype=torch.float64)
    np.testing.assert_allclose(head.mean(outputs), head.distribution(outputs.T[None]).means()[0], rtol=1e-12)
    step, found = 1e-6, head.mean_gradient(outputs)
    assert not found.requires_grad
    for k in range(head.outputs):
        away = torch.zeros(head.outputs, dtype=torch.float64)
        away[k] = step
        slope = (head.mean(outputs + away) - head.mean(outputs - away)) / (2 * step)
        np.testing.assert_allclose(found[:, k], slope, atol=1e-8)


def test_the_mean_is_differentiated_whatever_the_caller_has_switched_off():
    outputs = torch.randn((5, 9), generator=generator(), dtype=torch.float64)
    expected = TailHead().mean_gradient(outputs)
    with torch.inference_mode():
        assert torch.equal(TailHead().mean_gradient(outputs.clone()), expected)


def test_the_fisher_information_is_the_mean_square_of_the_gradient():
    """Exact for Gaussians and classes; for others a mean over random targets, which the same test estimates anew."""
    outputs = torch.tensor([[0.3, 0.2], [-1.0, 1.5]], dtype=torch.float64)
    root = GaussianHead().fisher_root(outputs, generator())
    exact = torch.einsum("snk,snl->nkl", root, root)
    mean, sigma = outputs[:, 0], torch.nn.functional.softplus(outputs[:, 1]) + 1e-3
    z, w = np.polynomial.hermite_e.hermegauss(30)
    found = 0
    for node, weight in zip(z, w / w.sum(), strict=True):
        gradient = GaussianHead().gradient(outputs, mean + sigma * node)
        found = found + weight * gradient[:, :, None] * gradient[:, None]
    torch.testing.assert_close(exact, found, rtol=1e-10, atol=1e-12)
    logit = torch.tensor([[0.7]], dtype=torch.float64)
    p = torch.sigmoid(logit)
    by_hand = p * (1 - p) ** 2 + (1 - p) * p**2
    torch.testing.assert_close(ClassHead().fisher_root(logit, generator())[0] ** 2, by_hand)


def test_the_sampled_fisher_information_has_the_right_expectation():
    """A mixture of one component is a Gaussian whose logit changes nothing."""
    outputs = torch.tensor([[0.0, 0.3, 0.2]], dtype=torch.float64).expand(20_000, 3)
    root = MixtureHead(1).fisher_root(outputs, generator())
    found = torch.einsum("snk,snl->kl", root, root) / len(outputs)
    exact = GaussianHead().fisher_root(outputs[:1, 1:], generator())
    expected = torch.einsum("snk,snl->kl", exact, exact)
    torch.testing.assert_close(found[1:, 1:], expected, rtol=0.03, atol=0.03)
    assert found[0].abs().max() < 1e-12


# -- posteriors -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curvature(linear):
    """H from rows, and written out."""
    weight = torch.linspace(0.5, 1.5, 40, dtype=torch.float64)
    roots = GaussianHead().fisher_root(linear.outputs, generator())
    rows = JacobianRows.joined([linear.rows(root).scaled(weight.sqrt()) for root in roots])
    whole = dense(rows)
    matrix = whole.T @ whole / weight.sum() + DECAY * torch.eye(LAYOUT.count, dtype=torch.float64)
    return Curvature(rows, float(weight.sum()), DECAY), matrix


def test_the_curvature_is_inverted_in_the_space_of_the_jets(linear, curvature):
    found, matrix = curvature
    rows = linear.rows(torch.tensor([1.0, -0.5]).expand(40, 2))
    coefficients = torch.randn((40, 3), generator=generator(), dtype=torch.float64)
    expected = torch.linalg.solve(matrix, dense(rows).T @ coefficients).T
    torch.testing.assert_close(found.inverse(rows, coefficients), expected, **CLOSE)
    torch.testing.assert_close(
        found.between(rows, rows[:4]), dense(rows) @ torch.linalg.solve(matrix, dense(rows)[:4].T), **CLOSE
    )


def of_both(linear, curvature):
    """Both posteriors, and their covariances of all weights written out."""
    found, matrix = curvature
    target = linear.outputs[:, 0] + torch.randn(40, generator=generator(6), dtype=torch.float64)
    gradients = linear.rows(GaussianHead().gradient(linear.outputs, target))
    counts = torch.from_numpy(influence(np.arange(40) // 2, np.ones(40), np.ones(40), 40.0))
    sums = dense(gradients).T @ counts
    inverse = torch.linalg.inv(matrix)
    return {
        "laplace": (Laplace(found, 500.0), inverse / 500),
        "sandwich": (Sandwich(found, gradients, counts), inverse @ sums @ sums.T @ inverse),
    }


def test_sums_of_rows_are_the_same_one_direction_at_a_time(linear, monkeypatch):
    rows = linear.rows(torch.tensor([1.0, 0.2]).expand(40, 2))
    coefficients = torch.randn((40, 3), generator=generator(), dtype=torch.float64)
    at_once = rows.combined(coefficients)
    monkeypatch.setattr("hepcal.networks.jacobian.AT_ONCE", 1)
    torch.testing.assert_close(rows.combined(coefficients), at_once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["laplace", "sandwich"])
def test_posteriors_are_those_of_matrices_over_the_weights(name, linear, curvature):
    posterior, covariance = of_both(linear, curvature)[name]
    rows = linear.rows(torch.tensor([1.0, 0.2]).expand(40, 2))
    whole = dense(rows)
    torch.testing.assert_close(posterior.covariance(rows), whole @ covariance @ whole.T, **CLOSE)
    along = torch.randn((40, 2), generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(posterior.shared(rows, along), (covariance @ whole.T @ along).T, **CLOSE)
    drawn = posterior.draw(20_000, LAYOUT, generator()) @ whole.T
    expected = whole @ covariance @ whole.T
    scale = expected.diagonal().sqrt()
    found = drawn.T @ drawn / len(drawn)
    assert ((found - expected) / scale[:, None] / scale).abs().max() < 0.05


@pytest.mark.parametrize("name", ["laplace", "sandwich"])
def test_directions_hold_the_variance_of_the_predictions(name, linear, curvature):
    """All of them hold all of it; of a few, the leading half exactly its share, the rest in expectation."""
    posterior, _ = of_both(linear, curvature)[name]
    rows = linear.rows(torch.tensor([1.0, 0.0]).expand(40, 2))
    covariance = posterior.covariance(rows)
    sigma = covariance.diagonal().sqrt()
    trials = [directions(posterior, rows, LAYOUT, 8, generator(seed)) for seed in range(200)]
    changes = torch.stack([rows.along(trial, LAYOUT) for trial in trials])
    found = torch.einsum("tms,tns->mn", changes, changes) / len(trials)
    assert ((found - covariance) / sigma[:, None] / sigma).abs().max() < 0.1
    assert torch.equal(trials[0][:4], trials[1][:4])  # leading: nothing random
    whole = rows.along(directions(posterior, rows, LAYOUT, 79, generator()), LAYOUT)
    torch.testing.assert_close(whole @ whole.T, covariance, rtol=1e-3, atol=1e-6 * float(covariance.max()))


def test_predictions_that_nothing_moves_have_directions_of_zero(linear, curvature):
    posterior, _ = of_both(linear, curvature)["laplace"]
    still = linear.rows(torch.zeros((40, 2), dtype=torch.float64))
    assert torch.equal(directions(posterior, still, LAYOUT, 8, generator()), torch.zeros((8, LAYOUT.count)).double())


# -- which events -----------------------------------------------------------------------------------------------------


def test_influence_is_the_change_of_a_weighted_mean():
    """Of losses l, the mean changes by sum w (l - mean) / sum w when an event is there once more."""
    rng = np.random.default_rng(1)
    event, weight, loss = np.arange(30) // 3, rng.uniform(0.5, 2, 30), rng.normal(size=30)
    found = loss @ influence(event, weight, np.ones(30), float(weight.sum()))
    step = 1e-6
    for number in range(10):
        more = weight * np.where(event == number, 1 + step, 1)
        change = (more @ loss / more.sum() - weight @ loss / weight.sum()) / step
        assert found[number] == pytest.approx(change, abs=1e-5)


def test_influence_of_signed_weights_is_that_of_a_bootstrap_of_them():
    rng = np.random.default_rng(2)
    event, signed = np.arange(400) // 2, rng.choice([-1.0, 1.0, 1.0, 1.0, 1.0], 400) * rng.uniform(0.5, 1.5, 400)
    cells = Cells.of(rng.normal(size=(2, 400)), (0.5, 0.5), signed, event)
    assert 2 <= cells.number.max() + 1 <= 40
    loss = rng.normal(size=400) + cells.number
    found = loss @ influence(event, cells.positive, np.ones(400), float(signed.sum()), cells)

    def mean(multiplicity):
        weight = cells.positive * cells.resampled(multiplicity[:, None].astype(np.float64))[:, 0]
        return weight @ loss / (multiplicity @ signed)

    for number in range(0, 200, 17):
        more = np.where(event == number, 2, 1)
        assert found[number] == pytest.approx(mean(more) - mean(np.ones(400)), rel=0.05, abs=2e-4)


def test_representatives_stand_for_all_jets():
    rng = np.random.default_rng(3)
    event, weight = np.arange(6_000) // 2, rng.pareto(1.5, 6_000)
    value = rng.normal(1, 0.1, 6_000)
    found = [representatives(event, weight, 600, seed) for seed in range(300)]
    sums = np.array([np.sum(weight[f.rows] * value[f.rows] * f.stands_for) for f in found])
    assert sums.mean() == pytest.approx(np.sum(weight * value), abs=4 * sums.std() / 300**0.5)
    assert sums.std() < 0.02 * np.sum(weight * value)
    heaviest = np.argsort(weight)[-20:]
    for each in found[:5]:
        assert len(each.rows) == pytest.approx(600, abs=4)
        assert np.isin(heaviest, each.rows).all()
        assert np.array_equal(np.unique(event[each.rows], return_counts=True)[1], np.full(len(each.rows) // 2, 2))
    everything = representatives(event, weight, 6_000, 1)
    assert np.array_equal(everything.rows, np.arange(6_000))
    assert (everything.stands_for == 1).all()


# -- changes at the price of a few passes ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_tangents_are_the_derivatives_where_all_dimensions_are_kept(name, network):
    head = HEADS[name]
    layout = DenseLayout((3, 7, 5, head.outputs))
    flat = layout.start(generator())
    along = torch.randn((4, layout.count), generator=generator(5), dtype=torch.float64)
    x = torch.randn((2_048, 3), generator=generator(7), dtype=torch.float64).float()
    fitted = fit_projections(layout, head, flat, along, x, rank=20)
    assert fitted.unexplained < 1e-6
    reread = Projections.of(fitted.tensors(), 3)
    outputs, changes = ProjectedTangents(layout, head, flat, reread, torch.device("cpu"))(x[:1024].T.contiguous())
    exact = Linearisation(layout, flat, x[:1024])
    rows = exact.rows(head.mean_gradient(exact.outputs))
    np.testing.assert_allclose(outputs.T, exact.outputs, rtol=1e-4, atol=1e-5)
    size = rows.along(along, layout).abs().max()
    np.testing.assert_allclose(changes.T, rows.along(along, layout), atol=2e-3 * float(size))


@pytest.mark.parametrize("name", HEADS)
def test_exact_tangents_are_the_derivatives(name):
    head = HEADS[name]
    layout = DenseLayout((3, 7, 5, head.outputs))
    flat = layout.start(generator())
    along = torch.randn((4, layout.count), generator=generator(5), dtype=torch.float64)
    x = torch.randn((1_024, 3), generator=generator(7), dtype=torch.float64).float()
    outputs, changes = ExactTangents(layout, head, flat, along.float(), torch.device("cpu"))(x.T.contiguous())
    exact = Linearisation(layout, flat, x)
    expected = exact.rows(head.mean_gradient(exact.outputs)).along(along, layout)
    np.testing.assert_allclose(outputs.T, exact.outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(changes.T, expected, atol=1e-5 * float(expected.abs().max()))


def test_few_dimensions_keep_the_size_of_the_changes():
    layout = DenseLayout((3, 30, 20, 2))
    flat = layout.start(generator())
    along = torch.randn((40, layout.count), generator=generator(5), dtype=torch.float64)
    x = torch.randn((5_000, 3), generator=generator(7), dtype=torch.float64).float()
    fitted = fit_projections(layout, GaussianHead(), flat, along, x[:4_000], rank=1)
    assert 0.01 < fitted.unexplained < 0.9
    _, changes = ProjectedTangents(
        layout, GaussianHead(), flat, Projections.of(fitted.tensors(), 3), torch.device("cpu")
    )(x[4_000:].T.contiguous())
    exact = Linearisation(layout, flat, x[4_000:])
    expected = exact.rows(GaussianHead().mean_gradient(exact.outputs)).along(along, layout).square().sum(1)
    assert float((changes.square().sum(0) / expected).mean()) == pytest.approx(1, abs=0.1)


def atypical(rank, magnified=1.0):
    """Changes of jets that differ where typical jets hardly do, over the exact ones."""
    layout, head = DenseLayout((6, 30, 20, 2)), GaussianHead()
    flat = layout.start(generator())
    along = torch.randn((40, layout.count), generator=generator(5), dtype=torch.float64)
    x = torch.randn((6_000, 6), generator=generator(7), dtype=torch.float64).float()
    x[:5_000, 3:] *= 1e-3
    fitted = fit_projections(layout, head, flat, along, x[:5_000], rank)
    tensors = fitted.tensors()
    tensors["tangent_changes"] = magnified * tensors["tangent_changes"]
    tangents = ProjectedTangents(layout, head, flat, Projections.of(tensors, 3), torch.device("cpu"))
    _, changes = tangents(x[5_000:].T.contiguous())
    exact = Linearisation(layout, flat, x[5_000:])
    rows = exact.rows(head.mean_gradient(exact.outputs))
    return (changes.square().sum(0).double() / rows.along(along, layout).square().sum(1)).sqrt()


@pytest.mark.parametrize("rank", [3, 5, 8])
def test_jets_that_are_like_no_typical_one_are_not_magnified(rank):
    ratio = atypical(rank)
    assert float(ratio.max()) < 3
    assert 0.5 < float(ratio.median()) < 2


def test_changes_stay_within_reach():
    """What is a thousand times too large is at most a few times so."""
    assert float(atypical(5, magnified=1e3).max()) < 5


# -- what is said of one jet -----------------------------------------------------------------------------------------


def tails(n):
    rng = np.random.default_rng(1)
    ball = CrystalBall(rng.normal(size=(1, n)), *(rng.uniform(a, a + 1, (1, n)) for a in (0.5, 1, 1, 4, 4)))
    return Blend(rng.uniform(0, 0.3, (1, n)), ball, NormalMixture.gaussian(np.zeros((1, n)), np.full((1, n), 3.0)))


@pytest.mark.parametrize("tailed", [False, True])
def test_a_displaced_distribution_is_the_average_of_its_draws(tailed):
    n, rng = 6, np.random.default_rng(4)
    one = tails(n) if tailed else NormalMixture(
        np.array([[[0.3] * n, [0.7] * n]]), rng.normal(size=(1, 2, n)), rng.uniform(0.5, 1, (1, 2, n))
    )  # fmt: skip
    by = rng.normal(size=(4_000, n)) * np.linspace(0.01, 2, n)
    by -= by.mean(0)
    found = displaced(one, by)
    assert found.draws == 4_000
    np.testing.assert_allclose(found.means(), one.means() + by, atol=1e-12)
    np.testing.assert_allclose(found.variances(), np.broadcast_to(one.variances(), by.shape), rtol=1e-12)
    points = np.linspace(-4, 4, 9)[None] + np.zeros((n, 1))
    by_draw = np.stack([one.cdf(points - by[k][:, None]) for k in range(0, 4_000, 8)]).mean(0)
    np.testing.assert_allclose(found.cdf(points), by_draw, atol=0.06)
    if not tailed:
        np.testing.assert_allclose(found.moments()[0], one.moments()[0], atol=1e-12)
        expected = one.moments()[1] + (by**2).sum(0) / (len(by) - 1)
        np.testing.assert_allclose(found.moments()[1], expected, rtol=1e-12)
    some = found.take(slice(1, 3)).affine(2.0, 1.0)
    np.testing.assert_allclose(some.means(), 2 * found.means()[:, 1:3] + 1)
    np.testing.assert_allclose(some.cdf(2 * points[1:3] + 1), found.cdf(points)[1:3], atol=1e-12)


def test_a_gaussian_whose_place_is_uncertain_is_a_broader_gaussian():
    by = np.random.default_rng(5).normal(size=(50, 1))
    by -= by.mean()
    found = displaced(NormalMixture.gaussian(np.zeros((1, 1)), np.full((1, 1), 2.0)), by)
    expected = stats.norm(0, np.hypot(2, by.std(ddof=1)))
    x = np.linspace(-5, 5, 7)[None]
    np.testing.assert_allclose(found.density(x), expected.pdf(x), rtol=1e-12)
    np.testing.assert_allclose(found.cdf(x), expected.cdf(x), rtol=1e-12)
