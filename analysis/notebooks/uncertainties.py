# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which uncertainty can be trusted?
#
# A calibrated jet comes with a width of its own. Two questions decide what it is worth: does the predicted distribution
# of the true $p_T$ *cover* (`sigma_stoch`, intervals), and is the statistical error of the training *as large as the
# scatter of repeated trainings* (`sigma_pred`)? This notebook asks both of four calibrators, on the 10,000 QCD dijet
# events that come with the package (Pythia 8 and Delphes with the CMS card, $\hat p_T > 1$ TeV; 5,000 to train on,
# 5,000 others to test on, all with the same weight). Energies, momenta and masses are in GeV.

# %%
import awkward as ak
import matplotlib.pyplot as plt
import numpy as np
from coffea.nanoevents import DelphesSchema, NanoEventsFactory

import hepcal
from hepcal.demo import demo_fileset
from hepcal.evaluation.diagnostics import diagnose
from hepcal.evaluation.spread import bootstrap_trainings, spread_ratio

# %% [markdown]
# ## Four calibrators
#
# * a Bayesian network with a **Gaussian** likelihood, as in arXiv:2003.11099;
# * the same network with the head `tails`: a Gaussian core with power-law tails on both sides, on a broad Gaussian;
# * the same with the head `mixture`: three Gaussians;
# * an **ensemble** of ordinary networks with the head `tails`, trained on bootstrap samples, two starts on each.
#
# Networks and trainings are small to keep this notebook short; leave the settings out for an analysis.

# %%
train, test = (hepcal.JetPairs.from_fileset(demo_fileset(part), show=False) for part in ("train", "test"))
small = {"hidden": (50, 50), "schedule": "cosine", "learning_rate": 2e-3, "max_updates": 1_000}
methods = {
    "BNN, Gaussian": hepcal.BNN(**small, draws=20),
    "BNN, tails": hepcal.BNN(**small, draws=20, head="tails"),
    "BNN, mixture": hepcal.BNN(**small, draws=20, head="mixture"),
    "Ensemble, tails": hepcal.Ensemble(**small, n=8, head="tails"),
}
calibrators = {name: hepcal.train(train, method, seed=1, show=False) for name, method in methods.items()}
predictions = {name: calibrator.predict(test.features, test.reco) for name, calibrator in calibrators.items()}

# %% [markdown]
# ## What a method declares
#
# A calibrator attaches the uncertainties that its method provides, and no others. `card.quantity` says what `pt_calib`
# is: here always the mean of the predictive distribution.

# %%
for name, calibrator in calibrators.items():
    print(f"{name}: {calibrator.replicas} replicas, pt_calib is the {calibrator.card.quantity}")
print("columns:", *calibrator.columns)
print("systematic variations:", *calibrator.uncertainties)

# %%
kinds = ("stoch", "pred", "tot")
print(f"{'method':<16} {'pt_calib':<9}" + "".join(f"{f'sigma_{kind}':>13}" for kind in kinds))
for method in (hepcal.BNN, hepcal.Hessian, hepcal.Ensemble, hepcal.Dropout, hepcal.Heteroscedastic, hepcal.MSE):
    marks = ("yes" if f"pt_calib_sigma_{kind}" in method.uncertainties else "-" for kind in kinds)
    print(f"{method.__name__:<16} {method.quantity:<9}" + "".join(f"{mark:>13}" for mark in marks))

# %% [markdown]
# `sigma_stoch` has the same meaning in all of them: the width of the distribution of the truth for such a jet, which
# more training data would not reduce. `sigma_pred` has not:
#
# | method | `sigma_pred` is the spread over | as a statistical error |
# | --- | --- | --- |
# | `Hessian` | replicas from the curvature of the loss | **recommended**, for the price of one network |
# | `Ensemble` | means of bootstrap samples, scaled to the error of the mean | right, for the price of 40 |
# | `BNN` | draws from a mean-field posterior | an estimate; see below |
# | `Dropout` | random masks of hidden units | no: it does not shrink as the sample grows |
# | `Heteroscedastic`, `MSE` | nothing: there is one network | not provided |

# %% [markdown]
# ## Densities of single jets
#
# Three jets: with a small, a median and a very large relative width. Mode (point), 68.27 % highest-density set (area)
# and truth (dashed). The Gaussian can only move and widen. The tail head knows that a jet loses energy more easily than
# it gains some: the truth lies far above the mode more often than far below. The mixture can have several peaks.

