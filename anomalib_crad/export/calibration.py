# SPDX-License-Identifier: Apache-2.0

"""Images for quantisation, as the exported graph takes them, from any of anomalib's datamodules.

A datamodule resizes images only once it is attached to a trainer with a model, which an export never does, and without
that a batch of images of different sizes cannot be made. Images are therefore read one at a time, as they are on disk:
the graph resizes by itself, and a graph of one fixed input size gets that size. They are spread over the whole dataset,
since the first few hundred of a merged one are all of the first categories.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    import torch
    from anomalib.data import AnomalibDataset, ImageItem
    from numpy.typing import NDArray

#: How many images NNCF looks at, unless it is told otherwise.
CALIBRATION_IMAGES = 300


class GraphImages(Sequence["NDArray[np.float32]"]):
    """Images of a dataset as the input of an exported graph, one at a time.

    Args:
        dataset: anomalib's dataset; its augmentations are left out.
        input_size: Height and width of a graph that takes no other size. Defaults to ``None``: images stay as they are.
        limit: Most images to take, evenly spread over the dataset. Defaults to ``None``: all.
    """

    def __init__(
        self,
        dataset: AnomalibDataset,
        input_size: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> None:
        self.dataset = copy.copy(dataset)
        self.dataset.augmentations = None
        self.input_size = input_size
        count = len(dataset) if limit is None else min(limit, len(dataset))
        self.rows = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.float32]:  # type: ignore[override]  # no slices
        """Read an image.

        Args:
            index: Which one.

        Returns:
            Values in [0, 1], 1 x 3 x height x width.
        """
        return self.to_input(self.item(index))

    def item(self, index: int) -> ImageItem:
        """Read an image with its label and mask.

        Args:
            index: Which one.
        """
        return cast("ImageItem", self.dataset[self.rows[index]])

    def to_input(self, item: ImageItem) -> NDArray[np.float32]:
        """Turn what :meth:`item` returned into the graph's input, 1 x 3 x height x width.

        Args:
            item: An image.
        """
        image = cast("torch.Tensor", item.image)
        if self.input_size is not None and tuple(image.shape[-2:]) != self.input_size:
            # Without antialiasing, as the model's own resize.
            image = functional.resize(image, list(self.input_size), antialias=False)
        return image.unsqueeze(0).numpy()
