# SPDX-License-Identifier: Apache-2.0

"""Which category an image of a running dataloader belongs to.

The category comes from the data: the column ``category`` of a dataset's ``samples``, else the dataset's or datamodule's
own ``category``, else the name that the user gave the datamodule, else ``all``. It never comes from the model, which
does not know it. anomalib's batches carry no category, so an image is looked up by its path.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
from torch.utils.data import ConcatDataset, Subset

if TYPE_CHECKING:
    from collections.abc import Iterator

CATEGORY_COLUMN = "category"
ONLY_CATEGORY = "all"


class CategoryLookup:
    """Find the category of each image of one dataloader.

    Args:
        dataloader: A dataloader, usually of an ``AnomalibDataset``; datasets inside ``Subset`` and ``ConcatDataset``
            are found.
        datamodule: The trainer's datamodule, or ``None`` where dataloaders were passed.

    Attributes:
        counts (Counter[str]): Number of images of each category in the dataset (for a ``Subset``, in the whole dataset
            behind it); 0 for categories that the datamodule trains on and the dataset lacks. Empty if the dataset has
            no frame of samples.
    """

    def __init__(self, dataloader: object, datamodule: object = None) -> None:
        dataset = getattr(dataloader, "dataset", None)
        self._default = _own_category(datamodule) or _own_category(dataset) or _given_name(datamodule) or ONLY_CATEGORY
        rows = list(image_categories(dataset))
        self._by_path = {path: category for path, category in rows if category}
        trained = (category for _, category in image_categories(getattr(datamodule, "train_data", None)) if category)
        self.counts = Counter(dict.fromkeys(trained, 0))
        self.counts.update(self(path) for path, _ in rows)

    def __call__(self, image_path: str) -> str:
        """Return the category of an image.

        Args:
            image_path: Path as it stands in the batch; empty if there is none.

        Returns:
            The name of the category.
        """
        return self._by_path.get(image_path, self._default)


def image_categories(dataset: object) -> Iterator[tuple[str, str]]:
    """Yield path and category of each image in a dataset's frame of samples.

    Args:
        dataset: Any dataset; one without anomalib's frame of samples yields nothing.

    Yields:
        Path of an image and its category, which is empty where the dataset itself does not know it.
    """
    for leaf in _leaves(dataset):
        samples = getattr(leaf, "samples", None)
        # Datasets of other libraries use this attribute for other things.
        if not isinstance(samples, pd.DataFrame) or "image_path" not in samples:
            continue
        own = _own_category(leaf)
        column = samples[CATEGORY_COLUMN] if CATEGORY_COLUMN in samples else [own] * len(samples)
        for path, category in zip(samples["image_path"], column, strict=True):
            yield str(path), str(category) if pd.notna(category) else own


def _leaves(dataset: object) -> Iterator[object]:
    """Yield the datasets inside torch's wrappers."""
    if isinstance(dataset, Subset):
        yield from _leaves(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _leaves(part)
    elif dataset is not None:
        yield dataset


def _given_name(datamodule: object) -> str:
    """Return the name that the user gave a datamodule without categories, such as anomalib's ``Folder``."""
    name = getattr(datamodule, "name", "")
    return name if isinstance(name, str) and name != type(datamodule).__name__ else ""


def _own_category(source: object) -> str:
    """Return the one category that a dataset or datamodule stands for, or an empty string."""
    category = getattr(source, "category", None)
    return category if isinstance(category, str) else ""
