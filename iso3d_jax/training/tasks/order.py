"""The order in which a run goes through its objects: shuffled by the seed, anew each epoch.

Entry p is found without the entries before it, so any host and any resumed run reads its own. An
epoch is a permutation that is drawn once and kept, eight bytes an object: shuffles that work entry
by entry walk through cycles of 65,536, which takes milliseconds an entry of a small set.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

TURNS = 1000  # entries in which every set of a mixture has had its share


class Order:
    """Entries without end."""

    def __init__(self, seed: int, lengths: Sequence[int], weights: Sequence[float] | None = None):
        """
        Args:
          seed: of the shuffles.
          lengths: objects of each set; they count on from one set to the next.
          weights: each set's share of the entries, exact to a thousandth; None shuffles all sets as
            one. With weights each set has a shuffle of its own, and they take turns.
        """
        self._seed = seed
        self._lengths = [int(n) for n in lengths] if weights is not None else [int(sum(lengths))]
        self._starts = np.cumsum([0, *self._lengths]).tolist()
        self._turns = _turns([1.0] if weights is None else weights)
        self._counts = np.bincount(self._turns, minlength=len(self._lengths)).tolist()
        order = np.argsort(self._turns, kind="stable")
        ranks = np.empty(len(order), int)
        ranks[order] = np.concatenate([np.arange(count) for count in self._counts])
        self._ranks = ranks.tolist()
        self._epoch = functools.lru_cache(4 * len(self._lengths))(self._draw_epoch)

    def __getitem__(self, entry: int) -> int:
        """The object at a place of the run."""
        cycle, k = divmod(int(entry), len(self._ranks))
        which = int(self._turns[k])
        epoch, place = divmod(cycle * self._counts[which] + self._ranks[k], self._lengths[which])
        return self._starts[which] + int(self._epoch(which, epoch)[place])

    def _draw_epoch(self, which: int, epoch: int) -> Int[np.ndarray, " N"]:
        rng = np.random.default_rng([self._seed, which, epoch, 4])
        return rng.permutation(self._lengths[which])


def _turns(weights: Sequence[float]) -> Int[np.ndarray, " T"]:
    """Which set each entry of a cycle is of, as evenly as can be; each has at least one."""
    shares = np.asarray(weights, float) / np.sum(weights)
    counts = np.maximum(1, np.floor(shares * TURNS)).astype(int)
    counts[np.argmax(counts)] += TURNS - counts.sum()  # what rounding left
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind="stable")]