# %%
width = predictions["BNN, tails"].sigma_tot / predictions["BNN, tails"].mean
jets = np.argsort(width)[[len(test) // 20, len(test) // 2, -len(test) // 100]]
heads = ("BNN, Gaussian", "BNN, tails", "BNN, mixture")
fig, axes = plt.subplots(1, 3, figsize=(16, 5), sharex=True, sharey=True, layout="constrained")
axes[0].set_xlim(0, 1.5 * predictions["BNN, tails"].mean[jets].max())
for ax, name in zip(axes, heads, strict=True):
    hepcal.plot.predictive(predictions[name], jets, test.truth, label=name, ax=ax)

# %% [markdown]
# `highest_density` lists the intervals of a jet: the smallest set that holds a probability. A density with one peak has
# one interval, one with several can have more. The set is not the central interval (as much probability below as
# above), nor $\pm$ `sigma_tot` around `pt_calib`.

# %%
print(f"{'':>14} {'jet':>5} {'truth':>7} {'mode':>7}   {'highest density':<27} {'central':<13} mean ± sigma_tot")
for name in heads:
    prediction = calibrators[name].predict(test.features[jets], test.reco[jets])
    mode, sets, central = prediction.mode(), prediction.highest_density(), prediction.quantile([0.15865, 0.84135])
    for i, jet in enumerate(jets):
        pieces = " and ".join(f"{piece.low:.0f} to {piece.high:.0f}" for piece in sets[i])
        print(
            f"{name:>14} {jet:>5} {test.truth[jet]:7.0f} {mode[i]:7.0f}   {pieces:<27} "
            f"{central[i, 0]:.0f} to {central[i, 1]:<5.0f} {prediction.mean[i]:.0f} ± {prediction.sigma_tot[i]:.0f}"
        )

# %% [markdown]
# ## Do the widths cover?
#
# `diagnose` scores calibrators on jets that they have not seen.

# %%
found = diagnose(calibrators, test, show=False)
figures = {
    "mean of pulls": ("pull_mean", 1),
    "s.d. of pulls": ("pull_sd", 1),
    "half 68% width of pulls": ("pull_half68", 1),
    "within ± sigma_tot [%]": ("within_sigma_tot", 100),
    "coverage of 68.27% intervals [%]": ("coverage_68", 100),
    "width of 68.27% interval [GeV]": ("width_68", 1),
    "sigma_tot [GeV]": ("sigma_tot", 1),
    "CRPS [GeV]": ("crps", 1),
    "log score [nats]": ("nll", 1),
}
print(f"{'':<33}" + "".join(f"{name:>20}" for name in found))
for text, (figure, factor) in figures.items():
    pairs = ((factor * getattr(d.scores, key) for key in (figure, f"{figure}_unc")) for d in found.values())
    print(f"{text:<33}" + "".join(f"{f'{value:.3f} ± {unc:.3f}':>20}" for value, unc in pairs))

# %%
scores = {name: diagnosis.scores for name, diagnosis in found.items()}
fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
hepcal.plot.coverage(scores, ax=left)
hepcal.plot.pit(scores, ax=right)

# %% [markdown]
# **The Gaussian head over-covers although its pulls have about unit spread.** The response is skewed: a narrow core and
# a tail of jets that lost much. The likelihood fits one width to both, the root mean square, and a width that pays for
# the tail is too wide for the core. Intervals hold more truths than they promise, and the pulls are narrow in the
# middle. PIT values near zero are rare and pile up at one: a truth far below the prediction hardly ever occurs, one far
# above it more often than a Gaussian allows.
#
# **The heads with a shape of their own fix that**: intervals are much shorter and hold, to a few percent, what they
# promise, and the scores are better (CRPS and log score: the smaller the better). What remains comes from a small
# sample and from jets below the spectrum, see the next figures; `tests/studies/test_qcd_tails.py` looks at every bin
# with ten times as many jets. `sigma_tot` does not shrink with the intervals: it is the standard deviation of a
# distribution with tails, and far more than 68.27 % of the truths lie within it. Take intervals from
# `prediction.interval()` or `prediction.quantile()`, not from $\pm$ `sigma_tot`.
#
# The same in bins of what is known of the jet. (In bins of the truth even a perfect prediction fails these tests,
# because the truth selects its own fluctuations.)

# %%
binned = {name: diagnosis.pt_calib for name, diagnosis in found.items()}
label = "Calibrated $p_T$ [GeV]"
fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
hepcal.plot.scores_in_bins(binned, "coverage_68", label, ax=left)
hepcal.plot.scores_in_bins(binned, "width_68_relative", label, ax=right)

# %% [markdown]
# An average can hide a bin. The lowest one is below the spectrum of this sample ($\hat p_T > 1$ TeV): two kinds of jets
# meet there, soft ones that are measured well and hard ones that lost much. No density with one peak describes both;
# where it covers, as the Gaussian may, it does so by accident. A mixture can have a peak for each, and the tail head
# has a broad second component for it; how well they learn it is a matter of the size of the sample.

# %%
fig, ax = plt.subplots(figsize=(6.5, 5))
for low, high in ((400, 700), (1000, 1200)):
    inside = (test.reco > low) & (test.reco < high)
    ratio = test.truth[inside] / test.reco[inside]
    ax.hist(ratio, np.linspace(0.8, 2.2, 36), density=True, histtype="step", label=f"{low} to {high} GeV")
ax.set(xlim=(0.8, 2.2), xlabel="True / detector-level $p_T$", ylabel="Normalised density")
ax.legend(title="Detector-level $p_T$", frameon=False)

# %% [markdown]
# ## Is `sigma_pred` a statistical error?
#
# A statistical error says how far the result would move with another sample of the same size. Without other samples,
# bootstrap samples of the one there is tell: train again on each, look at the scatter, and divide `sigma_pred` by it.
# Repeating the training on the *same* sample with other seeds would show noise of the optimiser only.
#
# Five trainings are enough to show the call; take 20 or more to judge. The Bayesian network is compared with other
# trainings of itself, the ensemble, whose value is a mean over starting points, with means of two networks on one
# sample. The last line compares how far the mean of all jets moves, which tests the correlations between jets.

# %%
edges = np.quantile(predictions["BNN, Gaussian"].mean, [0.01, 0.25, 0.5, 0.75, 0.99])
retrained = {
    "BNN, Gaussian": methods["BNN, Gaussian"],
    "Ensemble, tails": hepcal.Ensemble(**small, n=2, sample="same", head="tails"),
}
spreads = {}
for name, method in retrained.items():
    trainings = bootstrap_trainings(train, method, test, n=5, seed=2, show=False)
    spreads[name] = spread_ratio(predictions[name].sigma_pred, trainings, predictions[name].mean, edges, test.weight)
    print(f"{name}: pt_calib [GeV], sigma_pred, spread of trainings, ratio")
    for i in range(len(edges) - 1):
        s = spreads[name]
        print(
            f"  {edges[i]:6.0f} - {edges[i + 1]:5.0f} {s.sigma_pred[i]:8.1f} {s.spread[i]:8.1f} "
            f"{s.ratio[i]:8.2f} ± {s.ratio_unc[i]:.2f}"
        )
    claimed, scatter = (p.mean(axis=1).std(ddof=1) for p in (predictions[name].replicas(), trainings))
    print(f"  mean of all jets {claimed:6.1f} {scatter:8.1f} {claimed / scatter:8.2f}")

# %%
fig, ax = plt.subplots(figsize=(6.5, 5))
ratios = {name: (found.ratio, found.ratio_unc) for name, found in spreads.items()}
hepcal.plot.spread_ratio(edges, ratios, label, ax=ax)

# %% [markdown]
# * **`sigma_pred` of a mean-field network is an estimate.** It treats weights as independent, and falls more slowly
#   with the size of the sample than the scatter of trainings does. It depends on the head, the prior and the length of
#   the training, too: after a short training, as here, its widths are still on their way and it is too narrow jet by
#   jet; after a long one it is too wide (`tests/studies/test_heteroscedastic_toy.py`). So a figure like this does not
#   carry over to another training: make it for yours. For the mean of all jets it is too wide already here: the
#   sample fixes that far better than independent weights can know.
# * **An ensemble knows the error of its mean.** From the scatter inside and between its bootstrap samples it tells what
#   other events would change from what another start changes, which averages out. Four samples, as here, know little of
#   it, a relative $1/\sqrt{2 \cdot 3}$ per jet, which is why the default is 40 networks and not 8.
# * **`Hessian` is the recommended statistical error**: one network, and the curvature of its loss. That it is the
#   scatter of trainings on other events is shown with disjoint samples of QCD jets in
#   `analysis/studies/statistical_error`.
#
# Neither knows of a wrong simulation, nor of the dependence on the truth spectrum of the training.

# %% [markdown]
# ## From jets to events: replicas
#
# The error of a dijet mass depends on how the errors of the two jets go together. `calib_pred.up` and `.down` shift all
# jets at once, by one `sigma_pred`: an envelope. The **replicas** carry the correlations: `pt_calib_replicas` holds the
# $p_T$ of a jet by every network, and number $k$ is the same network for all jets of all events. Compute the observable
# with each, and take the standard deviation.

# %%
path = dict.fromkeys(demo_fileset("test").paths[:1], "Delphes")
events = NanoEventsFactory.from_root(path, schemaclass=DelphesSchema, mode="virtual").events()


def leading_two(jets: ak.Array) -> ak.Array:
    """The two jets of largest calibrated pt, of events that have two."""
    ordered = jets[ak.argsort(jets.pt_calib, axis=1, ascending=False)]
    return ordered[ak.num(ordered, axis=1) > 1][:, :2]


def dijet_mass(first: ak.Array, second: ak.Array) -> np.ndarray:
    """Mass of the sum of two jets, in GeV."""
    return ak.to_numpy((first + second).mass).astype(np.float64)


def scaled(jet: ak.Array, pt: ak.Array) -> ak.Array:
    """Jets with another pt, and their mass scaled alike."""
    return jet * (pt / jet.pt)


# %% [markdown]
# Shifting one jet at a time and adding in quadrature gives the error for uncorrelated jets; shifting both together
# gives that for full correlation.

# %%
errors = {}
for name in ("BNN, tails", "Ensemble, tails"):
    calibrator = calibrators[name]
    pair = leading_two(calibrator(events.Jet, replicas=True))
    one, two = pair[:, 0], pair[:, 1]
    central = [scaled(jet, jet.pt_calib) for jet in (one, two)]
    mass = dijet_mass(*central)
    shifts = [
        dijet_mass(one.calib_pred.up, central[1]) - mass,
        dijet_mass(central[0], two.calib_pred.up) - mass,
    ]
    envelope = 0.5 * (
        dijet_mass(one.calib_pred.up, two.calib_pred.up) - dijet_mass(one.calib_pred.down, two.calib_pred.down)
    )
    replicas = np.stack(
        [
            dijet_mass(*(scaled(jet, jet.pt_calib_replicas[:, k]) for jet in (one, two)))
            for k in range(calibrator.replicas)
        ]
    )
    errors[name] = {
        "uncorrelated": np.hypot(*shifts),
        "replicas": replicas.std(axis=0, ddof=1),
        "calib_pred, fully correlated": envelope,
    }
    of_the_mean = {
        "uncorrelated": np.sqrt(np.sum(errors[name]["uncorrelated"] ** 2)) / len(mass),
        "replicas": replicas.mean(axis=1).std(ddof=1),
        "calib_pred, fully correlated": envelope.mean(),
    }
    print(f"{name}: {len(mass)} events, mean dijet mass {mass.mean():.0f} GeV; its error, and that of one event (rms)")
    for kind, error in errors[name].items():
        print(f"  {kind:<29} {of_the_mean[kind]:6.2f} GeV {np.sqrt(np.mean(error**2)):8.2f} GeV")

# %%
fig, ax = plt.subplots(figsize=(6.5, 5))
bins = np.linspace(0, 1.1, 45)
for name, style in {"BNN, tails": "--", "Ensemble, tails": "-"}.items():
    ratio = errors[name]["replicas"] / errors[name]["calib_pred, fully correlated"]
    ax.hist(ratio, bins, histtype="step", linestyle=style, linewidth=1.4, label=name)
ax.axvline(1, color="black", linewidth=0.8, label="Fully correlated")
uncorrelated = np.median(errors[name]["uncorrelated"] / errors[name]["calib_pred, fully correlated"])
ax.axvline(uncorrelated, color="black", linewidth=0.8, linestyle=":", label="Uncorrelated (median)")
ax.set(xlim=(0, 1.1), xlabel="Error of the dijet mass: replicas / calib_pred", ylabel="Events / 0.025")
ax.legend(frameon=False, loc="upper left")

# %% [markdown]
# For one event, the replicas lie on average between the uncorrelated sum and the envelope, because similar jets move
# together. It matters more for the mean of a sample, or the position of a peak. Uncorrelated errors average out with
# the number of events; a statistical error of the *training* does not, because the same networks calibrate all events.
# The fully correlated shift, on the other hand, moves jets together that the networks do not: it overstates the error
# of a mean. Replicas give the error of any observable, at the price of computing it once per network. They are as good
# as the method: those of the mean-field network move the mean more than those of the ensemble, for the reason seen
# above.
#
# ## In short
#
# * Intervals: `head="tails"`, or `head="mixture"` where a density may have more peaks; `prediction.interval()` and
#   `prediction.highest_density()`.
# * Statistical error of the training: `Hessian()`, which is `analysis/configs/hessian.yaml`; an `Ensemble` to check.
# * Errors of event observables: replicas of these; `calib_pred` where an envelope is enough.
# * Look at the coverage, and at the ratio of `sigma_pred` to the scatter of trainings, on your own sample:
#   `hepcal diagnose`, `hepcal.evaluation.spread`.
