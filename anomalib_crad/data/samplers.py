# SPDX-License-Identifier: Apache-2.0

"""Samplers: training images drawn equally from all categories, and batches that are all with or all without masks.

``CategoryBalancedSampler`` differs from torch's ``WeightedRandomSampler``, which draws with replacement and so misses a
third of the images in an epoch even where all categories have one size. Here each category draws its share from
permutations of its images: an image of a large category is drawn at most once an epoch, and the images of a small
category are drawn equally often, give or take one.

``MaskBatchSampler`` exists because anomalib's ``ImageBatch`` stacks ``gt_mask`` over a batch, so one batch cannot hold
images with and without masks. anomalib leaves a batch without ``gt_mask`` out of pixel metrics and pixel thresholds,
which is right for categories that are labelled by image only. A batch therefore ends where one kind ends and the other
begins, and mixed sets are measured exactly without any change to a metric.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import distributed
from torch.utils.data import BatchSampler, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SEED_VARIABLE = "PL_GLOBAL_SEED"
"""Environment variable in which Lightning passes its seed to other processes, and to its own distributed shuffle."""


class CategoryBalancedSampler(Sampler[int]):
    """Random order of a dataset's indices with equal shares of its categories.

    An epoch is as long as without balance: N draws for N images, N / K of each of K categories (where K does not divide
    N, chance decides which categories give one more).

    In one process, torch's global generator seeds each epoch, as it does for a plain shuffle. Several processes must
    draw the same order, of which Lightning gives each its part, so there the seed is Lightning's plus the epoch.

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
        """Set the number of the epoch; Lightning calls this before each one."""
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


class MaskBatchSampler(BatchSampler):
    """Cut the order of a sampler into batches that never mix images with and without masks.

    Lightning builds this sampler again around one of its own for prediction, and where several processes share the
    images. This is why it takes ``drop_last`` and can read ``has_mask`` from the sampler's dataset.

    Args:
        sampler: Yields the indices, one by one.
        batch_size: Largest size of a batch.
        has_mask: For each index of the dataset, whether the image comes with a mask.
            Defaults to ``None``: the column ``has_mask`` of the samples of the sampler's dataset.
        drop_last: Must be ``False``, since every image counts in an evaluation. Defaults to ``False``.

    Raises:
        ValueError: If ``drop_last`` is true.
        TypeError: If ``has_mask`` is not given and the sampler's dataset has no such column.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        has_mask: Sequence[bool] | None = None,
        drop_last: bool = False,
    ) -> None:
        if drop_last:
            msg = "`drop_last` must be False: batches that end where masks begin are short, and every image counts."
            raise ValueError(msg)
        super().__init__(sampler, batch_size, drop_last)
        self.has_mask = _has_mask(sampler) if has_mask is None else has_mask

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        batch: list[int] = []
        for index in self.sampler:
            if batch and (len(batch) == self.batch_size or self.has_mask[index] != self.has_mask[batch[0]]):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return sum(1 for _ in self)


def _draw(group: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Draw indices of a group from as many permutations of it as this takes."""
    rounds = -(-number // len(group))
    return torch.cat([group[torch.randperm(len(group), generator=generator)] for _ in range(rounds)])[:number]


def _has_mask(sampler: Sampler[int]) -> list[bool]:
    # torch's plain samplers name their dataset `data_source`, its distributed sampler names it `dataset`.
    dataset = getattr(sampler, "data_source", None) or getattr(sampler, "dataset", None)
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, pd.DataFrame) or "has_mask" not in samples:
        msg = (
            f"Cannot tell from a {type(sampler).__name__} which images have masks. Give the trainer or engine the "
            "datamodule instead of its dataloaders."
        )
        raise TypeError(msg)
    return samples["has_mask"].tolist()
