# SPDX-License-Identifier: Apache-2.0

"""An evaluator for models that serve several categories.

Takes the place of anomalib's default ``Evaluator`` in any ``AnomalibModule`` and differs in two ways: it measures each
category by itself, and it reads raw scores and maps, where anomalib's metrics read values that its post-processor has
clamped (which ties scores and changes a ranking). The names that a test logs stay anomalib's four, as
``anomalib benchmark`` wants the same ones of all models; all others go to the trainer's loggers past it.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import rich
import torch
from anomalib.metrics import Evaluator, F1Score

from anomalib_crad.metrics.category import METRIC_NAMES
from anomalib_crad.metrics.evaluation import Evaluation
from anomalib_crad.metrics.results import describe_run, save_results
from anomalib_crad.recording.processes import from_first_process, gather_categories, join_updates, several_processes
from anomalib_crad.recording.recorder import PredictionRecorder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from anomalib.data import Batch
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad.metrics.report import CategoryReport

#: The names that anomalib logs too; also all that is measured in validation, which has to be cheap.
LOGGED_MEANS = ("image_AUROC", "pixel_AUROC")


class CategoryEvaluator(Evaluator):
    """Evaluate each category by itself, on raw scores.

    A test logs ``image_AUROC`` and ``pixel_AUROC`` (means over categories, raw scores) and ``image_F1Score`` and
    ``pixel_F1Score`` (anomalib's own, of the thresholded predictions of all categories together). It sends the means of
    all eight metrics, ``image_AUROC/bottle`` and the like, and ``pooled/image_AUROC`` to the trainer's loggers, prints
    a table, and writes ``category_metrics.csv`` and ``.json`` into the folder of the run. What does not exist (no
    masks, one class only) is left out and said so. Categories come from the column ``category`` of the dataset's
    samples, else from its or the datamodule's ``category``.

    Args:
        validation (bool, optional): Measure the validation set too and log the means of ``image_AUROC`` and
            ``pixel_AUROC`` after each validation epoch. Defaults to ``True``.
        compute_on_cpu (bool, optional): Keep the states of the F1 scores on the CPU. Raw predictions are always kept
            there. Defaults to ``True``.

    Attributes:
        report (CategoryReport | None): Result of the last test, the same in every process, or ``None`` before the
            first.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(evaluator=CategoryEvaluator())  # doctest: +SKIP
    """

    def __init__(self, validation: bool = True, compute_on_cpu: bool = True) -> None:
        image_f1_score = F1Score(fields=["pred_label", "gt_label"], prefix="image_", strict=False)
        pixel_f1_score = F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False)
        super().__init__(test_metrics=[image_f1_score, pixel_f1_score], compute_on_cpu=compute_on_cpu)
        self.validation = validation
        self.report: CategoryReport | None = None
        self._recorder = PredictionRecorder()
        self._evaluation = Evaluation()
        self._test_began = 0.0

    @property
    def _f1_scores(self) -> Iterable[F1Score]:
        """The parent's test metrics, with the type that a ``ModuleList`` hides."""
        return cast("Iterable[F1Score]", self.test_metrics)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the recorder before the post-processor.

        Args:
            trainer: The trainer of the run.
            pl_module: The model of the run.
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        super().setup(trainer, pl_module, stage)
        self._recorder.attach(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the recorder out of the trainer.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
            stage: Unused.
        """
        del pl_module, stage
        self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the recorder out of a trainer that stops in the middle, for which Lightning calls no ``teardown``.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
            exception: Unused.
        """
        del pl_module, exception
        self._stop(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start recording; not in a sanity check, whose few batches say nothing.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        if self.validation and not trainer.sanity_checking:
            self._begin(trainer, trainer.val_dataloaders, LOGGED_MEANS)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the categories that this batch completes.

        Args:
            trainer: The trainer of the run.
            pl_module: The model of the run.
            outputs: What ``validation_step`` returned.
            batch: The batch.
            batch_idx: Number of the batch.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._measure_complete()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means of the validation set.

        Args:
            trainer: The trainer of the run.
            pl_module: The model of the run.
        """
        if self.validation and not trainer.sanity_checking:
            self._log_means(trainer, self._finish())
        super().on_validation_epoch_end(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start recording.

        Args:
            trainer: The trainer of the run.
            pl_module: Unused.
        """
        del pl_module
        self.report = None
        self._test_began = time.monotonic()
        self._begin(trainer, trainer.test_dataloaders, METRIC_NAMES)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the F1 scores and measure the categories that this batch completes.

        Args:
            trainer: The trainer of the run.
            pl_module: The model of the run.
            outputs: What ``test_step`` returned.
            batch: The batch.
            batch_idx: Number of the batch.
            dataloader_idx: Which of the epoch's dataloaders the batch comes from.
        """
        first_time = self._recorder.first_time
        if all(first_time):
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        elif any(first_time):
            for metric in self._f1_scores:
                metric.update(_select(batch, metric.fields, first_time))
        self._measure_complete()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what is left, log the means, and send everything to the trainer's loggers.

        Args:
            trainer: The trainer of the run.
            pl_module: The model of the run.
        """
        self.report = self._finish()
        self._log_means(trainer, self.report)
        # Not through self.log: any name but anomalib's would break the one table of `anomalib benchmark`.
        values = {name: value for name, value in self.report.mean.items() if name not in LOGGED_MEANS}
        values |= self.report.per_category | self.report.pooled_values
        for run_logger in trainer.loggers:
            run_logger.log_metrics(values, step=trainer.global_step)
        join_updates(self._f1_scores)
        super().on_test_epoch_end(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, once the progress bar is closed, and write the files.

        Args:
            trainer: The trainer of the run.
            pl_module: The model of the run.
        """
        if self.report is None or not self.report.categories or not trainer.is_global_zero:
            return
        if trainer.test_loop.verbose:
            rich.get_console().print(self.report.to_table())
        # A dry run leaves no files behind, and one batch's numbers must not replace those of a whole test.
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by one of its connectors
            seconds = round(time.monotonic() - self._test_began, 3)
            save_results(trainer.default_root_dir, self.report, describe_run(trainer, pl_module, seconds))

    def new_evaluation(self, metrics: Collection[str]) -> Evaluation:
        """Make the evaluation of an epoch; a subclass may measure more.

        Args:
            metrics: Names of the metrics to compute.

        Returns:
            The evaluation, empty.
        """
        return Evaluation(metrics)

    def _stop(self, trainer: Trainer) -> None:
        """Leave the trainer and forget an epoch that was not finished."""
        self._recorder.detach(trainer)
        self._evaluation = Evaluation()

    def _begin(self, trainer: Trainer, dataloaders: object, metrics: Collection[str]) -> None:
        """Begin an epoch; a trainer that was given dataloaders has no datamodule."""
        self._evaluation = self.new_evaluation(metrics)
        self._recorder.start(dataloaders, getattr(trainer, "datamodule", None))

    def _measure_complete(self) -> None:
        """Measure and forget the categories that are complete."""
        for category, images in self._recorder.take_complete():
            self._evaluation.add(category, images)

    def _finish(self) -> CategoryReport:
        """End an epoch: measure the rest, with what other processes have recorded, and report, the same everywhere."""
        expected = self._recorder.expected
        for category, images in gather_categories(self._recorder.finish()):
            self._evaluation.add(category, images)
        report = from_first_process(self._evaluation.report(expected))
        self._evaluation = Evaluation()
        return report

    def _log_means(self, trainer: Trainer, report: CategoryReport) -> None:
        """Log the means that anomalib logs too, as far as they exist, in the way of the parent class."""
        for name in LOGGED_MEANS:
            if name not in report.mean:
                continue
            value = report.mean[name]
            # All processes hold the same value; the flag tells Lightning so.
            self.log(name, value, sync_dist=several_processes())  # type: ignore[operator] # the model's own method
            # Lightning logs nothing in barebones mode, yet callers read these two.
            if trainer.barebones:
                trainer.callback_metrics[name] = torch.tensor(value)
                trainer.logged_metrics[name] = torch.tensor(value)


def _select(batch: Batch, fields: Collection[str], chosen: list[bool]) -> Any:  # noqa: ANN401 - stands for a batch
    """Return some images of a batch, with the fields that a metric reads."""
    values = {field: getattr(batch, field, None) for field in fields}
    return SimpleNamespace(**{name: value if value is None else value[chosen] for name, value in values.items()})
