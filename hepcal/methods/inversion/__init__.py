"""Numerical inversion of the mean of reco p_T at fixed truth."""
