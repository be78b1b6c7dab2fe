# SPDX-License-Identifier: Apache-2.0

"""Batches in which either every image has a mask or none has.

anomalib's ``ImageBatch`` stacks ``gt_mask`` over a batch, so one batch cannot hold images with and without masks. It
skips pixel metrics and pixel thresholds for a batch that has no ``gt_mask`` at all, which is the right thing for
categories that are labelled by image only. Cutting batches where one kind ends and the other begins makes mixed sets
exact without changing a metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pandas as pd
from anomalib.data import ImageBatch, ImageItem
from torch.utils.data import BatchSampler, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class MaskBatchSampler(BatchSampler):
    """Cut the order of a sampler into batches that never mix images with and without masks.

    Lightning builds it again around a sampler of its own, for prediction and where several processes share the images;
    that is why it takes ``drop_last`` and can find ``has_mask`` by itself.

    Args:
        sampler: Gives the indices, one by one.
        batch_size: Largest size of a batch.
        has_mask: For each index of the dataset, whether the image comes with a mask.
            Defaults to ``None``: the column ``has_mask`` of the samples of the sampler's dataset.
        drop_last: Must be false, since every image counts in an evaluation. Defaults to ``False``.

    Raises:
        ValueError: If ``drop_last`` is true.
        TypeError: If ``has_mask`` is not given and the sampler's dataset does not tell.
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
        """Yield the indices of one batch after the other."""
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


def _has_mask(sampler: Sampler[int]) -> list[bool]:
    # torch's plain samplers keep the dataset as `data_source`, its distributed one as `dataset`
    dataset = getattr(sampler, "data_source", None) or getattr(sampler, "dataset", None)
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, pd.DataFrame) or "has_mask" not in samples:
        msg = (
            f"Cannot tell from a {type(sampler).__name__} which images have masks. Give the trainer or engine the "
            "datamodule instead of its dataloaders."
        )
        raise TypeError(msg)
    return samples["has_mask"].tolist()


def collate_masks_or_none(items: list[ImageItem]) -> ImageBatch:
    """Collate items as anomalib does, leaving masks out unless every item has one.

    Args:
        items: Items of one batch.

    Returns:
        The batch; its ``gt_mask`` is None if any item lacks a mask.
    """
    if any(item.gt_mask is None for item in items):
        for item in items:
            item.gt_mask = None
    return cast("ImageBatch", ImageBatch.collate(items))
