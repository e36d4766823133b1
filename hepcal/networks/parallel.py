"""All cores for the blocks of one prediction, and the rule that says how many that are.

Products of the size of one block do not gain from a second torch thread, but two blocks do gain from two cores. Each
worker thread has its own block and its own buffers and torch at one thread; memory grows with the number of workers,
not with the number of jets. Nothing is forked, and no thread outlives the call.
"""

from __future__ import annotations

import contextvars
import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np
import torch

from hepcal.cores import chosen_threads, usable_cores
from hepcal.networks.inference import BLOCK, fill_block, new_block
from hepcal.networks.settings import own_settings
from hepcal.tables.rows import Rows

__all__ = ["cores", "map_blocks", "threads"]

Result = TypeVar("Result")
_CHOSEN: contextvars.ContextVar[int | None] = contextvars.ContextVar("hepcal_threads", default=None)


def cores() -> int:
    """Worker threads that one prediction uses here and now.

    In this order: what :func:`threads` says; one in a worker, that is in a thread other than the main one (a dask
    worker computes in such threads) or in a process started by another Python process (loky, multiprocessing), since
    the cores there are shared already; the environment variable ``HEPCAL_THREADS``; the cores this process may use
    (:func:`hepcal.cores.usable_cores`), but no more than torch uses (``OMP_NUM_THREADS``, ``torch.set_num_threads``;
    one per physical core).

    Raises:
        HepcalError: ``HEPCAL_THREADS`` is not a positive integer.
    """
    chosen = _CHOSEN.get()
    if chosen is not None:
        return chosen
    if threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process() is not None:
        return 1
    return chosen_threads() or min(usable_cores(), torch.get_num_threads())


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Use so many worker threads per prediction inside; holds for the calling thread, also in a worker.

    Args:
        number: At least one.
    """
    if number < 1:
        raise ValueError(f"at least one thread is needed, found {number}")
    token = _CHOSEN.set(number)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def map_blocks(
    work: Callable[[slice, torch.Tensor], Result],
    features: Rows,
    reco: np.ndarray,
    *,
    jets: int = BLOCK,
    workers: int | None = None,
) -> list[Result]:
    """Call ``work(part, block)`` for all blocks of jets, on several threads.

    ``part`` is the slice of jets that the raw feature-major block (1 + d, jets) holds, p_T first, padded as
    :func:`hepcal.networks.inference.blocks` does. Work fills its own slice of arrays made beforehand and returns
    nothing, to keep memory bounded. Blocks are the same for any number of workers, so results are too, bit by bit.
    Gradients are off inside, and :func:`cores` is one. The calling thread is one of the workers.

    Args:
        work: Called from several threads at once; must not keep the block, which is filled again.
        features: float32 of shape (n, d).
        reco: Detector-level p_T [GeV], float32 of shape (n,).
        jets: Jets per block.
        workers: Number of threads; default :func:`cores`. Use one with a GPU.

    Returns:
        What the calls returned, in the order of the jets.

    Raises:
        Exception: The first one that ``work`` raised, by block; blocks not begun by then are left out.
    """
    starts = range(0, len(reco), jets)
    workers = min(cores() if workers is None else workers, len(starts))
    queue = _Queue(work, features, reco, jets, starts)
    helpers = [
        # A copy of the context carries numpy's error state along.
        threading.Thread(target=contextvars.copy_context().run, args=(queue.drain,), name=f"hepcal-block-{number}")
        for number in range(1, workers)
    ]
    try:
        for helper in helpers:
            helper.start()
        queue.drain()
        for helper in helpers:
            helper.join()
    except BaseException as error:  # an interrupt while waiting: nothing may go on behind the caller's back
        queue.failures[0] = error
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
        raise
    if queue.failures:
        raise queue.failures[min(queue.failures)]
    return [queue.results[number] for number in range(len(starts))]


class _Queue(Generic[Result]):
    """Blocks that wait for a worker, and what became of the others."""

    def __init__(
        self,
        work: Callable[[slice, torch.Tensor], Result],
        features: Rows,
        reco: np.ndarray,
        jets: int,
        starts: range,
    ) -> None:
        self._work, self._features, self._reco, self._jets, self._starts = work, features, reco, jets, starts
        self._next = itertools.count()  # one call of next() is atomic
        self.results: dict[int, Result] = {}
        self.failures: dict[int, BaseException] = {}

    def drain(self) -> None:
        """Work until nothing waits or something failed; exceptions are kept, an interrupt of the main thread too."""
        number = 0
        try:
            with own_settings(), threads(1), torch.no_grad():
                block = new_block(1 + self._features.shape[1], self._jets)
                while not self.failures and (number := next(self._next)) < len(self._starts):
                    part = fill_block(block, self._features, self._reco, self._starts[number])
                    self.results[number] = self._work(part, block)
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            self.failures[number] = error
