"""Random numbers by jet: the same jet gets the same numbers in any order, subset or chunk.

A counter-based generator has no state: a number is a function of a seed, a stream, the identity of a jet and its place
in the jet's sequence (Philox4x32-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hepcal.tables.rows import Rows, chunks

__all__ = ["LARGEST_NORMAL", "SAMPLES", "RandomByJet", "identity_of", "identity_of_rows", "normal", "uniform"]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
# Multipliers and key increments of Philox4x32.
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
_WORDS = 4
# Counters that are worked on at once: a few such arrays fit in the cache of one core.
_CACHED = 1 << 14
# Of the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

# First stream of the random numbers of predictions; what is below it belongs to labels and augmentations.
SAMPLES = 1 << 20

# No normal number is farther from zero: the smallest uniform one is 2^-33.
LARGEST_NORMAL = float(np.sqrt(2 * 33 * np.log(2)))


def identity_of(event: np.ndarray, reco: np.ndarray) -> np.ndarray:
    """What tells a jet from all others: a hash of its event id and of the bits of its detector-level p_T.

    Two jets of one event with the very same p_T share their numbers. A change of the p_T, also by an augmentation,
    makes another jet.

    Args:
        event: Event ids, int64 of shape (n,).
        reco: Detector-level p_T [GeV], shape (n,), taken as float32.

    Returns:
        uint64 of shape (n,).
    """
    bits = np.ascontiguousarray(reco, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return _mixed(_mixed(np.ascontiguousarray(event, dtype=np.int64).view(np.uint64)) + bits)


def identity_of_rows(*columns: Rows) -> np.ndarray:
    """The same from what is known of a jet, where there are no event ids: a hash of the bits of its numbers.

    Jets that are equal in everything are told apart by their order among them.

    Args:
        columns: float32 of shape (n,) or (n, d), in memory or on disk.

    Returns:
        uint64 of shape (n,).
    """
    found = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        for part, values in chunks(column):
            block = np.ascontiguousarray(values, dtype=np.float32).reshape(len(values), -1)
            for bits in block.T:
                found[part] = _mixed(found[part] + np.ascontiguousarray(bits).view(np.uint32).astype(np.uint64))
    _, number, counts = np.unique(found, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    place = np.empty(len(found), dtype=np.uint64)
    place[order] = np.arange(len(found)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.where(place > 0, _mixed(found + place), found)


class RandomByJet:
    """Random numbers of some jets for a distribution, in place of a generator; every call is a stream of its own.

    Args:
        seed: Not negative, below 2^64.
        identity: Of the jets, uint64 of shape (n,).
        stream: First stream.
    """

    def __init__(self, seed: int, identity: np.ndarray, stream: int = SAMPLES) -> None:
        self._seed, self._identity, self._stream = seed, identity, stream

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        """Uniform numbers of shape (size, n), as those of a generator."""
        return self._next(uniform, shape)

    def standard_normal(self, shape: tuple[int, int]) -> np.ndarray:
        """Normal numbers of shape (size, n), as those of a generator."""
        return self._next(normal, shape)

    def _next(self, numbers: Callable[..., np.ndarray], shape: tuple[int, int]) -> np.ndarray:
        size, n = shape
        if n != len(self._identity):
            raise ValueError(f"random numbers for {n} jets were asked of {len(self._identity)}")
        found = numbers(self._seed, self._identity, size, self._stream)
        self._stream += 1
        return found.T


def uniform(seed: int, identity: np.ndarray, size: int, stream: int = 0) -> np.ndarray:
    """Uniform numbers between 0 and 1, ends excluded, multiples of 2^-33.

    Args:
        seed: Not negative, below 2^64.
        identity: Of the jets, uint64 of shape (n,); see :func:`identity_of`.
        size: Numbers per jet; more of them begin with the same ones.
        stream: Streams of one seed are independent; below 2^32.

    Returns:
        float64 of shape (n, size).

    Raises:
        ValueError: The seed or the stream is out of range.
    """
    out = np.empty((len(identity), -(-size // _WORDS) * _WORDS))
    rows = max(1, _CACHED // max(1, out.shape[1] // _WORDS))
    for start in range(0, len(identity), rows):
        part = slice(start, start + rows)
        words = _philox(seed, np.asarray(identity[part], dtype=np.uint64), out.shape[1] // _WORDS, stream)
        out[part].reshape(len(words[0]), -1, _WORDS)[...] = np.stack(words, axis=-1)
    out += 0.5
    out *= 2.0**-32
    return out[:, :size]


def normal(seed: int, identity: np.ndarray, size: int, stream: int = 0) -> np.ndarray:
    """Standard normal numbers by the transform of Box and Muller, up to :data:`LARGEST_NORMAL` = 6.76.

    Arguments, shape and errors are those of :func:`uniform`.
    """
    out = uniform(seed, identity, size + size % 2, stream)
    out = np.ascontiguousarray(out)
    rows = max(1, _CACHED // max(1, out.shape[1]))
    for start in range(0, len(out), rows):
        part = out[start : start + rows]
        radius = np.sqrt(-2 * np.log(np.ascontiguousarray(part[:, 0::2])))
        angle = 2 * np.pi * np.ascontiguousarray(part[:, 1::2])
        part[:, 0::2], part[:, 1::2] = radius * np.cos(angle), radius * np.sin(angle)
    return out[:, :size]


def _philox(seed: int, identity: np.ndarray, blocks: int, stream: int) -> list[np.ndarray]:
    """Four words of 32 bits per counter, uint64 of shape (n, blocks) each."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed lies between 0 and 2^64, found {seed}")
    if not 0 <= stream < 2**32:
        raise ValueError(f"a stream lies between 0 and 2^32, found {stream}")
    counter: list[np.ndarray] = [
        np.arange(blocks, dtype=np.uint64)[None],
        np.full((1, 1), stream, dtype=np.uint64),
        (identity & _LOW)[:, None],
        (identity >> _HALF)[:, None],
    ]
    return _rounds(counter, (np.uint64(seed) & _LOW, np.uint64(seed) >> _HALF))


def _rounds(counter: list[np.ndarray], key: tuple[np.uint64, np.uint64]) -> list[np.ndarray]:
    """Philox4x32-10 of counters and a key, words of 32 bits in uint64."""
    first, second, third, fourth = counter
    low, high = key
    for _ in range(_ROUNDS):
        one, two = _FACTORS[0] * first, _FACTORS[1] * third
        first, second, third, fourth = (
            (two >> _HALF) ^ second ^ low,
            two & _LOW,
            (one >> _HALF) ^ fourth ^ high,
            one & _LOW,
        )
        low, high = (low + _KEY_STEPS[0]) & _LOW, (high + _KEY_STEPS[1]) & _LOW
    return [first, second, third, fourth]


def _mixed(bits: np.ndarray) -> np.ndarray:
    """A permutation of 64 bits in which every bit of the result depends on every bit of the argument."""
    bits = bits + _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * _MIXERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIXERS[1]
    return np.asarray(bits ^ (bits >> np.uint64(31)))
