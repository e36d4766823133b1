"""Likelihoods: what the outputs of a network mean."""

from __future__ import annotations

import torch

__all__ = ["SIGMA_FLOOR", "gaussian_nll", "gaussian_parameters"]

# In units of the target scale. Keeps the likelihood bounded when a flexible network hits a training point exactly.
SIGMA_FLOOR = 1e-3


def gaussian_parameters(outputs: torch.Tensor, dim: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sigma = softplus(raw) + floor from two outputs along ``dim``, in units of the target scale."""
    mean, raw = outputs.unbind(dim)
    return mean, torch.nn.functional.softplus(raw) + SIGMA_FLOOR


def gaussian_nll(mean: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood per row without its constant, (target - mean)² / 2 sigma² + ln sigma (Eq. 9)."""
    return 0.5 * ((target - mean) / sigma) ** 2 + torch.log(sigma)
