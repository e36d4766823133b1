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
# # Per-object systematics of top jets
#
# A Bayesian network gives every jet a calibrated $p_T$ and errors of three origins: the limited training sample
# (`sigma_pred`), the scatter of the truth at a given jet (`sigma_stoch`), and the errors of the labels that it was
# trained on (`sigma_cal`). Are these numbers what they claim to be? This notebook goes through the study of
# arXiv:2003.11099 (Kasieczka, Luchmann, Otterpohl, Plehn, SciPost Phys. 9, 089) figure by figure, with jets of our
# own.
#
# | | in the paper | here |
# | --- | --- | --- |
# | events | hadronic tops at 14 TeV without multi-parton interactions, Pythia 8 + Delphes, ATLAS card | the same |
# | jets | anti-$k_T$, $R=1.2$ | the same |
# | constituents | up to 100 four-vectors in falling $p_T$ | the same, in the frame of the jet |
# | truth | $p_T$ of the top quark | the same, last copy before the decay |
# | training and slices | in the *fat-jet* $p_T$ | the same, and a wide slice with more jets beside |
# | training jets | up to 2.2 million | tens of thousands, see below |
# | tested | on jets of their own | five-fold cross-fitting: every jet once, by a training that has not seen it |
# | network | dense 100-100-50-50, prior 0.1, flipout | the same, local reparametrisation |
# | batch and step | 100 and a constant $10^{-4}$ | larger and cosine, compared below on one point |
#
# Nothing is trained here but a toy at the end: the numbers come from the JSON files that the studies in
# `analysis/studies/per_object_systematics` write. **The figures of the paper in GeV are no targets.** Our jets lose
# more energy and have a longer tail on the side of lost energy, and every width is set by that tail. What can be
# compared are shapes, ratios and trends. All $p_T$, widths and intervals are in GeV; errors of figures are standard
# errors of a bootstrap of the jets unless something else is said.

# %%
import json
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

import hepcal
from hepcal.plot.panels import STYLE

STUDIES = Path(hepcal.__file__).parents[1] / "analysis" / "studies" / "per_object_systematics"
if not STUDIES.is_dir():
    raise FileNotFoundError(
        f"{STUDIES} is not there: this notebook needs the checkout of hepcal, installed with 'pip install -e .'"
    )
# Results of your own runs: set HEPCAL_STUDY_RESULTS to the --output of the studies.
RESULTS = Path(os.environ.get("HEPCAL_STUDY_RESULTS", STUDIES / "results"))

sys.dont_write_bytecode = True
sys.path.insert(0, str(STUDIES))
import paper
from figures import DRAWN
from figures_densities import ASKED, ENDS, TRUTH_EDGES
from figures_widths import TOLERANCE

plt.rcParams.update(STYLE)


def read(study):
    """What a study found."""
    path = RESULTS / f"{study}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run 'python {study}.py' of {STUDIES}, see its README")
    return json.loads(path.read_text())


def draw(study, *titles):
    """Figures of a study."""
    for title in titles:
        DRAWN[study][title](found[study])


def say(text):
    display(Markdown(text))


