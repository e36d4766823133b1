"""The forward density p(reco | truth), of the detector-level p_T or of a summary of all features, inverted."""
