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
# # Bias and spectra: the Gaussian example
#
# How does a calibration depend on the truth spectrum that it was derived with? Where truth and detector are Gaussian,
# everything can be written down, and every method can be held against its closed form. This notebook follows Sec. IV
# and Figures 1 to 4 of arXiv:2205.05084 (Gambhir, Nachman, Thaler), with the Gaussian Ansatz of arXiv:2205.03413.
#
# Truth $z \sim N(\mu, \sigma)$, detector $x \,|\, z \sim N(z, \epsilon)$. Numbers have no unit here and may be
# negative, so that only those parts of hepcal are used that do not ask for a $p_T$.
#
# | | what it is | here |
# | --- | --- | --- |
# | MSE | $f(x) = E[z \,\vert\, x]$: regress $z$ on $x$ | a straight line, which is the exact form (Eq. 30) |
# | NI, numerical inversion | regress $x$ on $z$ and invert | a straight line |
# | Gaussian Ansatz | maximum likelihood, learned with the Donsker-Varadhan loss | `hepcal.methods.ansatz.learning` |
# | OT, optimal transport | the monotone map of simulation onto data | `hepcal.methods.transport.maps.QuantileMap` |
#
# To keep this notebook short the Ansatz is trained three times, on the settings of Fig. 1 and on one spectrum in each
# panel of Fig. 2; numerical inversion, which has the same closed form, stands for prior-independent calibrations
# everywhere else.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import mplhep
import numpy as np

from hepcal.methods.ansatz.calibrator import GaussianAnsatz
from hepcal.methods.ansatz.learning import fit_ansatz
from hepcal.methods.transport.maps import QuantileMap, map_shift, predicted_bias
from hepcal.plot.panels import SERIES, STYLE

plt.rcParams.update(STYLE)
COLOURS = [colour for colour, _ in SERIES]
rng = np.random.default_rng(2205_05084)
table = []  # name, closed form, found, statistical error


@dataclass(frozen=True)
class Gaussians:
    """A truth spectrum and a detector."""

    mu: float = 0.0
    sigma: float = 1.0
    epsilon: float = 2.0

    @property
    def k(self):
        """Slope of the MSE calibration."""
        return self.sigma**2 / (self.sigma**2 + self.epsilon**2)

    def draw(self, n):
        """Detector-level and true values."""
        z = rng.normal(self.mu, self.sigma, n)
        return rng.normal(z, self.epsilon), z

    def mse(self, x):
        """Eq. 30."""
        return self.k * x + (1 - self.k) * self.mu


def line(x, y):
    """Least-squares line: the function, its statistical error as a function, and the spread about it."""
    fit, covariance = np.polyfit(x, y, 1, cov=True)

    def unc(at):
        return np.sqrt(covariance[0, 0] * np.square(at) + 2 * covariance[0, 1] * at + covariance[1, 1])

    return np.poly1d(fit), unc, np.std(y - np.polyval(fit, x))


# %% [markdown]
# ## Figure 1: one sample, two calibrations
#
# 20,000 events with $(\mu, \sigma, \epsilon) = (0, 1, 2)$: the detector is *worse* than the spectrum is wide. A
# regression of $z$ on $x$ then mostly repeats the spectrum: its slope is $k = 0.2$.

# %%
example = Gaussians()
x, z = example.draw(20_000)
regression, regression_unc, width_given_x = line(x, z)
response, response_unc, _ = line(z, x)
table += [
    ("MSE slope k", 0.2, regression[1], regression_unc(1e9) / 1e9),
    ("MSE intercept", 0.0, regression[0], regression_unc(0)),
    ("point resolution MSE, sd of z given x", 0.894427, width_given_x, width_given_x / np.sqrt(2 * len(x))),
    ("NI slope of x on z", 1.0, response[1], response_unc(1e9) / 1e9),
]

# %% [markdown]
# The Gaussian Ansatz is not started at numerical inversion, as hepcal does by default: that would begin at the answer.
# It starts at the MSE line, the wrong answer, so that it is the loss which finds the right one. $B$ and the argument of
# $C$ are straight lines; $A$, which has to draw a parabola, is a network of three layers of 16 units.

