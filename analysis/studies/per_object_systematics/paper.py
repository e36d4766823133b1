"""Numbers of arXiv:2003.11099 (Kasieczka et al., SciPost Phys. 9, 089), beside which ours are shown.

They are of 2.2 million jets of another detector card with shorter tails: shapes and ratios can be compared, GeV cannot.
"""

from __future__ import annotations

__all__ = ["PLATEAU", "PLATEAU_RELATIVE", "SLICE_TRUTH", "TABLE_1", "TABLE_2"]

# sigma_stoch in the slice 600-620 GeV without ISR [GeV], and as a share of the p_T; Figure 5.
PLATEAU, PLATEAU_RELATIVE = 50.0, 0.08

# True p_T in the slice without ISR [GeV]: mean, ends of the interval of equal densities, sqrt(MSE); Table 2.
SLICE_TRUTH = {"mean": 643.8, "low": 590.0, "high": 654.0, "rmse": 52.2}

# By the number of Gaussians [GeV]; Table 2.
TABLE_2 = {
    "1": {"stoch": 51.4, "mean": 644.4, "mode": 644.4, "low": 593.0, "high": 695.9},
    "2": {"stoch": 51.1, "mean": 644.1, "mode": 623.4, "low": 592.4, "high": 657.3},
    "3": {"stoch": 51.5, "mean": 643.8, "mode": 619.1, "low": 592.4, "high": 656.8},
}

# sqrt(MSE) [GeV] without ISR and its error, by the share of most top-like jets; Table 1.
TABLE_1 = {1.0: (50.6, 0.1), 0.75: (45.5, 0.1), 0.5: (41.8, 0.1), 0.25: (40.4, 0.1)}
