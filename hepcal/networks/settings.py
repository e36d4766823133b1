"""Settings of torch that belong to hepcal while it computes: threads and precision are not what the caller left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_precision", "own_settings", "single_threaded"]

# Floats of 32 bits are multiplied as such, not rounded to 19 (TF32) or 16 bits (bfloat16) first.
FULL = "ieee"


@contextmanager
def own_settings() -> Iterator[None]:
    """:func:`single_threaded` and :func:`full_precision` inside; may be entered again, and by several threads."""
    with single_threaded(), full_precision():
        yield


class _Stays:
    """Threads that are inside :func:`single_threaded`."""

    lock = threading.Lock()
    inside = 0
    before = 1  # number of torch threads when the first of them came
    own = threading.local()


@contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread inside, the previous number after.

    Products of this size are slower on two threads than on one, most of all on a busy machine, and training must not
    depend on the number of cores. torch keeps the number per thread, and sets with it what later threads begin with:
    a thread that is new while others are inside gets the number from before them when it leaves.
    """
    if getattr(_Stays.own, "inside", False):
        yield
        return
    with _Stays.lock:
        before = torch.get_num_threads()
        if _Stays.inside == 0:
            _Stays.before = before
        elif before == 1:
            before = _Stays.before
        _Stays.inside += 1
        torch.set_num_threads(1)
    _Stays.own.inside = True
    try:
        yield
    finally:
        _Stays.own.inside = False
        with _Stays.lock:
            _Stays.inside -= 1
            torch.set_num_threads(before)


class _Precision:
    """Threads that are inside :func:`full_precision`; the precision is one for all threads of a process."""

    lock = threading.Lock()
    inside = 0
    before: tuple[str, ...] = ()


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 are those of float32 inside, whatever ``torch.set_float32_matmul_precision`` has chosen.

    The lower precisions that are popular for training language models move a calibrated p_T by a percent. The setting
    before comes back when the last thread leaves. ``torch.autocast`` of the caller is off inside.
    """
    products = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    with _Precision.lock:
        if _Precision.inside == 0:
            _Precision.before = tuple(product.fp32_precision for product in products)
            for product in products:
                product.fp32_precision = FULL
        _Precision.inside += 1
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _Precision.lock:
            _Precision.inside -= 1
            if _Precision.inside == 0:
                for product, precision in zip(products, _Precision.before, strict=True):
                    product.fp32_precision = precision
