"""One network, and the statistical error of its training from the curvature of its loss."""
