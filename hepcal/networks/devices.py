"""Where a calibrator computes."""

from __future__ import annotations

import torch

from hepcal.errors import HepcalError

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """A torch device.

    Raises:
        HepcalError: There is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device, dtype=torch.float32).cpu()  # the device 'meta' has no numbers
    except (RuntimeError, AssertionError) as error:
        raise HepcalError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device