# %%
settings = GaussianAnsatz(hidden=(16, 16, 16), networks="affine", start="mse")
ansatz = fit_ansatz(x, z, method=settings, seed=1)
points = np.linspace(-5, 5, 20)
information = ansatz.dvr(*example.draw(100_000))
table.append(("mutual information [nats], 100,000 fresh events", 0.111572, information.value, information.unc))
slope = np.polyfit(points, ansatz.calibrated(points), 1)[0]
print(f"slope of B: started at {regression[1]:.3f}, ended at {slope:.3f} after {ansatz.history[-1][0]} updates")
print(f"slope by numerical inversion of the same events: {1 / response[1]:.3f} ± {response_unc(1e9) / 1e9:.3f}")
print(f"sigma at x = 0: {ansatz.sigma(np.zeros(1))[0]:.3f}, exact 2")

# %% [markdown]
# The statistical floor for the slope of any prior-independent method is $\epsilon / (\sigma \sqrt N)$, 1.4 % here.
# The loss is flat: it knows $1 / \sigma^2 + 1 / \epsilon^2$, of which $1 / \epsilon^2$ is a fifth. A curvature wrong by
# 14 % costs $3 \cdot 10^{-4}$ of 0.11 nats: a loss that looks converged proves nothing. Look at $B$.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5.2), layout="constrained")
counts, *edges = np.histogram2d(x, z, bins=50, range=[(-5, 5)] * 2)
image = mplhep.hist2dplot(np.where(counts > 0, counts, np.nan), *edges, ax=left, cmap="Blues", cbar=False)
fig.colorbar(image.pcolormesh, ax=left, label="Events / bin")
left.plot(points, regression(points), color=COLOURS[1], label=f"Fit of z on x (MSE): slope {regression[1]:.3f}")
left.plot(response(points), points, color=COLOURS[3], linestyle="--", label=f"Fit of x on z: slope {response[1]:.3f}")
left.set(xlabel="Detector level x", ylabel="Truth z", xlim=(-5, 5), ylim=(-5, 5))
left.set_title(r"$\mu = 0,\ \sigma = 1,\ \epsilon = 2$", loc="left")
left.legend(loc="upper left")

for found, sigma, colour, marker, name in (
    (regression(points), width_given_x, COLOURS[1], "s", r"MSE $\pm$ posterior width"),
    (ansatz.calibrated(points), ansatz.sigma(points), COLOURS[0], "o", r"Gaussian Ansatz $\pm\,\hat\sigma$"),
):
    right.fill_between(points, found - sigma, found + sigma, color=colour, alpha=0.2, linewidth=0)
    right.plot(points, found, marker, color=colour, markersize=5, label=name)
right.plot(points, example.mse(points), color=COLOURS[1], linewidth=1, label=r"Exact: $0.2\,x \pm 0.894$")
right.plot(points, points, color=COLOURS[0], linewidth=1, label=r"Exact: $x \pm 2$")
right.set(xlabel="Detector level x", ylabel=r"Calibrated $\hat z$", xlim=(-5.2, 5.2), ylim=(-7.5, 10.5))
right.legend(loc="upper left")
for ax, name in ((left, "Fig. 1a"), (right, "Fig. 1b")):
    ax.set_title(name, loc="right")

# %% [markdown]
# The points on the right are the calibrations at $x$ itself, not averages over detector noise around it.
#
# Both bands are called resolution, and are different things. That of the MSE calibration is the width of the truth
# *given the measurement*, 0.894; the spread of $\hat z$ *given the truth* is only $\epsilon k = 0.4$, because the
# answer hardly moves with the measurement. For a maximum-likelihood calibration both are $\epsilon = 2$. A small width
# is no merit where the response is 0.2.

# %% [markdown]
# ## Bias in bins of truth
#
# $b(z) = E[\hat z - z \,|\, z]$, with 10,000 throws of the detector for each $z$. The average of $\hat z - z$ over the
# whole spectrum is zero for the MSE calibration, and says nothing.

# %%
average = np.mean(regression(x) - z)
print(f"mean of MSE - z over the spectrum: {average:+.4f} ± {width_given_x / np.sqrt(len(x)):.4f}")
for truth in (-5.0, -2.0, 0.0, 2.0, 5.0):
    throws = rng.normal(truth, example.epsilon, 10_000)
    for name, calibrate, exact, width, unc_of_fit in (
        ("MSE", regression, 0.8 * (0 - truth), 0.4, regression_unc(truth)),
        ("NI", lambda x: (x - response[0]) / response[1], 0.0, 2.0, response_unc(truth)),
    ):
        residual = calibrate(throws) - truth
        spread = residual.std()
        table.append((f"bias {name} at z = {truth:+.0f}", exact, residual.mean(), np.hypot(spread / 100, unc_of_fit)))
        if truth == 2:
            relative = regression_unc(1e9) / 1e9 / regression[1] if name == "MSE" else response_unc(1e9) / 1e9
            unc = spread * np.hypot(1 / np.sqrt(20_000), relative)
            table.append((f"resolution {name} given z", width, spread, unc))

