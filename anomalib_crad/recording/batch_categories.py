# SPDX-License-Identifier: Apache-2.0

"""The category of each image of a running epoch's batches, and which images a distributed sampler repeats.

anomalib's batches carry no category, so it is looked up in the datasets behind the trainer's dataloaders. Between
epochs nothing is known and nothing is held, so that no dataset travels into an exported or copied model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.utilities import CombinedLoader

from anomalib_crad.recording.categories import ONLY_CATEGORY, CategoryLookup
from anomalib_crad.recording.processes import SampleOrder

if TYPE_CHECKING:
    from anomalib.data import Batch
    from lightning.pytorch import Trainer


class BatchCategories:
    """Tell the categories of a batch; outside of an epoch every image is of the one category ``all``."""

    def __init__(self) -> None:
        self._lookups: list[CategoryLookup] = []
        self._orders: list[SampleOrder] = []

    def start(self, trainer: Trainer, dataloaders: object) -> None:
        """Begin an epoch.

        Args:
            trainer: The trainer of the run; one that was given dataloaders has no datamodule.
            dataloaders: The dataloaders of the epoch, in any collection that Lightning takes.
        """
        loaders = CombinedLoader(dataloaders).flattened
        self._lookups = [CategoryLookup(loader, getattr(trainer, "datamodule", None)) for loader in loaders]
        self._orders = [SampleOrder(loader) for loader in loaders]

    def stop(self) -> None:
        """End an epoch: forget its datasets."""
        self._lookups, self._orders = [], []

    def of(self, batch: Batch, dataloader_idx: int = 0) -> list[str]:
        """Return the category of each image.

        Args:
            batch: A batch of B images.
            dataloader_idx: Which of the epoch's dataloaders it comes from. Defaults to ``0``.

        Returns:
            Names of categories, B.
        """
        count = len(batch.image)  # type: ignore[arg-type] # always there
        paths = getattr(batch, "image_path", None) or [""] * count
        if not self._lookups:
            return [ONLY_CATEGORY] * count
        return [self._lookups[dataloader_idx](path) for path in paths]

    def first_time(self, batch: Batch, dataloader_idx: int = 0) -> list[bool]:
        """Tell which images are not repetitions; to be called once a batch, in order.

        Args:
            batch: A batch of B images.
            dataloader_idx: Which of the epoch's dataloaders it comes from. Defaults to ``0``.

        Returns:
            One value an image, B.
        """
        count = len(batch.image)  # type: ignore[arg-type] # always there
        return self._orders[dataloader_idx].first_time(count) if self._orders else [True] * count
