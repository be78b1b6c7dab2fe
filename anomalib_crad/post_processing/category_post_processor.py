# SPDX-License-Identifier: Apache-2.0

"""Thresholds by a stated rule, for all images together or for each category, instead of anomalib's adaptive one.

Any anomalib model takes it as its ``PostProcessor``. It differs from anomalib's in three ways: the threshold follows a
rule that the user states, scores for display are squashed instead of clamped, so that no order is reversed, and a
validation keeps counts of pixels instead of pixels. This file holds the hooks that anomalib's engine calls;
``thresholding`` holds the arithmetic.
"""

from typing import Any

import rich
from lightning import LightningModule, Trainer

from anomalib_crad.post_processing.epoch_scores import EpochScores, find_thresholds
from anomalib_crad.post_processing.rules import ThresholdRule, check_rate, check_rule
from anomalib_crad.post_processing.threshold_report import ThresholdReport, save_report, threshold_report
from anomalib_crad.post_processing.thresholding import _ThresholdingPostProcessor
from anomalib_crad.recording.categories import ONLY_CATEGORY
from anomalib_crad.recording.recorder import PredictionRecorder


class CategoryPostProcessor(_ThresholdingPostProcessor):
    """Call images and pixels anomalous by a threshold that a person can state, one for all or one per category.

    Thresholds are found at the end of each validation epoch; the last epoch counts. Scores above the threshold are
    anomalous. Scores for display are squashed into (0, 1) with the threshold at 0.5 and the usual normal image at 0.25;
    no order is reversed (with ``per_category``: within a category). In a test and a prediction by anomalib's engine
    the category comes from the dataset; exported models use the pooled threshold and hold the others as metadata. A
    test ends with a table and ``thresholds.csv`` in the folder of the run.

    Args:
        rule (str, optional): How thresholds are found. ``best_f1``: highest F1 score, as in anomalib.
            ``false_alarm_rate``: from normal images alone, the lowest threshold above which no more than a share
            ``target`` of them lies. ``recall``: the best precision with at least the recall ``target``. ``precision``:
            the best recall with at least the precision ``target``. A rule that needs anomalous images falls back to a
            false-alarm rate of 0.01 where there are none. Defaults to ``"best_f1"``.
        target (float | None, optional): Target of the rule. Defaults to ``None``: 0.01 for ``false_alarm_rate``, 0.95
            for ``recall`` and ``precision``; ``best_f1`` has none.
        per_category (bool, optional): Find and use a threshold for each category too. Defaults to ``False``.
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
        report (ThresholdReport | None): False alarms and misses of the last test, or ``None`` before the first.
        validated_categories (tuple[str, ...]): Names of the categories in the last validation set.

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
        self._scores = EpochScores()

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        own = ("rule", "target", "per_category", "pixel_false_alarm_rate", "validated_categories")
        return (*super()._checkpoint_config_keys, *own)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make sure that the trainer has a recorder."""
        super().setup(trainer, pl_module, stage)
        PredictionRecorder.of(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Begin to collect scores and pixels."""
        self._scores = EpochScores()
        if self._finds_thresholds(trainer):
            PredictionRecorder.of(trainer).request(maps=True)

    def on_validation_batch_end(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Keep the image scores of a batch and count its pixels."""
        if self._finds_thresholds(trainer):
            self._collect(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Find thresholds in the scores of the epoch; an epoch without scores changes nothing."""
        scores = self._finish()
        if not scores.categories or trainer.sanity_checking:
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

    def on_test_epoch_start(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Begin to collect image scores."""
        self.report = None
        self._scores = EpochScores(count_pixels=False)
        PredictionRecorder.of(trainer).request(maps=False)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *_args: object,
        **_kwargs: object,
    ) -> None:
        """Keep the raw image scores of a batch, then post-process it."""
        del pl_module
        self._collect(trainer)
        self._post_process(outputs, PredictionRecorder.of(trainer).categories)

    def on_test_epoch_end(self, *_args: object, **_kwargs: object) -> None:
        """Count false alarms and misses in the images of all processes."""
        self.report = threshold_report(self._finish().categories, self.thresholds, self.image_sensitivity)

    def on_test_end(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Print the table, once the progress bar is closed, and write the file."""
        if self.report is None or not self.enable_thresholding or not trainer.is_global_zero:
            return
        if trainer.test_loop.verbose:
            rich.get_console().print(self.report.to_table())
        # A dry run leaves no files behind, and one batch's numbers must not replace those of a whole test.
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by one of its connectors
            save_report(trainer.default_root_dir, self.report)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *_args: object,
        **_kwargs: object,
    ) -> None:
        """Post-process a batch, each image by the thresholds of its category."""
        del pl_module
        self._post_process(outputs, PredictionRecorder.of(trainer).categories)

    def on_exception(self, *_args: object, **_kwargs: object) -> None:
        """Forget an epoch that stops in the middle."""
        self._scores = EpochScores()

    def _finds_thresholds(self, trainer: Trainer) -> bool:
        """Tell whether a validation finds thresholds; a sanity check has too few batches for that."""
        return not trainer.sanity_checking and (self.enable_thresholding or self.enable_normalization)

    def _collect(self, trainer: Trainer) -> None:
        for category, image in PredictionRecorder.of(trainer).new_records:
            self._scores.add(category, image)

    def _finish(self) -> EpochScores:
        """End an epoch and return the scores of all processes."""
        scores, self._scores = self._scores, EpochScores()
        scores.gather()
        return scores
