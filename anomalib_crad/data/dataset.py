# SPDX-License-Identifier: Apache-2.0

"""A dataset of several categories in one frame of samples.

It differs from anomalib's dataset in three ways: the frame has a column ``category`` (which no item and no batch ever
carries: a unified model is told no class), categories with and without masks may mix, and a file that cannot be
decoded is named in the error.

Masks. The column ``has_mask`` says of each image whether its pixels are labelled. A normal image of a category with
masks, and any normal training image, has an empty mask; an image of a category that is labelled by image only, and an
anomalous image whose mask is missing, has none, since calling the pixels of its defects normal would be wrong. Pixel
metrics take the images with ``has_mask``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.data.utils import LabelName, read_image, read_mask
from torchvision.tv_tensors import Mask

from anomalib_crad.data.image_files import READ_ERRORS, unreadable
from anomalib_crad.data.mask_batches import collate_masks_or_none

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
        sources: Datasets that own files of ``samples`` and delete them in the end (anomalib's synthetic anomalies);
            they are kept alive as long as this dataset. Defaults to ``()``.
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
        """Collate items into anomalib's ``ImageBatch``, with masks if all items have one."""
        return collate_masks_or_none


def mask_paths(entry: str | list[str] | None) -> list[str]:
    """Read an entry of the column ``mask_path``.

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
