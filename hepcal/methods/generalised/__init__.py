"""Generalised numerical inversion: the mean of reco p_T at fixed truth and features, inverted by a network."""