# %% [markdown]
# ## Figure 2: other spectra
#
# Five spectra per panel, 10,000 events per fit; at 20 values of the truth the average over 10,000 throws of
# $x \,|\, z$. Lines are exact: $E[\hat z \,|\, z] = k z + (1 - k) \mu$ for MSE, which is $z + b(z)$, and $z$ for
# prior-independent calibrations. The points of numerical inversion are drawn with the error of its fit. The Ansatz
# starts at the MSE line again.

# %%
truths = np.linspace(-5, 5, 20)


def draw_spectra(ax, spectra, names, ansatz_at):
    """Average calibrated value against truth for fits on several spectra; one of them with the Ansatz, too."""
    ax.plot(truths, truths, color="black", linewidth=1, label="No bias")
    for i, (spectrum, name, colour) in enumerate(zip(spectra, names, COLOURS, strict=False)):
        x, z = spectrum.draw(10_000)
        throws = rng.normal(truths, spectrum.epsilon, (10_000, len(truths)))
        mse, mse_unc, _ = line(x, z)
        plain = f"mu = {spectrum.mu:g}, sigma = {spectrum.sigma:g}"
        table.append((f"Fig. 2, MSE slope, {plain}", spectrum.k, mse[1], mse_unc(1e9) / 1e9))
        ax.plot(truths, mse(throws).mean(0), "s", color=colour, markersize=4, label=f"MSE, {name}")
        ax.plot(truths, spectrum.mse(truths), color=colour, linewidth=1)
        g, g_unc, _ = line(z, x)
        slope_unc = g_unc(1e9) / 1e9
        table.append((f"Fig. 2, NI slope of x on z, {plain}", 1.0, g[1], slope_unc))
        if g[1] < 10 * slope_unc:
            print(f"{plain}: slope of x on z is {g[1]:.1f} ± {slope_unc:.1f}: nothing to invert, not drawn")
            continue
        inverted = ((throws - g[0]) / g[1]).mean(0)
        # The five are drawn side by side.
        place = truths + 0.07 * (i - 2)
        ax.errorbar(place, inverted, g_unc(truths), fmt="o", color=colour, markerfacecolor="white", markersize=4)
        if i == ansatz_at:
            fit = fit_ansatz(x, z, method=settings, seed=2)
            values = fit.calibrated(throws.reshape(-1)).reshape(throws.shape).mean(0)
            ax.plot(truths, values, "*", color=colour, markersize=9, label=f"Gaussian Ansatz, {name}")
            slope = np.polyfit(truths, values, 1)[0]
            print(f"{plain}: slope of B {slope:.3f}; numerical inversion {1 / g[1]:.3f} ± {slope_unc:.3f}")
    ax.errorbar([], [], [], fmt="o", color="black", markerfacecolor="white", markersize=4, label="NI, all")
    ax.set(xlabel="Truth z", ylabel=r"Mean calibrated value $E[\hat z\,|\,z]$", xlim=(-5.4, 5.4), ylim=(-6, 12))
    ax.legend(loc="upper left", ncols=2)


fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
means = (-2, -1, 0, 1, 2)
draw_spectra(left, [Gaussians(mu=mu) for mu in means], [rf"$\mu = {mu}$" for mu in means], 4)
left.set_title(r"$\sigma = 1,\ \epsilon = 2$", loc="left")
widths = (0.01, 0.5075, 1.005, 1.5025, 2)
draw_spectra(right, [Gaussians(sigma=s) for s in widths], [rf"$\sigma = {s:g}$" for s in widths], 4)
right.set_title(r"$\mu = 0,\ \epsilon = 2$", loc="left")
for ax, name in ((left, "Fig. 2a"), (right, "Fig. 2b")):
    ax.set_title(name, loc="right")

