# SPDX-License-Identifier: Apache-2.0

"""A dataset of several categories in one frame of samples.

It differs from anomalib's dataset in three ways. The frame has a column ``category``, which no item and no batch
carries, since a unified model is told no class. Categories with and without masks may mix. An error names the file that
cannot be decoded.

The column ``has_mask`` says whether the pixels of an image are labelled. A normal image of a category with masks, and
any normal training image, has an empty mask. An image of a category that is labelled by image only has no mask, nor has
an anomalous image whose mask is missing: an empty one would call the pixels of its defects normal. Pixel metrics use
the images with ``has_mask``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import LabelName, read_image, read_mask
from torchvision.tv_tensors import Mask

from anomalib_crad.data.image_files import READ_ERRORS, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from torchvision.transforms.v2 import Transform


class MultiCategoryDataset(AnomalibDataset):
    """Images of several categories, read as anomalib reads them.

    Args:
        samples: One row an image with anomalib's columns ``image_path``, ``split``, ``label_index`` and ``mask_path``
            (None where there is none, a list where an image has several) and ours, ``category`` and ``has_mask``.
        augmentations: Transform of image and mask. Defaults to ``None``.
        sources: Datasets that delete files of ``samples`` when they are deleted themselves (anomalib's synthetic
            anomalies); this dataset keeps them alive. Defaults to ``()``.
    """

    def __init__(
        self,
        samples: pd.DataFrame,
        augmentations: Transform | None = None,
        sources: Sequence[AnomalibDataset] = (),
    ) -> None:
        super().__init__(augmentations=augmentations)
        task = TaskType.SEGMENTATION if samples["has_mask"].any() else TaskType.CLASSIFICATION
        samples.attrs["task"] = task.value
        self.samples = samples
        self._sources = tuple(sources)

    def __getitem__(self, index: int) -> ImageItem:
        """Read one image with its label and, where the pixels are labelled, its mask.

        Args:
            index: Row of ``samples``.

        Returns:
            Image (3, H, W) as float in [0, 1] and mask (H, W), after the augmentations.

        Raises:
            OSError: If the image or its mask cannot be decoded; the message names the file.
        """
        sample = self.samples.iloc[index]
        paths = mask_paths(sample.mask_path)
        image = _read(read_image, sample.image_path, "image")
        mask = None
        if sample.has_mask and not paths:
            mask = Mask(torch.zeros(image.shape[-2:], dtype=torch.uint8))
        elif sample.has_mask:
            parts = [_read(read_mask, path, "mask") for path in paths]
            mask = Mask(torch.stack(parts).amax(dim=0))
        if self.augmentations and mask is None:
            image = self.augmentations(image)
        elif self.augmentations:
            image, mask = self.augmentations(image, mask)
        return ImageItem(
            image=image,
            gt_mask=mask,
            gt_label=None if sample.label_index == LabelName.UNKNOWN else torch.tensor(int(sample.label_index)),
            image_path=sample.image_path,
            mask_path=paths[0] if paths else None,
        )

    @property
    def collate_fn(self) -> Callable:
        """Function that collates items into anomalib's ``ImageBatch``, with masks if all items have one."""
        return collate_masks_or_none


def collate_masks_or_none(items: list[ImageItem]) -> ImageBatch:
    """Collate items as anomalib does, without masks unless every item has one.

    Args:
        items: Items of one batch.

    Returns:
        The batch; its ``gt_mask`` is None if any item lacks a mask.
    """
    if any(item.gt_mask is None for item in items):
        for item in items:
            item.gt_mask = None
    return cast("ImageBatch", ImageBatch.collate(items))


def mask_paths(entry: str | list[str] | None) -> list[str]:
    """List the paths in an entry of the column ``mask_path``.

    Args:
        entry: One path, several, or None.

    Returns:
        The paths.
    """
    if not entry:
        return []
    return [entry] if isinstance(entry, str) else list(entry)


def _read(reader: Callable[..., Any], path: str, what: str) -> Any:  # noqa: ANN401 - as the reader
    try:
        return reader(path, as_tensor=True)
    except READ_ERRORS as error:
        raise unreadable(path, what, error) from error
