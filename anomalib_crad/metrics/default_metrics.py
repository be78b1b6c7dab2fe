# SPDX-License-Identifier: Apache-2.0

"""The eight metrics that are measured by default, and the check of a user's own list.

All are exact and threshold-free: they are read off the ranking of raw scores (see ``ranking`` and ``overlap``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anomalib_crad.metrics.metric import CategoryMetric, UndefinedMetricError
from anomalib_crad.metrics.overlap import area_under_overlap, region_shares

if TYPE_CHECKING:
    from anomalib_crad.metrics.metric import RankedCategory


class ImageAUROC(CategoryMetric):
    """Area under the ROC curve of image scores."""

    name = "image_AUROC"

    def compute(self, category: RankedCategory) -> float:
        """Compute the area."""
        return category.images.auroc()


class ImageAP(CategoryMetric):
    """Average precision of image scores."""

    name = "image_AP"

    def compute(self, category: RankedCategory) -> float:
        """Compute the average precision."""
        return category.images.average_precision()


class ImageF1Max(CategoryMetric):
    """F1 score of the best threshold for images."""

    name = "image_F1Max"

    def compute(self, category: RankedCategory) -> float:
        """Compute the F1 score."""
        return category.images.f1_max()


class PixelAUROC(CategoryMetric):
    """Area under the ROC curve of pixels."""

    name = "pixel_AUROC"

    def compute(self, category: RankedCategory) -> float:
        """Compute the area."""
        return category.pixels.auroc()


class PixelAP(CategoryMetric):
    """Average precision of pixels."""

    name = "pixel_AP"

    def compute(self, category: RankedCategory) -> float:
        """Compute the average precision."""
        return category.pixels.average_precision()


class PixelF1Max(CategoryMetric):
    """F1 score of the best threshold for pixels."""

    name = "pixel_F1Max"

    def compute(self, category: RankedCategory) -> float:
        """Compute the F1 score."""
        return category.pixels.f1_max()


class PixelAUPRO(CategoryMetric):
    """Area under the per-region overlap curve, up to a false-positive rate of 0.3."""

    name = "pixel_AUPRO"

    def compute(self, category: RankedCategory) -> float:
        """Compute the area."""
        return area_under_overlap(category.pixels, region_shares(category.masks))


class MeanAD(CategoryMetric):
    """mAD: the plain mean of seven metrics, as the ADer suite defines it (Zhang et al., arXiv 2406.03262).

    The seven are fixed, so another metric in an evaluator's list does not change it. A category that lacks one of them
    has no mAD: a mean of fewer would pass as a value that can be compared.
    """

    name = "mAD"
    parts: tuple[CategoryMetric, ...] = (
        ImageAUROC(),
        ImageAP(),
        ImageF1Max(),
        PixelAUROC(),
        PixelAP(),
        PixelF1Max(),
        PixelAUPRO(),
    )

    def compute(self, category: RankedCategory) -> float:
        """Compute the mean; values that the evaluator has computed already are not computed again."""
        try:
            values = [category.value(part) for part in self.parts]
        except UndefinedMetricError as error:
            msg = "it is the mean of all seven others"
            raise UndefinedMetricError(msg) from error
        return sum(values) / len(values)


DEFAULT_METRICS: tuple[CategoryMetric, ...] = (*MeanAD.parts, MeanAD())
METRIC_NAMES = tuple(metric.name for metric in DEFAULT_METRICS)
IMAGE_METRICS = tuple(name for name in METRIC_NAMES if name.startswith("image_"))

#: Names that mean something else beside a metric's: the first column of tables, and anomalib's F1 scores in loggers.
_RESERVED = ("category", "image_F1Score", "pixel_F1Score")


def check_metrics(metrics: Sequence[CategoryMetric]) -> tuple[CategoryMetric, ...]:
    """Check a user's list of metrics.

    Args:
        metrics: The metrics to measure.

    Returns:
        The same.

    Raises:
        TypeError: If it is not a list, or an entry is not an instance of ``CategoryMetric``.
        ValueError: If the list is empty, or a name is missing or exists already.
    """
    if not isinstance(metrics, Sequence) or isinstance(metrics, str):
        msg = f"metrics must be a list of CategoryMetric instances, got {metrics!r}."
        raise TypeError(msg)
    if not metrics:
        msg = "metrics is empty. Name at least one metric, or leave the argument out to measure the default ones."
        raise ValueError(msg)
    classes: dict[str, type] = {metric.name: type(metric) for metric in DEFAULT_METRICS}
    seen: set[str] = set()
    for metric in metrics:
        if not isinstance(metric, CategoryMetric):
            hint = " Add parentheses: a list holds instances." if isinstance(metric, type) else ""
            msg = f"metrics must hold instances of CategoryMetric, got {metric!r}.{hint}"
            raise TypeError(msg)
        name = getattr(metric, "name", None)
        if not isinstance(name, str) or not name:
            msg = f"metrics: {type(metric).__name__} needs a class attribute name, a text; got {name!r}."
            raise ValueError(msg)
        if name in seen or name in _RESERVED or classes.get(name, type(metric)) is not type(metric):
            msg = f"metrics: the name {name!r} of {type(metric).__name__} exists already. Give the metric another name."
            raise ValueError(msg)
        seen.add(name)
    return tuple(metrics)
