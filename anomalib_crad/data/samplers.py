# SPDX-License-Identifier: Apache-2.0

"""Draw training images so that every category is seen equally often, however many images it has.

Drawn with replacement by weight (as torch's ``WeightedRandomSampler`` does), an epoch misses a third of the images even
where all categories are of one size. Here each category gives its share in turn from permutations of its images: an
image of a large category is drawn at most once an epoch, an image of a small one as often as its neighbours, give or
take one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import distributed
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SEED_VARIABLE = "PL_GLOBAL_SEED"
"""Where Lightning keeps its seed for other processes; its own distributed shuffle reads it too."""


class CategoryBalancedSampler(Sampler[int]):
    """Random order of a dataset's indices with equal shares of its categories.

    An epoch stays as long as it is without balance: N draws for N images, N / K of each of K categories (where K does
    not divide N, chance decides which categories give one more).

    The random numbers are those of the plain shuffle. In one process torch's global generator gives the seed of each
    epoch. With several, all processes must draw the same order, of which Lightning gives each its part, so Lightning's
    seed and the number of the epoch decide.

    Args:
        categories: The category of each image.

    Raises:
        ValueError: If there are no images.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        if not len(categories):
            msg = "There are no images to draw from."
            raise ValueError(msg)
        groups: dict[str, list[int]] = {}
        for index, name in enumerate(categories):
            groups.setdefault(name, []).append(index)
        self._groups = [torch.tensor(indices) for indices in groups.values()]
        self._length = len(categories)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch, as Lightning does before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of draws in an epoch, which is the number of images."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of an epoch."""
        generator = torch.Generator().manual_seed(self._seed())
        share, rest = divmod(self._length, len(self._groups))
        ranks = torch.randperm(len(self._groups), generator=generator).tolist()
        drawn = [
            _draw(group, share + int(rank < rest), generator) for group, rank in zip(self._groups, ranks, strict=True)
        ]
        order = torch.randperm(self._length, generator=generator)
        yield from torch.cat(drawn)[order].tolist()

    def _seed(self) -> int:
        if distributed.is_available() and distributed.is_initialized():
            return int(os.environ.get(_SEED_VARIABLE, "0")) + self._epoch
        return int(torch.empty((), dtype=torch.int64).random_().item())


def _draw(group: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Draw from as many permutations of a group as are needed."""
    rounds = -(-number // len(group))
    return torch.cat([group[torch.randperm(len(group), generator=generator)] for _ in range(rounds)])[:number]