# %% [markdown]
# The MSE calibration pulls towards the mean of its spectrum, the more the narrower that is. Prior-independent ones do
# not, but they pay: a narrow spectrum hardly tells how $x$ moves with $z$. The statistical error of the slope is
# $\epsilon / (\sigma \sqrt N)$, two per cent for $\sigma = 1$ and $\pm 2$ for $\sigma = 0.01$, where 10,000 events
# determine no calibration at all.

# %% [markdown]
# ## Figures 3 and 4: optimal transport
#
# A *data-based* calibration: move simulated $x$ so that their distribution becomes that of data, without any truth.
# 100,000 events each, $\sigma = 1$, $\epsilon_{sim} = 1$, $\epsilon_{data} = 2$. The map is derived on a spectrum with
# $\mu = 0$ ("training") and applied to one with $\mu = 2$ ("test"), on which a map of its own is derived to compare.
#
# The legends printed in the published figures have the two $\epsilon$ interchanged. The slope drawn there, 1.58, needs
# the larger noise in data: $\alpha = \sqrt{(\sigma^2 + \epsilon_{data}^2) / (\sigma^2 + \epsilon_{sim}^2)}$.

# %%
N, SIM, DATA = 100_000, 1.0, 2.0
alpha = np.sqrt((1 + DATA**2) / (1 + SIM**2))
samples = {
    name: tuple(Gaussians(mu, 1, epsilon).draw(N)[0] for epsilon in (SIM, DATA))
    for name, mu in (("training", 0.0), ("test", 2.0))
}
maps = {name: QuantileMap.fit(*pair) for name, pair in samples.items()}
moved = {name: maps["training"](simulation) for name, (simulation, _) in samples.items()}
for name, (simulation, data) in samples.items():
    outside = maps["training"].out_of_range(simulation).sum()
    print(f"{name}: mean after the map minus that of data {moved[name].mean() - data.mean():+.4f}, ", end="")
    print(f"{outside} of {N} simulated values outside of the range of the map and clamped")
# On the test spectrum map, simulation and data are independent; each half of the variance is that of the map.
data = samples["test"][1]
table += [
    ("OT mean after - data, test", 2 * (alpha - 1), moved["test"].mean() - data.mean(), np.sqrt(4 * 5 / N)),
    ("OT width after, test", np.sqrt(5), moved["test"].std(), np.sqrt(2 * 5 / N)),
]

# %%
fig, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
bins = np.linspace(-10, 10, 20)
for ax, (name, (simulation, data)) in zip(axes, samples.items(), strict=True):
    h_sim, h_data, h_moved = (np.histogram(values, bins)[0] / N for values in (simulation, data, moved[name]))
    mplhep.histplot(h_data, bins, ax=ax, histtype="fill", color="#d3d6da", label=rf"Data, $\epsilon = {DATA:g}$")
    mplhep.histplot(h_sim, bins, ax=ax, color=COLOURS[5], label=rf"Simulation, $\epsilon = {SIM:g}$")
    mplhep.histplot(
        h_moved, bins, ax=ax, histtype="errorbar", yerr=np.sqrt(h_moved / N), color=COLOURS[0], markersize=5,
        label="Simulation after the training map",
    )  # fmt: skip
    ax.set(xlabel="Detector level x", xlim=(-10, 10), ylim=(0, 0.42))
    mu = {"training": 0, "test": 2}[name]
    ax.set_title(rf"{name.capitalize()} spectrum, $\mu = {mu}$", loc="left")
    ax.set_title("Figs. 3, 4", loc="right")
    ax.legend(loc="upper left")
axes[0].set_ylabel("Share of events / bin")

# %% [markdown]
# On its own spectrum the map closes by construction. On the other one the width comes out right, $\sqrt 5$, and the
# mean is wrong by $(1 - \alpha)(\mu_{train} - \mu_{test}) = 1.162$ everywhere: the two maps have the same slope, and
# only the offset knows the spectrum. `map_shift` is the difference of two maps, `predicted_bias` what it does to the
# calibrated value. They need a map on the other spectrum, which data do not give: they are a diagnosis made with
# simulation, not a correction.

