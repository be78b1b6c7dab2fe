# SPDX-License-Identifier: Apache-2.0

"""The one recorder of raw predictions, for every part of a run that needs them.

anomalib's ``PostProcessor`` runs before the evaluator and replaces the model's own values in the batch by normalised,
clamped ones. This callback therefore stands *first* in the trainer's list and copies what the step returned. A forward
hook on the inner model would see less: some anomalib models compute their scores in the step (VlmAd, Draem, AnomalyVFM,
Ganomaly) or call the inner model more than once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader

from anomalib_crad.recording.categories import ONLY_CATEGORY, CategoryLookup
from anomalib_crad.recording.processes import SampleOrder
from anomalib_crad.recording.records import image_paths, split_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib.data import Batch
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad.recording.records import ImageRecord


@dataclass
class _Epoch:
    """The dataloaders of the running epoch, and what has been requested."""

    lookups: list[CategoryLookup]
    orders: list[SampleOrder]
    records: bool = False
    maps: bool = False
    whole_categories: bool = False


class PredictionRecorder(Callback):
    """Categories, raw predictions and ground truth of the last batch, and of whole categories on request.

    A trainer has at most one. Evaluator and post-processor get it by :meth:`of`, first in their ``setup``, and never
    store it: it belongs to the trainer, leaves it at the end of the run or after an exception, and no copy, pickle or
    export of a model can carry its datasets and records. The recorder starts each epoch by itself; records are made
    only after a :meth:`request`, once per batch for all who asked, and dropped before the next batch.

    Attributes:
        categories (list[str]): Category of each image of the last batch, B.
        first_time (list[bool]): For each image of the last batch, B, whether it is not one that a distributed sampler
            repeats.
        new_records (list[tuple[str, ImageRecord]]): Category and record of each labelled image of the last batch that
            is not a repetition. Empty unless requested.
    """

    def __init__(self) -> None:
        self.categories: list[str] = []
        self.first_time: list[bool] = []
        self.new_records: list[tuple[str, ImageRecord]] = []
        self._epoch: _Epoch | None = None
        self._waiting: dict[str, list[ImageRecord]] = {}

    @classmethod
    def of(cls, trainer: Trainer) -> PredictionRecorder:
        """Return the recorder of a trainer; make it the first callback if there is none yet.

        Args:
            trainer: The trainer of a run.

        Returns:
            The recorder.
        """
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by one of its connectors
        found = next((callback for callback in callbacks if isinstance(callback, cls)), None)
        if found is None:
            found = cls()
            # A new list, because Lightning may be iterating over the old one.
            trainer.callbacks = [found, *callbacks]  # type: ignore[attr-defined]
        return found

    def start(self, dataloaders: object, datamodule: object = None) -> None:
        """Begin an epoch: forget the last one and every request.

        Args:
            dataloaders: The dataloaders of the epoch, in any collection that Lightning takes.
            datamodule: The trainer's datamodule, or ``None`` where dataloaders were passed.
        """
        loaders = CombinedLoader(dataloaders).flattened
        self._forget()
        self._epoch = _Epoch(
            lookups=[CategoryLookup(loader, datamodule) for loader in loaders],
            orders=[SampleOrder(loader) for loader in loaders],
        )

    def request(self, *, maps: bool, whole_categories: bool = False) -> None:
        """Ask for records of the running epoch; several requests add up. Without an epoch nothing happens.

        Args:
            maps: Whether records need anomaly maps and masks.
            whole_categories: Whether to keep the records of each category until they are taken. Defaults to ``False``.
        """
        if self._epoch is not None:
            self._epoch.records = True
            self._epoch.maps |= maps
            self._epoch.whole_categories |= whole_categories

    @property
    def expected(self) -> Counter[str]:
        """Number of images of each category in the running epoch's datasets, as far as these can be read."""
        counts: Counter[str] = Counter()
        for lookup in self._epoch.lookups if self._epoch else ():
            counts.update(lookup.counts)
        return counts

    def take_complete(self) -> Iterator[tuple[str, list[ImageRecord]]]:
        """Hand over each category as soon as every image of it is known to have been recorded.

        This can be known where the images of all datasets come once each. Otherwise categories wait for :meth:`finish`:
        a share of the images that other processes complete, or a ``Subset``, of which more images are expected than
        come.

        Yields:
            Name and records of a category; the recorder keeps none of them.
        """
        if self._epoch is None or not all(order.complete for order in self._epoch.orders):
            return
        expected = self.expected
        for category in [name for name, images in self._waiting.items() if len(images) == expected[name]]:
            yield category, self._waiting.pop(category)

    def finish(self) -> dict[str, list[ImageRecord]]:
        """End an epoch.

        Returns:
            Records by category that were not handed over yet, sorted by name; the recorder keeps none of them.
        """
        waiting = self._waiting
        self._forget()
        return {category: waiting[category] for category in sorted(waiting)}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation epoch."""
        del pl_module
        self.start(trainer.val_dataloaders, getattr(trainer, "datamodule", None))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a test epoch."""
        del pl_module
        self.start(trainer.test_dataloaders, getattr(trainer, "datamodule", None))

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a prediction epoch."""
        del pl_module
        self.start(trainer.predict_dataloaders, getattr(trainer, "datamodule", None))

    def on_validation_batch_start(self, *_args: object, **_kwargs: object) -> None:
        """Drop the last batch before the model needs memory for the next one."""
        self._forget_batch()

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record a batch, before any other callback can change it."""
        del trainer, pl_module, batch_idx
        self._record(outputs, batch, dataloader_idx)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, *_args: object, **_kwargs: object) -> None:
        """Drop the last batch; categories wait for :meth:`finish`, which others call after this."""
        self._forget_batch()

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Leave the trainer at the end of a run."""
        self._leave(trainer)

    def on_exception(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Leave a trainer that stops in the middle, for which Lightning calls no ``teardown``."""
        self._leave(trainer)

    def _record(self, outputs: object, batch: Batch, dataloader_idx: int) -> None:
        """Look up the images of a batch; copy it if anyone asked for records."""
        count = len(batch.image)  # type: ignore[arg-type] # always there
        if self._epoch is None:
            self.categories, self.first_time, self.new_records = [ONLY_CATEGORY] * count, [True] * count, []
            return
        lookup = self._epoch.lookups[dataloader_idx]
        self.categories = [lookup(path) for path in image_paths(batch, count)]
        self.first_time = self._epoch.orders[dataloader_idx].first_time(count)
        self.new_records = []
        if not self._epoch.records:
            return
        predictions = outputs if hasattr(outputs, "pred_score") else batch
        for i, record in enumerate(split_batch(predictions, batch, maps=self._epoch.maps)):
            if self.first_time[i]:
                self.new_records.append((self.categories[i], record))
        if self._epoch.whole_categories:
            for category, record in self.new_records:
                self._waiting.setdefault(category, []).append(record)

    def _forget_batch(self) -> None:
        self.categories, self.first_time, self.new_records = [], [], []

    def _forget(self) -> None:
        self._forget_batch()
        self._epoch, self._waiting = None, {}

    def _leave(self, trainer: Trainer) -> None:
        """Leave the trainer's callbacks and forget everything, also in the middle of an epoch."""
        # A new list, because Lightning may be iterating over the old one.
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [callback for callback in callbacks if callback is not self]  # type: ignore[attr-defined]
        self._forget()
