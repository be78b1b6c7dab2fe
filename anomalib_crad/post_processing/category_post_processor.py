# SPDX-License-Identifier: Apache-2.0

"""Thresholds by a stated rule, for all images together or for each category, in place of anomalib's adaptive one.

Goes where anomalib takes a ``PostProcessor``, in any model, and differs in three ways: the threshold follows a rule
that the user states, scores for display are squashed instead of cut, so that no order is turned round, and a
validation needs memory for counts of pixels only. Here is what anomalib's engine calls; ``thresholding`` has the
arithmetic.
"""

from typing import Any

import rich
from anomalib.data import Batch
from lightning import LightningModule, Trainer

from anomalib_crad.post_processing.epoch_scores import EpochScores, find_thresholds
from anomalib_crad.post_processing.report import ThresholdReport, save_report, threshold_report
from anomalib_crad.post_processing.rules import ThresholdRule, check_rate, check_rule
from anomalib_crad.post_processing.thresholding import _ThresholdingPostProcessor
from anomalib_crad.recording.batch_categories import BatchCategories
from anomalib_crad.recording.categories import ONLY_CATEGORY


class CategoryPostProcessor(_ThresholdingPostProcessor):
    """Call images and pixels anomalous by a threshold that a person can state, one for all or one per category.

    Thresholds are found at the end of each validation epoch; the last one counts. What is above its threshold is
    anomalous. Scores for display are squashed into (0, 1) with the threshold at 0.5 and the usual normal image at 0.25;
    no order is turned round (with ``per_category``: none within a category). In a test and a prediction by anomalib's
    engine the category comes from the dataset; exported models use the pooled threshold and carry the others as
    metadata. A test ends with a table and ``thresholds.csv`` in the folder of the run.

    Args:
        rule (str, optional): How thresholds are found. ``best_f1``: highest F1 score, as in anomalib.
            ``false_alarm_rate``: from normal images alone, the lowest threshold above which no more than a share
            ``target`` of them lies. ``recall``: the best precision with at least the recall ``target``. ``precision``:
            the best recall with at least the precision ``target``. A rule that needs anomalous images falls back to a
            false-alarm rate of 0.01 where there are none. Defaults to ``"best_f1"``.
        target (float | None, optional): What the rule aims at. Defaults to ``None``: 0.01 for ``false_alarm_rate``,
            0.95 for ``recall`` and ``precision``; ``best_f1`` has none.
        per_category (bool, optional): Find and use a threshold for each category, too. Defaults to ``False``.
        pixel_false_alarm_rate (float, optional): Share of the pixels of normal images above the threshold for pixels,
            with the rule ``false_alarm_rate`` and where no pixel is known to be anomalous. Defaults to ``0.001``.
        enable_normalization (bool, optional): Squash scores; raw scores otherwise. Defaults to ``True``.
        enable_thresholding (bool, optional): Give labels and masks. Defaults to ``True``.
        enable_threshold_matching (bool, optional): Use the threshold of images for pixels where those have none, and
            the other way round. Defaults to ``True``.
        image_sensitivity (float, optional): Images are anomalous above ``1 - image_sensitivity`` on the squashed scale,
            so more than 0.5 finds more. Between 0 and 1. Defaults to ``0.5``: above the threshold.
        pixel_sensitivity (float, optional): The same for pixels. Defaults to ``0.5``.

    Attributes:
        report (ThresholdReport | None): What the thresholds did to the last test set, or ``None`` before the first.
        validated_categories (tuple[str, ...]): Names of the categories in which thresholds were found, pooled or own.

    Raises:
        ValueError: If a rule is unknown, or a number is out of its range.

    Example:
        >>> from anomalib.models import Padim
        >>> post_processor = CategoryPostProcessor(rule="false_alarm_rate", target=0.02, per_category=True)
        >>> model = Padim(post_processor=post_processor)  # doctest: +SKIP
    """

    def __init__(
        self,
        rule: ThresholdRule = "best_f1",
        target: float | None = None,
        per_category: bool = False,
        pixel_false_alarm_rate: float = 0.001,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        check_rule(rule, target)
        check_rate("pixel_false_alarm_rate", pixel_false_alarm_rate)
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        self.rule = rule
        self.target = target
        self.per_category = per_category
        self.pixel_false_alarm_rate = pixel_false_alarm_rate
        self.report: ThresholdReport | None = None
        self.validated_categories: tuple[str, ...] = ()
        self._batch_categories = BatchCategories()
        self._scores = EpochScores()

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        own = ("rule", "target", "per_category", "pixel_false_alarm_rate", "validated_categories")
        return (*super()._checkpoint_config_keys, *own)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to keep scores.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        self._begin(trainer, trainer.val_dataloaders, EpochScores())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the image scores of a batch and count its pixels.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
            outputs: What ``validation_step`` returned: the batch with raw predictions.
            batch: Unused.
            batch_idx: Unused.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        del pl_module, batch, batch_idx
        if _counts(trainer) and (self.enable_thresholding or self.enable_normalization):
            self._record(outputs, self._batch_categories.of(outputs, dataloader_idx), dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find thresholds in what the epoch brought; an epoch that brought nothing changes nothing.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        scores = self._finish()
        if not scores.categories or not _counts(trainer):
            return
        self.validated_categories = tuple(sorted(set(scores.categories) - {ONLY_CATEGORY}))
        self.thresholds = find_thresholds(
            scores.categories,
            rule=self.rule,
            target=self.target,
            pixel_false_alarm_rate=self.pixel_false_alarm_rate,
            per_category=self.per_category,
            warn=self._warn,
        )

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to keep image scores.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        self.report = None
        self._begin(trainer, trainer.test_dataloaders, EpochScores(pixels=False))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the raw image scores of a batch, then post-process it.

        Args:
            trainer: Unused.
            pl_module: Unused.
            outputs: What ``test_step`` returned: the batch with raw predictions.
            batch: Unused.
            batch_idx: Unused.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        del trainer, pl_module, batch, batch_idx
        categories = self._batch_categories.of(outputs, dataloader_idx)
        self._record(outputs, categories, dataloader_idx)
        self._post_process(outputs, categories)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what the thresholds did to the images of all processes.

        Args:
            trainer: Unused.
            pl_module: Unused.
        """
        del trainer, pl_module
        self.report = threshold_report(self._finish().categories, self.thresholds, self.image_sensitivity)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, once the progress bar is closed, and write the file.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        if self.report is None or not self.enable_thresholding or not trainer.is_global_zero:
            return
        if trainer.test_loop.verbose:
            rich.get_console().print(self.report.to_table())
        # A dry run leaves no files behind, and one batch's numbers must not replace those of a whole test.
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by one of its connectors
            save_report(trainer.default_root_dir, self.report)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn which image is of which category.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        self._begin(trainer, trainer.predict_dataloaders, EpochScores())

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Post-process a batch.

        Args:
            trainer: Unused.
            pl_module: Unused.
            outputs: What ``predict_step`` returned: the batch with raw predictions.
            batch: Unused.
            batch_idx: Unused.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        del trainer, pl_module, batch, batch_idx
        self._post_process(outputs, self._batch_categories.of(outputs, dataloader_idx))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the datasets.

        Args:
            trainer: Unused.
            pl_module: Unused.
        """
        del trainer, pl_module
        self._forget()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Forget an epoch that stops in the middle.

        Args:
            trainer: Unused.
            pl_module: Unused.
            exception: Unused.
        """
        del trainer, pl_module, exception
        self._forget()

    def _begin(self, trainer: Trainer, dataloaders: object, scores: EpochScores) -> None:
        self._batch_categories.start(trainer, dataloaders)
        self._scores = scores

    def _record(self, batch: Batch, categories: list[str], dataloader_idx: int) -> None:
        self._scores.add(batch, categories, self._batch_categories.first_time(batch, dataloader_idx))

    def _finish(self) -> EpochScores:
        """End an epoch and return the scores of all processes."""
        scores = self._scores
        self._forget()
        scores.gather()
        return scores

    def _forget(self) -> None:
        self._batch_categories.stop()
        self._scores = EpochScores()


def _counts(trainer: Trainer | None) -> bool:
    """Tell whether a validation is a real one; the few batches of a sanity check say nothing."""
    return not getattr(trainer, "sanity_checking", False)