def table(header, rows):
    """A table; each row a list of texts."""
    lines = [header, ["---"] * len(header), *rows]
    say("\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines))


def pm(value, unc=None, digits=1):
    """A number with its error."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if unc is None else f" ± {unc:.{digits}f}")


def pmu(row, name, digits=1):
    """A figure of a row with its error."""
    return pm(row[name], row[f"{name}_unc"], digits)


def yes(true):
    return "yes" if true else "**no**"


found = {study: read(study) for study in DRAWN}
WINDOWS = {"600-620": "600-620 GeV", "500-800": "500-800 GeV"}
WIDE = "500-800"
if any(part["quick"] for part in found.values()):
    say("**These are results of quick runs: few jets and short trainings. Only the layout is to be judged.**")
table(
    ["study", "minutes of the last run", "quick"],
    [[study, part["minutes"], "yes" if part["quick"] else "no"] for study, part in found.items()],
)

# %% [markdown]
# ## The jets, and what a perfect network would say (Figures 2 and 3)
#
# The spectrum is flat in the true $p_T$; that of the fat jet falls at its upper end, since jets lose energy. At a
# given fat-jet $p_T$ the truth is not one number but a distribution. A perfect network predicts just this
# distribution, made narrower by what the constituents tell.
#
# **Expected:** without initial-state radiation (ISR) the distribution is *asymmetric*. Constituents can be lost, below
# threshold or out of the jet, but none can be won, so that the truth is above the jet. With ISR foreign radiation gets
# into the jet as well, and the two sides become more alike.

# %%
draw("truth", "figure_2", "figure_3")

# %%
truth, far = found["truth"], found["truth"]["far"]
table(
    [
        "slice", "jets of", "n", "mean", "median", "sd", "skewness", "shortest 68.27 %", f"{far:.0%} below the jet",
        f"{far:.0%} above",
    ],
    [
        [
            WINDOWS[window], label, row["jets"], pmu(row, "mean"), pmu(row, "median"),
            pmu(row, "sd"), pmu(row, "skewness", 2), f"{row['low']:.0f}-{row['high']:.0f}",
            *(pm(100 * row[side], 100 * row[f"{side}_unc"]) + " %" for side in ("below", "above")),
        ]
        for window in WINDOWS for label, row in truth["slices"][window].items()
    ],
)  # fmt: skip
off, on = (truth["slices"][WIDE][label] for label in ("ISR off", "ISR on"))
first = truth["slices"][WIDE]["ISR off, first copy of the top"]
say(
    f"**Found** (wide slice; truth / jet times the mean jet $p_T$): without ISR the truth is more than {far:.0%} above "
    f"the jet for {off['above']:.1%} of the jets and as far below for {off['below']:.1%}, a ratio of "
    f"{off['above'] / off['below']:.0f} to 1; with ISR the ratio is {on['above'] / on['below']:.1f} to 1, and the "
    f"skewness goes from {pmu(off, 'skewness', 2)} to {pmu(on, 'skewness', 2)}. The asymmetry is there, and ISR "
    "reduces it. It does not remove it as in the paper, since our jets lose more energy: the mean truth in the narrow "
    f"slice without ISR is {truth['slices']['600-620']['ISR off']['mean']:.0f} GeV here and "
    f"{paper.SLICE_TRUTH['mean']:.0f} GeV there."
)
say(
    "**Which top quark is the truth?** The top radiates gluons before it decays, and the jet collects a part of them. "
    f"Measured against the *first* copy of the top, before radiation, {first['below']:.2%} of the jets have a truth "
    f"far below the jet; against the *last* copy, {off['below']:.1%}. So those are jets that won back radiation of "
    "their own top. Physics of the decay belongs to the last copy, which is used from here on. About "
    f"{truth['top_contained']:.0%} of the jets hold all three quarks of the decay within $\\Delta R<1.2$; the others "
    "are not left out, since no experiment could do so."
)
draw("truth", "figure_3_definitions")

# %% [markdown]
# **What can a network learn from the constituents?** The energy that is missing, as far as the mass of the top tells: a
# jet lighter than a top has lost something. Near 80 GeV sits a $W$ without its $b$ jet, near the mass of the top is all
# that the top had, and a heavier jet has won something.

# %%
draw("truth", "mass")
mass = truth["mass"][WIDE]
middle = (np.array(mass["edges"][1:]) + np.array(mass["edges"][:-1])) / 2
at = {m: mass["ratio"][int(np.argmin(np.abs(middle - m)))] for m in (85, 135, 175, 225)}
say(
    "**Found:** mean truth / jet $p_T$ is "
    + ", ".join(f"{pm(value, digits=2)} at a mass of {m} GeV" for m, value in at.items())
    + ". This is why calibration lowers √MSE as much as the next section shows."
)

# %% [markdown]
# ## Is the error of the prediction the one it claims? (Figure 4, Eq. 14)
#
# **Expected:** when the statistical error is small, the mean squared error of the prediction is the mean
# $\sigma^2_\mathrm{stoch}$. With a sizeable $\sigma_\mathrm{pred}$ it lies between $\sigma^2_\mathrm{stoch}$ and
# $\sigma^2_\mathrm{tot}=\sigma^2_\mathrm{stoch}+\sigma^2_\mathrm{pred}$. Near the ends of the range the training sees
# only one side of the migration between truth and jet. This reaches some 200 GeV into the range, which is shaded.

# %%
draw("resolution", "figure_4")

# %%
resolution = found["resolution"]
rows, agree = [], {}
for window in WINDOWS:
    for label, row in resolution["slices"][window].items():
        tolerance = max(TOLERANCE, 2 * row["rmse_over_stoch_unc"])
        good = abs(row["rmse_over_stoch"] - 1) <= tolerance
        agree[window, label] = good
        rows.append([
            WINDOWS[window], label, row["jets"], pm(row["rmse_uncalibrated"]), pmu(row, "rmse"),
            pmu(row, "bias"), pmu(row, "stoch"), pmu(row, "pred"),
            pmu(row, "rmse_over_stoch", 3), pmu(row, "rmse_over_tot", 3),
            f"{yes(good)} ({tolerance:.1%})",
        ])  # fmt: skip
table(
    [
        "slice", "jets", "n", "√MSE, no calibration", "√MSE", "mean of truth - p_T", "σ_stoch", "σ_pred",
        "√MSE / σ_stoch", "√MSE / σ_tot", "equal within",
    ],
    rows,
)  # fmt: skip
row = resolution["slices"][WIDE]["all"]
inner = [b["rmse_over_stoch"] for b in resolution["bins"] if not b["boundary"]]
outer = [b["rmse_over_stoch"] for b in resolution["bins"] if b["boundary"]]
closed = all(abs(ratio - 1) <= TOLERANCE for ratio in inner)
say(
    f"**Found:** in the wide slice √MSE / σ_stoch = {pmu(row, 'rmse_over_stoch', 3)} and √MSE / σ_tot = "
    f"{pmu(row, 'rmse_over_tot', 3)}. In 40 GeV bins the first ratio is {min(inner):.2f} to {max(inner):.2f} inside "
    f"and {min(outer):.2f} to {max(outer):.2f} in the shaded region. "
    + (
        "The network knows its width where the training sees both sides of the migration: use it there."
        if closed
        else "Not all inner bins agree within the tolerance: these trainings do not know their width."
    )
)
narrow, kept = resolution["slices"]["600-620"]["all"], resolution["slices"][WIDE]["contained"]
say(
    f"σ_stoch in the narrow slice is {narrow['stoch'] / 610:.1%} of its $p_T$, and {paper.PLATEAU_RELATIVE:.0%} in the "
    "paper. It is a property of the jets more than of the network (Figure 3). The jets with all quarks inside are "
    f"judged by the same network, which does not know this about them: their truth is on average {pmu(kept, 'bias')} "
    f"GeV above the prediction, that of all jets {pmu(row, 'bias')} GeV."
)

# %% [markdown]
# ## What more training jets change (Figures 5 and 7)
#
# **Expected:** $\sigma_\mathrm{stoch}$ is a property of the jets and reaches a plateau; $\sigma_\mathrm{pred}$ is
# statistical and falls with the number of training jets $N$, as $N^{-1/2}$ for an exact posterior in the regime where
# the data decide. Points are means over independent trainings on disjoint tests, bars their standard deviation. The
# ensemble beside it consists of ordinary networks, each on a bootstrap sample: its spread is the reference for
# $\sigma_\mathrm{pred}$.

# %%
draw("training_size", "figure_5", "figure_7")

# %%
size = found["training_size"]
columns = ("rmse", "stoch", "pred", "rmse_over_stoch")
for kind, text in (("bayesian", "Bayesian network"), ("ensemble", f"Ensemble of {size['members']}")):
    table(
        [f"{text}, {WINDOWS[WIDE]}: jets", "√MSE", "σ_stoch", "σ_pred", "√MSE / σ_stoch"],
        [
            [p["size"], *(pm(p[name], p[f"{name}_sd"], 3 if "over" in name else 1) for name in columns)]
            for p in size[kind][WIDE]
        ],
    )  # fmt: skip
points, reference = size["bayesian"][WIDE], size["ensemble"][WIDE]
preds = np.array([p["pred"] for p in points])
ratios = preds / np.array([p["pred"] for p in reference])
late = "over these sizes" if size["quick"] else "from 10,000 jets on"
summary, other, peak = size[f"bayesian_{WIDE}"], size[f"ensemble_{WIDE}"], int(np.argmax(preds))
say(
    f"**Found:** σ_stoch varies by {summary['stoch_spread']:.1%} {late} (at most {TOLERANCE:.0%} is asked: "
    f"{yes(summary['stoch_spread'] <= TOLERANCE)}); that of the ensemble by {other['stoch_spread']:.1%}. σ_pred of the "
    f"Bayesian network has the slope {summary['pred_slope']:.2f} in ln N over all sizes, and -0.5 would be exact; that "
    f"of the ensemble {other['pred_slope']:.2f}. σ_pred of the network over that of the ensemble is "
    + ", ".join(f"{ratio:.2f} at {p['size']}" for ratio, p in zip(ratios, points, strict=True))
    + " jets."
)
if peak > 0:
    say(
        f"σ_pred does **not fall from the smallest sample on**: it is {preds[0]:.1f} GeV with {points[0]['size']} jets "
        f"and largest, {preds[peak]:.1f} GeV, with {points[peak]['size']}. With few jets the divergence from the prior "
        "outweighs the likelihood (question 8 below): most weights stay at their prior, the network says little more "
        "than the average response, and a network that uses few weights has little to be uncertain about. The error "
        "of this simpler network is not in σ_pred; it is in σ_stoch, which covers whatever the model cannot describe. "
        "Mean-field posteriors leave out correlations of weights and give no guarantee for the size of σ_pred in "
        "either regime."
    )
else:
    say("σ_pred falls from the smallest sample on.")
if other["pred_slope"] > -0.25:
    say(
        "The ensemble does not show the fall of an exact posterior either. Its networks are stopped on held-out jets "
        "and have dropout against over-training, so that with few jets they, too, say less than there is to say. With "
        "more weights than jets, neither is where the data decide. What more jets bring is seen in √MSE, from "
        f"{points[0]['rmse']:.1f} GeV with {points[0]['size']} jets to {points[-1]['rmse']:.1f} GeV with "
        f"{points[-1]['size']}."
    )
say(
    "A rule for use: take σ_pred of a Bayesian network as an indicator of *where* training jets are missing, and the "
    "spread of an ensemble (`hepcal.Ensemble`, or `hepcal.evaluation.spread` for repeated trainings) as its *size*."
)

# %% [markdown]
# ## Which jets have a large statistical error? (Figure 6)
#
# **Expected:** rare inputs. In the paper $\sigma_\mathrm{pred}$ has a long upper tail, and jets with many constituents
# carry more of it, since the training holds few of them.

# %%
draw("constituents", "figure_6")

# %%
many = found["constituents"]
filled = [row for row in many["bins"] if row.get("sigma_pred") is not None]
low, high = (row["sigma_pred"] for row in (min(filled, key=lambda r: r["sigma_pred"]), filled[-1]))
rises = many["tail_over_bulk"] > 1 + 2 * many["tail_over_bulk_unc"]
say(
    f"**Found:** jets with more than {many['tail_above']:.0f} constituents, the upper twentieth, have "
    f"{pmu(many, 'tail_over_bulk', 2)} times the σ_pred of typical jets ({pmu(many, 'relative_tail_over_bulk', 2)} "
    f"relative to their $p_T$): it rises in the sparse tail: {yes(rises)}. The last bin, which contains jets that lost "
    f"constituents beyond the hundredth, has {high:.1f} GeV. The rank correlation with the number is "
    f"{many['rank_correlation']:.2f}."
)
if low == filled[0]["sigma_pred"]:
    say(
        f"The other end is sparse, too, and σ_pred is *small* there: it is lowest, {low:.1f} GeV, in the bin of fewest "
        "constituents. Rarity alone is not what counts. A jet with few constituents has most of its slots empty; the "
        "weights behind empty slots are multiplied by zero, and their uncertainty does not matter. With many "
        "constituents all of them matter, those of soft slots which are filled in few training jets most of all."
    )

# %% [markdown]
# ## The shape of the prediction (Figure 8, Table 2)
#
# Mean and width say nothing of the shape. The mean predicted density of the jets of a slice must be the distribution
# of their truth. "Maximum and 68.27 % set" are the mode and the set of highest density: its two ends have equal
# density.
#
# **Expected:** one Gaussian gets mean and $\sigma_\mathrm{stoch}$ right and mode and ends wrong; two or three get all
# of them. $\sigma_\mathrm{stoch}$ hardly changes, so that it cannot tell which is better.

# %%
draw("mixtures", *DRAWN["mixtures"])

# %%
mixtures = found["mixtures"]
for window in WINDOWS:
    content = mixtures["slices"][window]
    held = np.concatenate([[0], np.cumsum(content["truth_density"])]) * np.diff(TRUTH_EDGES)[0]

    def share(low, high, held=held, scale=content["scale"]):
        """Of the truth between two p_T, from its histogram."""
        return float(np.diff(np.interp([low, high], scale * TRUTH_EDGES, held))[0])

    truth_row, truth_unc = content["truth"], content["truth_unc"]
    ends = [pm(truth_row[name], truth_unc[name]) for name in ("mean", "mode", "low", "high")]
    rows, good = [["truth", *ends, "-", "-", f"{share(truth_row['low'], truth_row['high']):.1%}", "-"]], {}
    for n, row in sorted(content["networks"].items()):
        off_by = {end: row[end] - truth_row[end] for end in ("low", "high")}
        unc = {end: np.hypot(row[f"{end}_unc"], truth_unc[end]) for end in ("low", "high")}
        good[n] = all(abs(off_by[end]) <= max(ENDS, 2 * unc[end]) for end in off_by)
        rows.append([
            f"{n} Gaussian{'s' if n != '1' else ''}", pm(row["mean"]), *(pmu(row, k) for k in ("mode", "low", "high")),
            pmu(row, "stoch"), f"{off_by['low']:+.1f}, {off_by['high']:+.1f}", f"{share(row['low'], row['high']):.1%}",
            yes(good[n]),
        ])  # fmt: skip
    table(
        [
            f"{WINDOWS[window]}", "mean", "mode", "lower end", "upper end", "σ_stoch", "ends - truth", "truth inside",
            f"within {ENDS:.0f} GeV or two errors",
        ],
        rows,
    )  # fmt: skip
    stoch, three = [row["stoch"] for row in content["networks"].values()], content["networks"]["3"]
    missed = share(*sorted((three["high"], truth_row["high"])))
    say(
        f"**Found** in {WINDOWS[window]}: one Gaussian has both ends right: {yes(good['1'])}; three: {yes(good['3'])}. "
        f"The upper end of three lies {abs(three['high'] - truth_row['high']):.1f} GeV from that of the truth; "
        f"{missed:.1%} of the jets are in between, since the density is low there. σ_stoch of the three differs by "
        f"{max(stoch) / min(stoch) - 1:.1%}."
    )
there = paper.SLICE_TRUTH
table(
    ["the paper, 600-620 GeV", "mean", "maximum", "lower end", "upper end", "σ_stoch"],
    [
        ["truth", there["mean"], "", there["low"], there["high"], f"√MSE {there['rmse']}"],
        *([n, row["mean"], row["mode"], row["low"], row["high"], row["stoch"]] for n, row in paper.TABLE_2.items()),
    ],
)  # fmt: skip
say(
    "The paper averages the *parameters* of the mixtures over the jets of a slice, which needs a narrow slice and an "
    "order of the components; here the *densities* are averaged, which is exact. In the wide slice each jet's density "
    "is one of truth / jet $p_T$, and its ends are scaled by the mean jet $p_T$."
)

# %% [markdown]
# ## Labels with errors: the calibration uncertainty (Figures 9 and 10, Eqs. 18 and 19)
#
# The truth of a real calibration sample is a measurement with an error. It is imitated by smearing the labels of the
# training by a fraction $f$ of the truth, once per jet. The network cannot tell this noise from the scatter of the
# jets, so it goes into $\sigma_\mathrm{stoch}$; the difference to a training without smearing,
# $\sigma^2_\mathrm{cal}=\sigma^2_\mathrm{stoch}-\sigma^2_{\mathrm{stoch},0}$, is the calibration uncertainty.
#
# **Expected:** $\sigma_\mathrm{cal}=\sigma_\mathrm{smear}$, the smearing that was put in. The error is large for small
# smearing, where the difference is one of nearly equal numbers.

# %%
draw("label_smearing", "figure_9", "figure_10")

# %%
smearing = found["label_smearing"]
rows, consistent = [], []
for window in WINDOWS:
    for row in smearing["slices"][window]:
        limit = ASKED[round(row["fraction"], 2)]
        consistent.append(abs(row["ratio"] - 1) <= 2 * row["ratio_unc"])
        rows.append([
            WINDOWS[window], f"{row['fraction']:.0%}",
            *(pm(row[name]) for name in ("sigma_smear", "sigma_stoch", "sigma_stoch_0")),
            pmu(row, "sigma_cal"), pmu(row, "ratio", 3), yes(consistent[-1]), pmu(row, "ratio_less_loss", 3),
            f"{row['ratio_unc'] / row['ratio']:.1%}", f"{limit:.0%}: {yes(row['ratio_unc'] / row['ratio'] <= limit)}",
        ])  # fmt: skip
table(
    [
        "slice", "f", "σ_smear", "σ_stoch", "σ_stoch,0", "σ_cal", "σ_cal / σ_smear", "1 within two errors",
        "less the loss of the prediction",
        "relative error", "at most",
    ],
    rows,
)  # fmt: skip
worst = max((row for window in WINDOWS for row in smearing["slices"][window]), key=lambda row: abs(row["ratio"] - 1))
say(
    f"**Found:** the ratio agrees with one within two errors in {sum(consistent)} of {len(consistent)} cases; the "
    f"largest deviation is {worst['ratio'] - 1:+.1%} at {worst['fraction']:.0%}. The error has two parts: that of the "
    "jets (bootstrap) and the scatter of the five trainings. Baseline and smeared trainings have the same seeds, "
    "order and weight draws, so that most of the fluctuation cancels in the difference."
)
last = {window: smearing["slices"][window][-1] for window in WINDOWS}
say(
    "**Noise in the labels also costs the prediction itself.** √MSE against the *truth* goes from "
    f"{last[WIDE]['rmse_0']:.1f} to {last[WIDE]['rmse']:.1f} GeV at {last[WIDE]['fraction']:.0%} in the wide slice, "
    "since the same jets teach less with noisy labels. σ_stoch covers this, too, and σ_cal contains it. Without this "
    f"part the ratio is {pmu(last[WIDE], 'ratio_less_loss', 3)} in the wide slice and "
    f"{pmu(last['600-620'], 'ratio_less_loss', 3)} in the narrow one. In a slice as narrow as that, a network's widths "
    "are borrowed from the neighbouring $p_T$, and claimed and true errors of the two trainings agree only within the "
    "errors of Figure 4: there the first ratio is the more robust one."
)
say(
    "Figure 9: with little smearing the labels keep the tail of the truth, and the Gaussian does not describe them; "
    "with more of it one Gaussian is enough for the core. The tail above it stays visible for longer than in the "
    "paper, since ours is longer. $\\sigma_\\mathrm{cal}$ does not need the shape to be right: variances add for "
    "any shape."
)

# %% [markdown]
# ## Shifted inputs instead of smeared labels (Figure 11, Appendix A)
#
# A network trained without smearing; all constituents of a test jet are scaled up and down by the fraction $f$, and
# half the difference of the two predictions is read.
#
# **Expected:** $f\langle p_T\rangle$ for a network whose prediction follows the scale of its input, the same as
# $\sigma_\mathrm{cal}$; "good agreement" in the paper.

# %%
draw("label_smearing", "figure_11")

# %%
table(
    ["slice", "f", "shift", "f · mean p_T", "shift / (f · mean p_T)", "σ_cal"],
    [
        [
            WINDOWS[window], f"{row['fraction']:.0%}", pm(row["input_shift"]), pm(row["input_shift_expected"]),
            pm(row["input_shift"] / row["input_shift_expected"], digits=3), pmu(row, "sigma_cal"),
        ]
        for window in WINDOWS for row in smearing["slices"][window]
    ],
)  # fmt: skip
shares = [row["input_shift"] / row["input_shift_expected"] for row in smearing["slices"][WIDE]]
say(
    f"**Found:** the shift is {min(shares):.2f} to {max(shares):.2f} of $f\\langle p_T\\rangle$ in the wide slice. "
    "Where it is below one, the network takes back a part of the shift, and it is right to do so: with the "
    "constituents the *mass* of the jet is scaled, and a top that is too heavy is one whose energy is too large (see "
    "the figure of the mass above). The range of the training adds to it: the spectrum ends, and jets near its upper "
    "end have lost less. So the shift is the response to a scale error *common* to all constituents, which the known "
    "mass of the top constrains, and $\\sigma_\\mathrm{cal}$ the width by errors of the labels that are "
    "*independent* from jet to jet. They are equal only for a network that follows its input fully."
)

# %% [markdown]
# ## Jets that look like tops (Table 1)
#
# A Lorentz-layer tagger scores the jets, tops against QCD jets of the same selection, each jet by a training that has
# not seen it. The most top-like 75, 50 and 25 % are kept, with the same share in each bin of the fat-jet $p_T$.
#
# **Expected:** top-like jets hold all of their top and are measured better: √MSE falls.

# %%
draw("top_like", "scores", "table_1")

# %%
like = found["top_like"]
networks = {"one_network": "one network for all", "own_networks": "own networks"}
for name, text in networks.items():
    for window, rows in like.get(name, {}).items():
        table(
            [
                f"{text}, {WINDOWS[window]}", "jets", "√MSE", "scatter of trainings", "change", "in errors",
                "all quarks in the jet", "the paper",
            ],
            [
                [
                    f"{row['share']:.0%}", row["jets"], pmu(row, "rmse"), pm(row["rmse_sd"]),
                    pm(row.get("change"), row.get("change_unc")),
                    pm(row["change"] / row["change_unc"]) if row.get("change") is not None else "-",
                    f"{like['contained'][str(row['share'])][window]:.1%}",
                    "{} ± {}".format(*paper.TABLE_1[row["share"]]) if window == "600-620" else "",
                ]
                for row in rows if row["rmse"] is not None
            ],
        )  # fmt: skip
rows = [row for row in like["one_network"][WIDE] if row.get("change") is not None]
strict = rows[-1]
significant = strict["change"] < -2 * strict["change_unc"]
shares = like["contained"]
say(
    f"**Found:** AUC of the tagger {pmu(like, 'auc', 4)}. Keeping {strict['share']:.0%} of the jets changes √MSE in "
    f"the wide slice by {pmu(strict, 'change')} GeV, by "
    f"{strict['change'] / rows[0]['change'] if rows[0]['change'] else float('nan'):.1f} times what keeping "
    f"{rows[0]['share']:.0%} does; in the paper by {paper.TABLE_1[strict['share']][0] - paper.TABLE_1[1.0][0]:+.1f} "
    f"GeV in its slice. It falls significantly: {yes(significant)}. The share of jets with all quarks of the decay "
    f"goes from {shares['1.0'][WIDE]:.1%} to {shares[str(strict['share'])][WIDE]:.1%}."
)
if significant:
    say(
        "**Why:** the tagger looks at masses and prongs. It prefers jets with the mass of a top, and these have lost "
        "little (figure of the mass above): selecting them removes a part of the tail of the truth, which √MSE weighs "
        "by its square. What such a cut cannot see is energy that leaves no trace in the constituents. And it is a "
        "selection: what is gained in resolution is paid for in jets."
    )
else:
    say(
        "**Why not:** jets that have lost energy at wide angles look like tops as much as others do; the tail of the "
        "truth, which √MSE weighs by its square, stays in the selection."
    )

# %% [markdown]
# ### The tagger's prior
#
# **Expected:** with a prior that is far too narrow the posterior collapses to it and the AUC is that of guessing;
# above, a plateau over orders of magnitude, equal to the deterministic network.

# %%
draw("top_like", "prior_scan")
table(
    ["width of the prior", "AUC", "calibration error", "median σ of the logit", "collapsed to the prior"],
    [
        [
            name,
            pmu(row, "auc", 4),
            pmu(row, "ece", 4),
            pm(row["sigma_logit"], digits=2),
            "yes" if row["collapsed"] else "no",
        ]
        for name, row in like["prior_scan"].items()
    ],
)

# %% [markdown]
# ## Changed jets before a Bayesian tagger
#
# Tests of arXiv:1904.10004 on jets of known class: the leading constituent scaled, every constituent smeared, soft
# pile-up added. A classifier's output is confined to 0 to 1. Its error before the sigmoid, on the logit, is that of
# the network; after it, it is narrowed near the ends whatever the network knows, along the parabola
# $\mu(1-\mu)\sigma$.
#
# **Expected:** scaling moves the mean in one direction and its error mostly through the sigmoid; noise does little
# before the sigmoid; pile-up widens it; training with noise lowers the slope against the leading constituent.

# %%
draw("augmentations", "leading", "noise_and_pileup", "pileup_distributions", "slopes")

# %%
taggers = found["augmentations"]["taggers"]
table(
    ["tagger", "sample", "AUC", "slope of the logit", "slope of the score", "monotonic"],
    [
        [
            name, sample, pmu(entry, "auc", 4), pmu(entry[sample], "slope_logit", 2),
            pm(entry[sample]["slope_score"], digits=3), yes(entry[sample]["monotonic"]),
        ]
        for name, entry in taggers.items() for sample in ("top", "qcd")
    ],
)  # fmt: skip
plain, TESTS, KINDS = taggers["plain"], ("leading", "noise", "pileup"), ("logit", "sigma_logit", "score", "sigma_score")
table(
    ["sample", "test", "strength", "Δ logit", "Δ σ of the logit", "Δ score", "Δ σ of the score"],
    [
        [sample, test, strength, *(pmu(row[kind], "change", 4) for kind in KINDS)]
        for sample in ("top", "qcd") for test in TESTS for strength, row in plain[sample][test].items()
        if (test, strength) != ("leading", "1")
    ],
)  # fmt: skip
for sample in ("top", "qcd"):
    entry, sigma = plain[sample], plain[sample]["leading"]["1"]["sigma_logit"]["mean"]
    loud, many_vertices = list(entry["noise"].items())[-1], list(entry["pileup"].items())[-1]
    moved = {f: entry["leading"][f]["logit"]["change"] for f in ("0.9", "1.1")}
    say(
        f"**Found** for {'tops' if sample == 'top' else 'QCD jets'}: the logit moves by {moved['0.9']:+.3f} and "
        f"{moved['1.1']:+.3f} when the leading constituent is scaled by 0.9 and 1.1; its σ, {sigma:.2f} on average, "
        f"changes by {loud[1]['sigma_logit']['change'] / sigma:+.1%} with noise of {float(loud[0]):.0%} and by "
        f"{many_vertices[1]['sigma_logit']['change'] / sigma:+.1%} with pile-up of μ = {many_vertices[0]}, which moves "
        f"the logit itself by {many_vertices[1]['logit']['change']:+.2f}."
    )
say(
    "Pile-up moves both classes towards each other without a σ that grows as much: σ_pred is the error *on jets like "
    "those of the training*. It is no alarm for jets of another kind."
    if all(
        abs(list(plain[s]["pileup"].values())[-1]["logit"]["change"]) > plain[s]["leading"]["1"]["sigma_logit"]["mean"]
        for s in ("top", "qcd")
    )
    else "The change by pile-up is within the σ of the logit."
)
for sample, row in found["augmentations"]["slope_ratio"].items():
    smaller = row["rms"] + 2 * row["rms_unc"] < 1
    say(
        f"**Found** for {'tops' if sample == 'top' else 'QCD jets'}: training with noise of "
        f"{found['augmentations']['trained_with']:.0%} changes the slope of single jets by the factor "
        f"{pmu(row, 'rms', 3)} (root mean square), that of the mean by {pmu(row, 'mean', 3)}; smaller for single jets: "
        f"{yes(smaller)}."
    )

# %% [markdown]
# ## Batch and schedule
#
# The studies use larger batches and a step that falls along a cosine, since the constant small step of the paper takes
# many times as long. Both on the same fold and the same jets:

# %%
draw("schedule", "schedules")
schedule = found["schedule"]
table(
    [
        "schedule", "updates", "weights in use", "log score (lower is better)",
        *(f"{n}, {w}" for w in WINDOWS.values() for n in ("√MSE", "σ_stoch", "σ_pred")),
    ],
    [
        [
            name, f"{part['updates']:.0f}", f"{part['active_weights']:.0%}", pm(part["log_score"], digits=3),
            *(pmu(part[window], n) for window in WINDOWS for n in ("rmse", "stoch", "pred")),
        ]
        for name, part in ((name, schedule[name]) for name in ("studies", "paper"))
    ],
)  # fmt: skip
ratio = schedule["studies_over_paper"]
equal = [abs(ratio[n] - 1) <= max(TOLERANCE, 2 * ratio[f"{n}_unc"]) for n in ("rmse_ratio", "stoch_ratio")]
say(
    f"Studies over paper in the wide slice: √MSE {pmu(ratio, 'rmse_ratio', 3)}, σ_stoch "
    f"{pmu(ratio, 'stoch_ratio', 3)}, σ_pred {pmu(ratio, 'pred_ratio', 3)}; log score "
    f"{pmu(ratio, 'log_score_difference', 3)}. Errors are of the jets; the scatter of trainings comes on top (Figure "
    f"5). √MSE and σ_stoch are equal within five per cent: {yes(all(equal))}."
)

# %% [markdown]
# ## How to get $\sigma_\mathrm{cal}$ of your jets
#
# The 400 jets of the test sample of hepcal, a tiny network and few updates: the *numbers* mean nothing, the lines are
# those of an analysis. The reference is taken to be known to 8 % per jet; leave `fraction` out if the table has an
# error of each label (`truth_error`).

# %%
from coffea.nanoevents import NanoEventsFactory

from hepcal.events.upstream import FatJetDelphesSchema

sample = STUDIES.parents[2] / "tests" / "data" / "top_demo.root"
pairs = hepcal.JetPairs.from_fileset(
    {"top": {"files": {str(sample): "Delphes"}}}, hepcal.Features(constituents=hepcal.Constituents(count=20)),
    jets="FatJet", truth="Particle[0]", show=False,
)  # fmt: skip
small = hepcal.BNN(hidden=(20,), draws=10, learning_rate=3e-3, schedule="cosine", max_updates=100)
calibrator = hepcal.train(pairs, hepcal.NoisyLabels(method=small, fraction=0.08), seed=1, show=False)

events = NanoEventsFactory.from_root({str(sample): "Delphes"}, schemaclass=FatJetDelphesSchema).events()
jets = calibrator(events.FatJet, event=events)
[name for name in jets.fields if name.startswith("pt_calib")]

# %% [markdown]
# A jet with more noise in its labels than the two trainings can resolve has a negative difference: its
# `pt_calib_sigma_cal` is NaN. That of a selection is meant to be read from `CalibrationWidth.of(prediction)`, with its
# error. An error *common* to all labels, a wrong scale of the reference, is in no width: it shifts `pt_calib`. Give it
# as `NoisyLabels(common=0.01)`; it becomes the shift-type systematic `calib_cal`.

# %% [markdown]
# ## Questions that are often asked
#
# Points where readers of the method, the referees of the paper among them, go wrong most often.
#
# **1. What is the label, and what is the prediction?** Two different things with two different names. The *label* is
# one number per training jet: the true $p_T$, possibly smeared. The *prediction* is two numbers per jet and per draw
# of the weights, $\langle p_T\rangle_\omega$ and $\sigma_{\mathrm{stoch},\omega}$. No symbol stands for both: labels
# are `truth` and predictions `pt_calib` and its sigmas.
#
# **2. Where does the label enter the loss?** In the likelihood, and nowhere else: the training data $M$ are pairs of a
# jet and its label, and $p(M\,|\,\omega)$ is the probability of the labels given the jets and the weights.
#
# **3. What is the whole loss?** The divergence KL$[q(\omega),p(\omega)]$ of the weight distribution from its prior,
# plus the expected negative log-likelihood summed over *all* training jets. Both come from one quantity, the
# divergence of $q$ from the posterior, so that there is no factor between them to tune. For the mean over a batch the
# first term is divided by the number of training jets; with weighted events hepcal takes $n_\mathrm{eff}$, since a few
# heavy events know less than their sum of weights.
#
# **4. Which signs?** The log-likelihood of a Gaussian is $-r^2/2\sigma^2-\tfrac12\ln\sigma^2$ with the residual $r$,
# to be maximised. The loss is its negative: both terms have a plus.
#
# **5. What is left of it in the limit of a plain regression?** With $\sigma_\mathrm{stoch}$ fixed to a constant $s$
# and point-like weights, the loss becomes $\sum r^2/2s^2+\sum\omega^2/2\sigma_p^2$: squared error with L2
# regularisation of strength $1/(2\sigma_p^2N)$ per mean loss. (The paper prints $\sigma_p$ where its square belongs.)
# With one free $\sigma_\mathrm{stoch}$ for all jets its optimum is $\sigma^2_\mathrm{stoch}=$ MSE.
#
# **6. Is the loss bounded from below?** At a given residual the best $\sigma$ is $|r|$, with a loss of
# $\tfrac12+\ln|r|$. A narrow wrong prediction never pays, since $r^2/2\sigma^2$ grows faster than the logarithm falls.
# For labels with scatter the expected loss is bounded. For finitely many jets it is not: a network that passes through
# every label could let $\sigma\to0$, and so could one component of a mixture on one label. Against this stand a floor
# under $\sigma$, the divergence from the prior, and stopping on held-out jets; hepcal has all three.
#
# **7. Is $\langle p_T\rangle_\omega$ computed or put out?** For one Gaussian it is an output of the network, which is
# also the first moment. For mixtures the outputs are parameters of the components, and mean and
# $\sigma_\mathrm{stoch}$ are computed from them.
#
# **8. What keeps the posterior from being the prior?** Only the likelihood, which grows with the number of jets, while
# the divergence does not. With few jets or a prior that is much too narrow the divergence wins, and the network says
# the same of every jet. hepcal measures this after each training (`card.figures["collapsed"]`) and warns. The prior
# scan above shows both sides for the tagger, the size scan the transition.
#
# **9. Can initial-state radiation be dealt with?** By grooming of the jets, of whatever kind, before they are
# calibrated; "pruning" is one algorithm among them. A calibration cannot remove what it cannot tell from the decay; it
# can say how wide the result is.
#
# **10. What is learned about physics?** $\sigma_\mathrm{stoch}$ is the scatter that the jet leaves open: constituents
# that were lost and radiation that was won. It depends on ISR and on what is called truth (Figure 3), and hardly on
# the number of training jets. $\sigma_\mathrm{pred}$ follows the constituents: jets with unusually many have more of
# it. $\sigma_\mathrm{cal}$ returns the error of the reference. None of this solves a tagging or calibration problem;
# it says how far an answer can be trusted.
#
# **11. "All but Gaussian"?** In the paper this means *anything but* Gaussian: the distribution of the truth at given
# jet $p_T$ has a tail, and one Gaussian per jet does not describe it (Figure 8). The distribution of the *weights* is
# Gaussian throughout.
#
# ## Limits
#
# * **Size.** Tens of thousands of jets, where the paper has 2.2 million. The network is not in the regime where
#   $\sigma_\mathrm{pred}$ vanishes.
# * **Mean field.** Factorised Gaussians for the weights neglect their correlations. How far off $\sigma_\mathrm{pred}$
#   is, is seen only beside an ensemble.
# * **Folds share jets.** The five trainings of the cross-fitting have three quarters of their jets in common; their
#   scatter is smaller than that of independent samples.
# * **Spectrum.** A regression of the truth contains the spectrum of the training, flat here. On another spectrum $p_T$
#   is biased, and no sigma knows; see the notebooks in `bias_and_priors`.
# * **Simulation.** One generator and one parametrised detector without pile-up. Differences between simulation and
#   data are in no $\sigma$.
# * **Truth.** The $p_T$ of a quark before its decay is a convention; first and last copy differ visibly.
