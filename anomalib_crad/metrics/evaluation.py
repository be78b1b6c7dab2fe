# SPDX-License-Identifier: Apache-2.0

"""One evaluation in progress: categories arrive whole, one after the other, and only numbers stay.

A category's maps are measured as soon as its last image has been seen and can be freed then, so an evaluation needs the
memory of one category however many there are. What stays of each image is its score, which the pooled metrics need at
the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anomalib_crad.metrics.category_report import POOLED, CategoryReport, CategoryResult
from anomalib_crad.metrics.default_metrics import DEFAULT_METRICS
from anomalib_crad.metrics.metric import RankedCategory, UndefinedMetricError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomalib_crad.metrics.metric import CategoryMetric
    from anomalib_crad.recording.records import ImageRecord

#: Measured of all categories together on one score scale: what one threshold for all of them can reach.
POOLED_METRICS = ("image_AUROC", "image_F1Max")


def evaluate_category(
    category: str,
    images: Sequence[ImageRecord],
    metrics: Sequence[CategoryMetric] = DEFAULT_METRICS,
) -> CategoryResult:
    """Measure one category.

    Args:
        category: Name of the category.
        images: Records of all its images.
        metrics: The metrics to compute. Defaults to the eight of ``DEFAULT_METRICS``.

    Returns:
        The metrics that exist, and for each other one the reason.
    """
    anomalous = sum(image.anomalous for image in images)
    result = CategoryResult(category, normal=len(images) - anomalous, anomalous=anomalous)
    ranked = RankedCategory(images)
    for metric in metrics:
        _measure(result, metric, ranked)
    return result


def _measure(result: CategoryResult, metric: CategoryMetric, category: RankedCategory) -> None:
    """Add the value of a metric to a result, or the reason why it does not exist."""
    try:
        result.values[metric.name] = category.value(metric)
    except UndefinedMetricError as reason:
        result.missing[metric.name] = str(reason)


class Evaluation:
    """Measure categories one by one and report on all of them.

    Args:
        metrics: The metrics to compute. Defaults to the eight of ``DEFAULT_METRICS``.
    """

    def __init__(self, metrics: Sequence[CategoryMetric] = DEFAULT_METRICS) -> None:
        self._metrics = metrics
        self._results: dict[str, CategoryResult] = {}
        self._images: list[ImageRecord] = []

    def add(self, category: str, images: Sequence[ImageRecord]) -> None:
        """Measure one category; none of its maps and masks is kept.

        Args:
            category: Name of the category.
            images: Records of all its images.
        """
        self._results[category] = evaluate_category(category, images, self._metrics)
        self._images += [replace(image, anomaly_map=None, mask=None) for image in images]

    def report(self, expected: Iterable[str] = ()) -> CategoryReport:
        """Report on all categories, sorted by name.

        Args:
            expected: Categories that belong in the report even if none of their images was added.

        Returns:
            The report, with the pooled metrics if any image was added.
        """
        absent = {name: evaluate_category(name, [], self._metrics) for name in expected if name not in self._results}
        results = self._results | absent
        pooled = [metric for metric in self._metrics if metric.name in POOLED_METRICS]
        return CategoryReport(
            tuple(results[name] for name in sorted(results)),
            evaluate_category(POOLED, self._images, pooled) if self._images else None,
            tuple(metric.name for metric in self._metrics),
        )
