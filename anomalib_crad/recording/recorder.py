# SPDX-License-Identifier: Apache-2.0

"""Collects raw predictions before anything else touches them.

anomalib's ``PostProcessor`` runs before the evaluator and puts normalised, clamped values in place of the model's own
ones in the batch. This callback therefore stands *first* in the trainer's list and copies what the step returned. A
forward hook on the inner model would see less: some anomalib models make their scores in the step (VlmAd, Draem,
AnomalyVFM, Ganomaly) or call the inner model more than once.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader

from anomalib_crad.metrics.category import ImageRecord
from anomalib_crad.recording.categories import CategoryLookup
from anomalib_crad.recording.processes import SampleOrder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from anomalib.data import Batch
    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray


class PredictionRecorder(Callback):
    """Keep raw scores, maps and ground truth of an epoch on the CPU, by category.

    It is not part of a model's callbacks: the evaluator that owns it puts it into the trainer and takes it out again.
    Outside of an epoch it holds no predictions.

    Attributes:
        first_time (list[bool]): For each image of the last batch, whether it is not one that a distributed sampler
            repeats; repetitions are not recorded.
    """

    def __init__(self) -> None:
        self.first_time: list[bool] = []
        self._lookups: list[CategoryLookup] | None = None
        self._orders: list[SampleOrder] = []
        self._images: dict[str, list[ImageRecord]] = {}

    def attach(self, trainer: Trainer) -> None:
        """Become the trainer's first callback.

        Args:
            trainer: The trainer of a run that begins.
        """
        self._leave(trainer)
        trainer.callbacks.insert(0, self)  # type: ignore[attr-defined]

    def detach(self, trainer: Trainer) -> None:
        """Leave the trainer's callbacks and forget everything, also in the middle of an epoch.

        Args:
            trainer: The trainer that it was attached to.
        """
        self._leave(trainer)
        self.finish()

    def _leave(self, trainer: Trainer) -> None:
        """Give the trainer a new list without this callback; Lightning may be iterating over the old one."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by one of its connectors
        trainer.callbacks = [callback for callback in callbacks if callback is not self]  # type: ignore[attr-defined]

    def start(self, dataloaders: object, datamodule: object = None) -> None:
        """Begin an epoch: forget what was recorded, and record from now on.

        Args:
            dataloaders: The dataloaders of the epoch, in any collection that Lightning takes.
            datamodule: The trainer's datamodule, or ``None`` where dataloaders were passed.
        """
        loaders = CombinedLoader(dataloaders).flattened
        self._images = {}
        self._lookups = [CategoryLookup(loader, datamodule) for loader in loaders]
        self._orders = [SampleOrder(loader) for loader in loaders]

    @property
    def expected(self) -> Counter[str]:
        """Images of each category that the running epoch's datasets hold, where they tell."""
        counts: Counter[str] = Counter()
        for lookup in self._lookups or []:
            counts.update(lookup.counts)
        return counts

    def take_complete(self) -> Iterator[tuple[str, list[ImageRecord]]]:
        """Hand over each category of which every image has been recorded, as soon as that can be known.

        It can where the images of all datasets come once each. Anything else waits for :meth:`finish`: a share of the
        images that other processes complete, or a ``Subset``, of which more images are expected than come.

        Yields:
            Name and records of a category; the recorder keeps none of them.
        """
        if not all(order.complete for order in self._orders):
            return
        expected = self.expected
        for category in [name for name, images in self._images.items() if len(images) == expected[name]]:
            yield category, self._images.pop(category)

    def finish(self) -> dict[str, list[ImageRecord]]:
        """End an epoch.

        Returns:
            Records that were not handed over yet by category, sorted by name; the recorder keeps none of them.
        """
        images, self._images, self._lookups, self._orders = self._images, {}, None, []
        return {category: images[category] for category in sorted(images)}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record a validation batch.

        Args:
            trainer: Unused.
            pl_module: Unused.
            outputs: What ``validation_step`` returned, usually the batch with the predictions in it.
            batch: The batch with the ground truth.
            batch_idx: Unused.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        del trainer, pl_module, batch_idx
        self._record(outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record a test batch.

        Args:
            trainer: Unused.
            pl_module: Unused.
            outputs: What ``test_step`` returned, usually the batch with the predictions in it.
            batch: The batch with the ground truth.
            batch_idx: Unused.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        del trainer, pl_module, batch_idx
        self._record(outputs, batch, dataloader_idx)

    def _record(self, outputs: object, batch: Batch, dataloader_idx: int) -> None:
        """Copy one batch, unless no epoch was started (sanity check) or the labels are unknown."""
        if self._lookups is None:
            return
        self.first_time = self._orders[dataloader_idx].first_time(len(batch.image))  # type: ignore[arg-type] # always there
        if batch.gt_label is None:
            return
        predictions = outputs if hasattr(outputs, "pred_score") else batch
        lookup = self._lookups[dataloader_idx]
        for image, first_time in zip(_records(predictions, batch), self.first_time, strict=True):
            if first_time:
                self._images.setdefault(lookup(image.path), []).append(image)


def _records(predictions: object, batch: Batch) -> list[ImageRecord]:
    """Split a batch of B images into B records.

    Raises:
        ValueError: If the predictions do not fit the ground truth, in number or size.
    """
    labels: list[bool] = torch.as_tensor(batch.gt_label).tolist()
    count = len(labels)
    paths = getattr(batch, "image_path", None) or [""] * count
    scores = _copy(getattr(predictions, "pred_score", None), torch.float32)
    maps = _copy(getattr(predictions, "anomaly_map", None), torch.float32)
    masks = _copy(batch.gt_mask, torch.bool)
    if scores is not None and scores.size != count:
        msg = f"pred_score must hold one score an image, got {scores.size} scores for {count} images."
        raise ValueError(msg)
    if maps is not None and masks is not None and maps.shape != masks.shape:
        msg = (
            f"anomaly_map {maps.shape} and gt_mask {masks.shape} of {paths[0] or 'a batch'} differ in size, so pixel "
            "metrics cannot be computed. Make the model return maps of its input size, or resize both in its "
            "PreProcessor."
        )
        raise ValueError(msg)
    annotated = _annotated(batch, labels, masks)
    return [
        ImageRecord(
            path=paths[i],
            anomalous=labels[i],
            score=None if scores is None else float(scores.flat[i]),
            anomaly_map=None if maps is None else maps[i],
            mask=masks[i] if masks is not None and annotated[i] else None,
        )
        for i in range(count)
    ]


def _annotated(batch: Batch, labels: list[bool], masks: NDArray[np.bool_] | None) -> list[bool]:
    """Tell which images' masks are real.

    A batch holds a mask for each image or for none, so an anomalous image that nobody annotated comes with an empty
    one; its empty ``mask_path`` tells. The empty mask of a normal image is a fact.
    """
    paths = getattr(batch, "mask_path", None)
    if masks is None or paths is None:
        return [True] * len(labels)
    return [
        not anomalous or path not in {"", "nan", "None"} or bool(mask.any())
        for anomalous, path, mask in zip(labels, paths, masks, strict=True)
    ]


def _copy(tensor: torch.Tensor | None, dtype: torch.dtype) -> NDArray[Any] | None:
    """Return a copy on the CPU that shares no memory with the model, or ``None`` for ``None``."""
    if tensor is None:
        return None
    return tensor.detach().as_subclass(torch.Tensor).to("cpu", dtype, copy=True).numpy()
