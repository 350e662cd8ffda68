"""Run lengths of COCO's masks, all of a file at once.

pycocotools fills masks with too few runs from memory that nobody wrote, so they are counted here.
A string stores each run as a signed number in characters of five bits, from the third run on as the
difference to the run before the last; the sixth bit says that another character follows.
"""

from collections.abc import Sequence

import numpy as np

_AT_ONCE = 1000  # masks, for memory


def decode_runs(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of all runs and of those that are set, for each string of compressed run lengths.

    Args:
        strings: 'counts' of each mask.

    Returns:
        Pixels of the mask, and those that are set, int64, shape (masks,); -1 in both where a
        string is damaged: characters that do not occur, an end inside a number, negative runs.
    """
    parts = [_decode(strings[i : i + _AT_ONCE]) for i in range(0, len(strings), _AT_ONCE)]
    pixels, filled = zip(*parts, strict=True) if parts else ((), ())
    none = np.zeros(0, dtype=int)
    return np.concatenate([none, *pixels]), np.concatenate([none, *filled])


def _decode(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    texts = [text.encode() for text in strings]
    lengths = np.array([len(text) for text in texts], dtype=np.int32)
    codes = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # below 48: far above 63
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    damaged = np.zeros(len(texts), dtype=bool)
    damaged[owner[codes > 63]] = True
    last = np.cumsum(lengths)[lengths > 0] - 1
    damaged[owner[last][codes[last] & 32 > 0]] = True
    if damaged.any():
        good = ~damaged[owner]
        codes, owner = codes[good], owner[good]
    # Each number is the sum of its characters' bits, the lowest first.
    ends = codes & 32 == 0
    starts = np.flatnonzero(np.r_[True, ends][:-1]).astype(np.int32)
    length = np.diff(starts, append=len(codes))
    place = np.arange(len(codes), dtype=np.int32) - np.repeat(starts, length)
    damaged[owner[place > 6]] = True
    bits = (codes & 31).astype(int) << 5 * np.minimum(place, 6)
    values = np.add.reduceat(bits, starts) if len(starts) else bits
    values -= np.where(codes[ends] & 16, 1 << 5 * np.minimum(length, 7), 0)
    return _sums(values, owner[ends], damaged)


def _sums(
    values: np.ndarray, owner: np.ndarray, damaged: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Undo the differences inside of each mask, and sum its runs."""
    first = np.searchsorted(owner, np.arange(len(damaged)))
    place = np.arange(len(values)) - first[owner]
    runs = values.copy()
    for parity in (0, 1):
        # Runs of one parity follow each other; the very first run starts no chain.
        chain = np.flatnonzero((place % 2 == parity) & (place > 0))
        total = np.cumsum(values[chain])
        new = place[chain] <= 2
        before = (total - values[chain])[new]
        runs[chain] = total - before[np.cumsum(new) - 1]
    damaged[owner[runs < 0]] = True
    pixels = np.bincount(owner, runs, len(damaged)).astype(int)
    filled = np.bincount(owner, runs * (place % 2), len(damaged)).astype(int)
    pixels[damaged] = filled[damaged] = -1
    return pixels, filled
