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
# # Quick start: calibrated jets with error bars in your own processor
#
# Train a calibration of jet $p_T$ on simulated dijets, attach it to jets in a coffea processor, and check the closure.
# Everything runs on 10,000 QCD dijet events that come with the package (Pythia 8 and Delphes with the CMS card,
# $\hat p_T > 1$ TeV, no pile-up, no jet energy correction; 5,000 to train on, 5,000 others to test on).
# Energies, momenta and masses are in GeV.

# %%
import tempfile
from pathlib import Path

import awkward as ak
import hist
import matplotlib.pyplot as plt
import numpy as np
from coffea.nanoevents import DelphesSchema, NanoEventsFactory
from coffea.processor import IterativeExecutor, ProcessorABC, Runner

import hepcal
from hepcal.demo import demo_fileset

# %% [markdown]
# ## Train, save, load
#
# `JetPairs` is the training table: the two leading particle-level jets of each event and their detector-level
# partners within $\Delta R < 0.2$. The method is a Bayesian network that learns $p_T^{\rm truth} / p_T^{\rm reco}$ from
# the features of the jet. 2,000 updates keep this notebook short; leave `max_updates` and `patience` out for a training
# that ends when the held-out loss stops falling.

# %%
pairs = hepcal.JetPairs.from_fileset(demo_fileset("train"), show=False)
pairs

# %%
calibrator = hepcal.train(pairs, hepcal.BNN(max_updates=2_000, patience=1_000), seed=1, show=False)

# %% [markdown]
# A calibrator is saved as one file without executable content. `load` gives back the same object, whatever the method.

# %%
with tempfile.TemporaryDirectory() as directory:
    path = Path(directory) / "jets.safetensors"
    calibrator.save(path)
    calibrator = hepcal.Calibrator.load(path)
calibrator

# %% [markdown]
# ## Three lines in your own processor
#
# Keep the calibrator (1), call it on the jets (2), use the new columns (3). Columns are computed when they are first
# read, and the rest of the jet record is left as it was.
#
# Calibrated jets may change their order, so the leading jet is looked for again at each level.


# %%
class LeadingJet(ProcessorABC):
    """Spectrum of the leading jet before and after calibration, and its systematic variations."""

    def __init__(self, calibrator: hepcal.Calibrator) -> None:
        self.calibrator = calibrator  # (1)

    def process(self, events: ak.Array) -> dict[str, object]:
        jets = self.calibrator(events.Jet)  # (2)
        levels = {
            "before": jets.pt,
            "after": jets.pt_calib,  # (3)
            "calib_pred up": jets.calib_pred.up.pt,
            "calib_pred down": jets.calib_pred.down.pt,
        }
        spectrum = hist.Hist(
            hist.axis.Regular(20, 800, 1800, name="pt", label=r"Leading jet $p_T$ [GeV]"),
            hist.axis.StrCategory(list(levels), name="level"),
            storage=hist.storage.Weight(),
        )
        for level, pt in levels.items():
            spectrum.fill(pt=ak.drop_none(ak.max(pt, axis=1)), level=level)
        return {"events": len(events), "pt": spectrum}

    def postprocess(self, accumulator: dict[str, object]) -> dict[str, object]:
        return accumulator


# %% [markdown]
# A fileset is coffea's dictionary `{data set: {"files": {path: tree}, "metadata": {...}}}`, and the runner is coffea's.
# For more than one core, exchange `IterativeExecutor()` for `DaskExecutor(client=...)`: the calibrator travels with
# the processor, and each worker process builds it once.

# %%
fileset = {
    "QCD dijets": {
        "files": dict.fromkeys(demo_fileset("test").paths, "Delphes"),
        "metadata": {"schema": "delphes"},
    }
}
runner = Runner(executor=IterativeExecutor(status=False), schema=DelphesSchema, chunksize=2_500)
output = runner(fileset, processor_instance=LeadingJet(calibrator))
output["events"]

# %%
fig, ax = plt.subplots()
for level, style in {"before": "--", "after": "-"}.items():
    output["pt"][:, level].plot1d(ax=ax, label=level, linestyle=style, flow="none")
up, down = (output["pt"][:, f"calib_pred {side}"].values() for side in ("up", "down"))
edges = output["pt"].axes["pt"].edges
ax.stairs(np.maximum(up, down), edges, baseline=np.minimum(up, down), fill=True, alpha=0.4, label="calib_pred")
ax.set_ylabel("Events / 50 GeV")
ax.legend()

# %% [markdown]
# ## Numbers of single jets
#
# The calibrator needs no processor: it takes any jets that have its input fields.

