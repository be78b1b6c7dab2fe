# SPDX-License-Identifier: Apache-2.0

"""An evaluator for models that serve several categories.

Any ``AnomalibModule`` takes it instead of anomalib's default ``Evaluator``. It differs in two ways: it measures each
category by itself, and it reads raw scores and maps, where anomalib's metrics read values that its post-processor has
clamped (which ties scores and changes a ranking). A test logs anomalib's four names and no other, because ``anomalib
benchmark`` needs the same names from all models; all other values go directly to the trainer's loggers.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import rich
import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator, F1Score
from lightning.pytorch import LightningModule, Trainer

from anomalib_crad.metrics.category_report import CategoryReport
from anomalib_crad.metrics.default_metrics import DEFAULT_METRICS, check_metrics
from anomalib_crad.metrics.evaluation import Evaluation
from anomalib_crad.metrics.metric import CategoryMetric
from anomalib_crad.metrics.results import describe_run, save_results
from anomalib_crad.recording.processes import from_first_process, gather_categories, join_updates, several_processes
from anomalib_crad.recording.recorder import PredictionRecorder

#: The names that anomalib logs too. A validation measures nothing else, because it has to be cheap.
LOGGED_MEANS = ("image_AUROC", "pixel_AUROC")


class CategoryEvaluator(Evaluator):
    """Evaluate each category by itself, on raw scores.

    A test logs ``image_AUROC`` and ``pixel_AUROC`` (means over categories, raw scores) and ``image_F1Score`` and
    ``pixel_F1Score`` (anomalib's own, of the thresholded predictions of all categories together). It sends the means of
    all metrics, ``image_AUROC/bottle`` and the like, and ``pooled/image_AUROC`` to the trainer's loggers, prints a
    table, and writes ``category_metrics.csv`` and ``.json`` into the folder of the run. Metrics that do not exist for a
    category (no masks, one class only) are left out, and the table says why. Categories come from the column
    ``category`` of the dataset's samples, else from the ``category`` of the dataset or datamodule.

    Args:
        validation (bool, optional): Measure the validation set too and log the means of ``image_AUROC`` and
            ``pixel_AUROC`` after each validation epoch. Defaults to ``True``.
        compute_on_cpu (bool, optional): Keep the states of the F1 scores on the CPU. Raw predictions are always kept
            there. Defaults to ``True``.
        metrics (Sequence[CategoryMetric] | None, optional): The metrics of a test, in the order of the table's columns.
            Of ``image_AUROC`` and ``pixel_AUROC``, those that are missing here are not logged. Defaults to ``None``:
            the eight of ``DEFAULT_METRICS``.

    Attributes:
        metrics (tuple[CategoryMetric, ...]): The metrics of a test.
        report (CategoryReport | None): Result of the last test, the same in every process, or ``None`` before the
            first.

    Raises:
        TypeError: If an entry of ``metrics`` is not an instance of ``CategoryMetric``.
        ValueError: If ``metrics`` is empty, or a name is missing or exists already.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(evaluator=CategoryEvaluator())  # doctest: +SKIP
    """

    def __init__(
        self,
        validation: bool = True,
        compute_on_cpu: bool = True,
        metrics: Sequence[CategoryMetric] | None = None,
    ) -> None:
        image_f1_score = F1Score(fields=["pred_label", "gt_label"], prefix="image_", strict=False)
        pixel_f1_score = F1Score(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False)
        super().__init__(test_metrics=[image_f1_score, pixel_f1_score], compute_on_cpu=compute_on_cpu)
        self.validation = validation
        self.metrics = DEFAULT_METRICS if metrics is None else check_metrics(metrics)
        self.report: CategoryReport | None = None
        self._evaluation = Evaluation()
        self._test_began = 0.0

    @property
    def _f1_scores(self) -> Iterable[F1Score]:
        """The parent's test metrics, with the type that a ``ModuleList`` hides."""
        return cast("Iterable[F1Score]", self.test_metrics)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make sure that the trainer has a recorder, which stands before the post-processor."""
        super().setup(trainer, pl_module, stage)
        PredictionRecorder.of(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Begin an evaluation; not in a sanity check, which has too few batches for one."""
        if self._validates(trainer):
            self._begin(trainer, [metric for metric in self.metrics if metric.name in LOGGED_MEANS])

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Measure the categories that this batch completes."""
        super().on_validation_batch_end(trainer, *args, **kwargs)
        self._measure_complete(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means of the validation set."""
        if self._validates(trainer):
            self._log_means(trainer, self._finish(trainer))
        super().on_validation_epoch_end(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, *_args: object, **_kwargs: object) -> None:
        """Begin an evaluation."""
        self.report = None
        self._test_began = time.monotonic()
        self._begin(trainer, self.metrics)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Update the F1 scores and measure the categories that this batch completes."""
        first_time = PredictionRecorder.of(trainer).first_time
        if all(first_time):
            super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)
        elif any(first_time):
            for metric in self._f1_scores:
                metric.update(_select(batch, metric.fields, first_time))
        self._measure_complete(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the remaining categories, log the means, and send everything to the trainer's loggers."""
        self.report = self._finish(trainer)
        self._log_means(trainer, self.report)
        # Not through self.log: any name but anomalib's would break the one table of `anomalib benchmark`.
        values = {name: value for name, value in self.report.mean.items() if name not in LOGGED_MEANS}
        values |= self.report.per_category | self.report.pooled_values
        for run_logger in trainer.loggers:
            run_logger.log_metrics(values, step=trainer.global_step)
        join_updates(self._f1_scores)
        super().on_test_epoch_end(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, once the progress bar is closed, and write the files."""
        if self.report is None or not self.report.categories or not trainer.is_global_zero:
            return
        if trainer.test_loop.verbose:
            rich.get_console().print(self.report.to_table())
        # A dry run leaves no files behind, and one batch's numbers must not replace those of a whole test.
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by one of its connectors
            seconds = round(time.monotonic() - self._test_began, 3)
            save_results(trainer.default_root_dir, self.report, describe_run(trainer, pl_module, seconds))

    def on_exception(self, *_args: object, **_kwargs: object) -> None:
        """Forget an evaluation that stops in the middle."""
        self._evaluation = Evaluation()

    def new_evaluation(self, metrics: Sequence[CategoryMetric]) -> Evaluation:
        """Make the evaluation of an epoch; a subclass may measure more.

        Args:
            metrics: The metrics to compute.

        Returns:
            The evaluation, empty.
        """
        return Evaluation(metrics)

    def _validates(self, trainer: Trainer) -> bool:
        """Tell whether the running validation epoch is measured."""
        return self.validation and not trainer.sanity_checking

    def _begin(self, trainer: Trainer, metrics: Sequence[CategoryMetric]) -> None:
        """Begin an evaluation and ask for the records of whole categories."""
        self._evaluation = self.new_evaluation(metrics)
        PredictionRecorder.of(trainer).request(maps=True, whole_categories=True)

    def _measure_complete(self, trainer: Trainer) -> None:
        """Measure the categories that are complete, and keep none of their maps."""
        for category, images in PredictionRecorder.of(trainer).take_complete():
            self._evaluation.add(category, images)

    def _finish(self, trainer: Trainer) -> CategoryReport:
        """Measure the rest, with the records of other processes, and return the report, the same in all of them."""
        recorder = PredictionRecorder.of(trainer)
        expected = recorder.expected
        for category, images in gather_categories(recorder.finish()):
            self._evaluation.add(category, images)
        report = from_first_process(self._evaluation.report(expected))
        self._evaluation = Evaluation()
        return report

    def _log_means(self, trainer: Trainer, report: CategoryReport) -> None:
        """Log the means that anomalib logs too, if they exist, in the way of the parent class."""
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
