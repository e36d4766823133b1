"""Networks in torch: layers, posteriors, likelihoods and the block-wise inference that calibrators are made of."""