# %%
path = next(iter(fileset["QCD dijets"]["files"]))
events = NanoEventsFactory.from_root({path: "Delphes"}, schemaclass=DelphesSchema, mode="virtual").events()
jets = calibrator(events.Jet)
print("columns:", *calibrator.columns)
print("first jet of an event [GeV]:")
print(f"{'reco':>8} {'calib':>8} {'stoch':>7} {'pred':>6} {'tot':>6}  in range")
for jet in jets[:5, 0]:
    sigmas = f"{jet.pt_calib_sigma_stoch:7.1f} {jet.pt_calib_sigma_pred:6.1f} {jet.pt_calib_sigma_tot:6.1f}"
    print(f"{jet.pt:8.1f} {jet.pt_calib:8.1f} {sigmas}  {jet.pt_calib_in_range}")

# %% [markdown]
# * `pt_calib` is the mean of the predicted distribution of the true $p_T$.
# * `pt_calib_sigma_stoch` is what more training data would not remove: the jets' own fluctuations in shower and
#   detector.
# * `pt_calib_sigma_pred` is statistical: how far the prediction moves between the weight draws of the network, because
#   the training sample is finite.
# * `pt_calib_sigma_tot` is their sum in quadrature.
# * `pt_calib_in_range` tells whether all inputs lie within the range seen in the training.
#
# `sigma_stoch` is a resolution, independent from jet to jet, and no variation is made of it. `sigma_pred` is common to
# similar jets, so it is offered as a shift-type systematic: full jet collections with $p_T$ and mass shifted by one
# sigma, all jets together. That is an envelope: two different jets are not fully correlated.

# %%
first = jets[0]
for side in ("down", "up"):
    shifted = first.calib_pred[side]
    print(f"calib_pred.{side:<4}: leading jet pt {shifted.pt[0]:.1f} GeV, mass {shifted.mass[0]:.1f} GeV")

# %% [markdown]
# ## Closure
#
# `DijetProcessor` compares jets and dijet masses with the truth in events that the training has not seen. A first pass,
# the survey, finds the density of the true dijet mass; with it the same events are also weighted to a resonance of
# 2.8 TeV and 100 GeV width, called BSM below: a calibration that depends on the truth spectrum differs between the two.

# %%
survey = hepcal.processors.Survey.from_output(
    runner(fileset, processor_instance=hepcal.processors.SurveyProcessor()), hepcal.load_fileset(fileset)
)
hists = runner(fileset, processor_instance=hepcal.processors.DijetProcessor(calibrator, survey))["hists"]

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
hepcal.plot.response(hists, "pt", ax=left)
hepcal.plot.response(hists, "mjj", weighting="bsm", ax=right)

# %% [markdown]
# In bins of the *truth*, bias and pulls:

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
hepcal.plot.bias(hists, "pt", ax=left)
hepcal.plot.pull(hists, "pt", ax=right)

# %%
from hepcal.closure.metrics import closure

before, after = (closure(hists, "pt", level) for level in ("reco", "calib"))
print(f"sum(pt_calib) / sum(pt_truth) = {after.sum_ratio:.4f}, before {before.sum_ratio:.4f}")
print("truth pt [GeV]   jets   bias before   bias after [%]   sigma_stoch   sigma_pred [GeV]")
for i in np.flatnonzero(after.n_eff > 50):
    low, high = after.edges[i : i + 2]
    print(
        f"{low:6.0f} - {high:5.0f} {after.n_eff[i]:7.0f} {100 * before.bias[i]:12.2f} "
        f"{100 * after.bias[i]:9.2f} ± {100 * after.response_mean_unc[i]:.2f} "
        f"{after.sigma_stoch[i]:14.1f} {after.sigma_pred[i]:12.1f}"
    )

# %%
for weighting in ("qcd", "bsm"):
    mass = closure(hists, "mjj", "calib", weighting, total=True)
    bias, unc = 100 * mass.bias[0], 100 * mass.response_mean_unc[0]
    print(f"{weighting}: relative bias of the dijet mass {bias:+.2f} ± {unc:.2f} %, n_eff {mass.n_eff[0]:.0f}")

# %% [markdown]
# ## What this shows, and what it does not
#
# * **The ratio of sums proves nothing.** A regression of the truth gets the average nearly right by construction, with
#   any features, as long as it is tested on the spectrum it was trained on.
# * **The bias in bins of truth is a property of the method.** A regression returns the mean of the truth *given the
#   jet*, which contains the spectrum of the training sample. Here that spectrum rises up to 1 TeV and falls beyond, so
#   jets of low truth are pulled up and jets of high truth are pulled down. Look at the bias in bins of truth and at the
#   BSM closure, not at the ratio of sums, before using such a calibration on a sample with another spectrum.
# * **Pulls of unit spread are not 68 % coverage.** The response of jets has a tail to low values; a Gaussian with the
#   right width then covers more than 68.27 %.
# * **`sigma_pred` does not know about the simulation.** It covers the finite training sample, not a wrong shower, a
#   wrong detector response, or the dependence on the training spectrum.
# * The training here is short and small. Use `hepcal demo` for the same job with a longer one, and `hepcal train` and
#   `hepcal run` for your own files.