# %%
at = np.linspace(-7, 7, 20)
fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
for (name, h), colour, marker, offset in zip(maps.items(), COLOURS, ("o", "s"), (0, 2 * (1 - alpha)), strict=False):
    inside = at[~h.out_of_range(at)]
    text = rf"$h_{{{name[:5]}}}$, exact: ${alpha:.6f}\,x{f' {offset:+.6f}' if offset else ''}$"
    left.errorbar(inside, h(inside), h.error(inside), fmt=marker, color=colour, markersize=5, label=text)
    left.plot(at, alpha * at + offset, color=colour, linewidth=1)
    centre = {"training": 0, "test": 2}[name]
    low, high = centre + np.sqrt(2) * 0.67449 * np.array([-1, 1])
    unc = np.sqrt(2 / 3 * (h.error(low) ** 2 + h.error(high) ** 2)) / (high - low)
    table.append((f"OT slope between the quartiles, {name}", alpha, (h(high) - h(low)) / (high - low), unc))
    table.append((f"OT map at the mean, {name}", alpha * centre + offset, float(h(centre)), float(h.error(centre))))
left.set(xlabel="Simulated x", ylabel="h(x)", xlim=(-7.5, 7.5))
left.set_title(rf"$\epsilon_{{sim}} = {SIM:g},\ \epsilon_{{data}} = {DATA:g}$", loc="left")
left.set_title("Figs. 3, 4", loc="right")
left.legend(loc="upper left")

train, test = maps["training"], maps["test"]
both = at[~train.out_of_range(at) & ~test.out_of_range(at)]
for i, (values, (found, unc), name) in enumerate(
    (
        (both, map_shift(train, test, both), r"Difference of the maps, $h_{train}(x) - h_{test}(x)$"),
        (test(both), predicted_bias(train, test, test(both)), r"Bias $h_{train}(h_{test}^{-1}(y)) - y$"),
    )
):
    right.errorbar(values, found, unc, fmt="os"[i], color=COLOURS[2 * i], markersize=5, label=name)
    middle = len(values) // 2
    table.append((f"OT {('shift', 'predicted bias')[i]} in the middle", 2 * (alpha - 1), found[middle], unc[middle]))
right.axhline(2 * (alpha - 1), color="black", linewidth=1, label=f"Exact: {2 * (alpha - 1):.6f}")
right.set(xlabel="x, or y", ylabel="Shift", ylim=(-0.8, 3))
right.legend(loc="upper left")

# %% [markdown]
# ## All numbers
#
# Errors are statistical, of this notebook's samples; the last column is the difference in units of them.

# %%
print(f"{'':<49} {'closed form':>12} {'found':>10} {'error':>9} {'pull':>6}")
for name, exact, found, unc in table:
    print(f"{name:<49} {exact:12.6f} {found:10.4g} {unc:9.2g} {(found - exact) / unc:+6.1f}")
print(f"largest |pull| of {len(table)}: {max(abs(found - exact) / unc for _, exact, found, unc in table):.1f}")

# %% [markdown]
# ## What is not repeated
#
# The public notebooks of the paper have defects that one should know before laying these figures beside the published
# ones. Of the Gaussian example:
#
# * the legends of Figs. 3 and 4 have $\epsilon_{data}$ and $\epsilon_{sim}$ interchanged;
# * the curve called analytic bias in the notebook is the mean $E[\hat z \,|\, z] = k z + (1 - k) \mu$, not the bias
#   $b(z) = (1 - k)(\mu - z)$;
# * the MSE points of Fig. 1b are averages over detector noise around $x$, which is $f(x)$ only for a straight line;
# * text and notebooks differ in the training of the Ansatz (100 epochs with batches of 128, or 1000 epochs of ten
#   batches of 1024; $D = 0$, or a network), and about 10,000 of the 20,000 events are used.
#
# Of the dijet study:
#
# 1. every event is entered once per jet *before* the random split, so that one event can be in both halves;
# 2. the second half is made of the first half of the indices without the training ones: it is a quarter of the sample;
# 3. of the three slices of the fast simulation, only the lowest is used, although all are read;
# 4. arrays named after reconstructed $p_T$ hold the generated one;
# 5. the training step of the Gaussian Ansatz ignores the event weights (harmless only since what it learns does not
#    depend on the spectrum);
# 6. the MSE regression gets weights of order $10^{-9}$ that are not normalised, far below the stabiliser of Adam, so
#    that it hardly trains; its published width is probably not the asymptotic one;
# 7. for the full simulation in Fig. 5 the resonance weights are not divided by the QCD density, as they are in Figs. 6
#    and 7, and the fast-simulation histogram there is of the reconstructed mass.
#
# hepcal splits by event before jets are listed, normalises weights to mean one before a loss sees them, uses weights in
# both terms of the Donsker-Varadhan loss, and makes resonance weights in one place.
