"""Coverage of the heads on the full QCD sample: train on files 01-10, test on 21-30.

    pytest -m study tests/studies/test_qcd_tails.py -s

prints the coverage of the central 68.27 % interval in bins; about a quarter of an hour on two cores. Where the sample
is beside the checkout, ``hepcal train`` and ``hepcal diagnose`` with the filesets in ``analysis`` give the same.
"""

from pathlib import Path

import numpy as np
import pytest

import hepcal
from hepcal.evaluation.diagnostics import diagnose

pytestmark = pytest.mark.study

FILESETS = Path(__file__).parents[2] / "analysis" / "filesets"
QCD = Path(__file__).parents[3] / "shared" / "data" / "qcd"
# Below 900 GeV are jets that lost much of their p_T, beside jets from events that lost it before (p̂_T > 1 TeV): two
# populations, for which the tail head has its second component.
PT_EDGES = (800, 900, 1000, 1100, 1200, 1350, 1500, 2000)
COMMON = {"schedule": "cosine", "batch": 500, "learning_rate": 2e-3, "max_updates": 20_000}


@pytest.fixture(scope="module")
def tables():
    if not QCD.is_dir():
        pytest.skip("the QCD sample is not beside this checkout")
    return [hepcal.JetPairs.from_fileset(FILESETS / f"qcd_{part}.json", show=False) for part in ("train", "test")]


@pytest.fixture(scope="module")
def tails(tables):
    return hepcal.train(tables[0], hepcal.BNN(head="tails", **COMMON), seed=1, show=False)


def test_the_tail_head_covers_on_files_that_no_setting_was_chosen_with(tails):
    """Files 11-20: the head and the length of its training were chosen in view of files 21-30."""
    unseen = {"qcd": {"files": dict.fromkeys((str(path) for path in sorted(QCD.glob("*.root"))[10:20]), "Delphes")}}
    pairs = hepcal.JetPairs.from_fileset(unseen, show=False)
    prediction = tails.predict(pairs.features, pairs.reco)
    pit, eta = prediction.pit(pairs.truth), np.abs(pairs.features[:, pairs.spec.names.index("eta")])
    inside = (pit > 0.158655) & (pit < 0.841345)
    observed = []
    for name, values, edges in (("pt_calib", prediction.mean, PT_EDGES), ("|eta|", eta, (0, 0.8, 1.3, 2.5))):
        bins = np.digitize(values, edges)
        found = [float(inside[bins == number].mean()) for number in range(1, len(edges))]
        print(f"files 11-20, {len(pairs)} jets, {name}: {np.round(100 * np.array(found), 2)}")
        observed += found
    assert np.all(np.abs(np.array(observed) - 0.683) < 0.02)


@pytest.fixture(scope="module")
def diagnoses(tables, tails):
    train, test = tables
    gaussian = hepcal.train(train, hepcal.BNN(head="gaussian", **COMMON), seed=1, show=False)
    heads = {"tails": tails, "gaussian": gaussian}
    found = diagnose(heads, test, pt_edges=PT_EDGES, show=False)
    for head, diagnosis in found.items():
        scores = diagnosis.scores
        print(
            f"{head}: coverage {100 * scores.coverage_68:.2f} %, pull sd {scores.pull_sd:.3f}, half 68 % width "
            f"{scores.pull_half68:.3f}, within sigma_tot {100 * scores.within_sigma_tot:.2f} %, CRPS {scores.crps:.3f} "
            f"GeV, log score {scores.nll:.4f}, sensitivity {diagnosis.training['sensitivity']:.2f}"
        )
        for name, binned in (("pt_calib", diagnosis.pt_calib), ("|eta|", diagnosis.abs_eta)):
            cells = zip(binned.edges[:-1], binned.edges[1:], binned.bins, strict=True)
            text = ", ".join(
                f"{low:g}-{high:g}: {100 * bin_.coverage_68:.2f} +- {100 * bin_.coverage_68_unc:.2f}"
                for low, high, bin_ in cells
            )
            print(f"  {name}: {text}")
    return found


@pytest.mark.parametrize("by", ["pt_calib", "abs_eta"])
def test_the_tail_head_covers_in_every_bin(diagnoses, by):
    binned = getattr(diagnoses["tails"], by)
    assert np.all(np.abs(binned.figure("coverage_68") - 0.683) < 0.02)


def test_the_gaussian_head_over_covers(diagnoses):
    scores = diagnoses["gaussian"].scores
    assert scores.pull_sd == pytest.approx(0.99, abs=0.04)
    assert 0.72 < scores.coverage_68 < 0.82


def test_both_score_better_than_a_gaussian(diagnoses):
    gaussian = diagnoses["gaussian"].scores
    for head in ("tails",):
        assert diagnoses[head].scores.crps < gaussian.crps
        assert diagnoses[head].scores.nll < gaussian.nll
