"""Networks that learn y = pt_truth / pt_reco given the inputs: one, many, or the draws of a Bayesian one."""
