"""The Gaussian Ansatz: maximum likelihood with the Donsker-Varadhan loss."""
