# SPDX-License-Identifier: Apache-2.0

"""One evaluation in progress: categories come in whole, one after the other, and only numbers stay.

A category's maps are measured as soon as its last image has been seen and can be freed then, so that an evaluation
needs the memory of one category however many there are. What stays of each image is its score, which the pooled metrics
need in the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anomalib_crad.metrics.category import METRIC_NAMES, evaluate_category
from anomalib_crad.metrics.report import POOLED, CategoryReport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from anomalib_crad.metrics.category import CategoryResult, ImageRecord

#: Of all categories under one score scale: what one threshold for all of them can reach.
POOLED_METRICS = ("image_AUROC", "image_F1Max")


class Evaluation:
    """Measure categories one by one and report on all of them.

    Args:
        metrics: Names of the metrics to compute. Defaults to all.
    """

    def __init__(self, metrics: Collection[str] = METRIC_NAMES) -> None:
        self._metrics = metrics
        self._results: dict[str, CategoryResult] = {}
        self._images: list[ImageRecord] = []

    def add(self, category: str, images: Sequence[ImageRecord]) -> None:
        """Measure one category; nothing of its maps and masks is kept.

        Args:
            category: Name of the category.
            images: Records of all its images.
        """
        self._results[category] = evaluate_category(category, images, self._metrics)
        self._images += [replace(image, anomaly_map=None, mask=None) for image in images]

    def report(self, expected: Iterable[str] = ()) -> CategoryReport:
        """Report on all categories, sorted by name.

        Args:
            expected: Categories that belong into the report even if none of their images was added.

        Returns:
            The report, with the pooled metrics if any image was added.
        """
        absent = {name: evaluate_category(name, [], self._metrics) for name in expected if name not in self._results}
        results = self._results | absent
        pooled = [name for name in POOLED_METRICS if name in self._metrics]
        return CategoryReport(
            tuple(results[name] for name in sorted(results)),
            evaluate_category(POOLED, self._images, pooled) if self._images else None,
        )
