# SPDX-License-Identifier: Apache-2.0

"""False alarms and misses of a test by category, as a table and as a file.

The rows of categories use the thresholds that gave the labels: each category's own where it has one. The last row uses
one threshold for all, so that the two can be compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.table import Table

from anomalib_crad.files import try_to_write, write_rows
from anomalib_crad.post_processing.epoch_scores import CategoryScores
from anomalib_crad.post_processing.thresholds import unsquash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib_crad.post_processing.rules import Threshold
    from anomalib_crad.post_processing.thresholds import Thresholds


CSV_NAME = "thresholds.csv"
POOLED = "pooled"


@dataclass(frozen=True)
class ThresholdResult:
    """The effect of one threshold on the images of one category.

    Attributes:
        category: Name of the category.
        threshold: Raw image score above which an image is called anomalous.
        false_alarm_rate: Share of normal images above it, or ``None`` if there are no normal images.
        recall: Share of anomalous images above it, or ``None`` if there are none.
        normal: Number of normal images.
        anomalous: Number of anomalous images.
        false_alarms: Normal images above the threshold.
        missed: Anomalous images not above it.
    """

    category: str
    threshold: float
    false_alarm_rate: float | None
    recall: float | None
    normal: int
    anomalous: int
    false_alarms: int
    missed: int

    @classmethod
    def of(cls, category: str, threshold: float, scores: Sequence[float], labels: Sequence[bool]) -> ThresholdResult:
        """Count false alarms and misses of a threshold.

        Args:
            category: Name of the category.
            threshold: Raw score above which an image is called anomalous.
            scores: Raw image scores; NaN counts as not above.
            labels: Whether each image is anomalous.

        Returns:
            The counts and rates.
        """
        above, anomalous = np.asarray(scores, np.float32) > threshold, np.asarray(labels, bool)
        normals, anomalies = int((~anomalous).sum()), int(anomalous.sum())
        false_alarms, missed = int((above & ~anomalous).sum()), int((~above & anomalous).sum())
        return cls(
            category=category,
            threshold=threshold,
            false_alarm_rate=false_alarms / normals if normals else None,
            recall=1 - missed / anomalies if anomalies else None,
            normal=normals,
            anomalous=anomalies,
            false_alarms=false_alarms,
            missed=missed,
        )


@dataclass(frozen=True)
class ThresholdReport:
    """The effect of thresholds on a test set.

    Attributes:
        categories: One result a category, in the order in which they are shown.
        pooled: Result of the images of all categories with the pooled threshold.
    """

    categories: tuple[ThresholdResult, ...]
    pooled: ThresholdResult

    @property
    def rows(self) -> list[ThresholdResult]:
        """Results of the categories, then the pooled one."""
        return [*self.categories, self.pooled]

    def to_table(self) -> Table:
        """Return a table for the terminal: categories as rows, the pooled threshold last."""
        table = Table(title="Thresholds per category, on raw image scores", padding=0)
        table.add_column("category")
        for name in _COLUMNS[1:]:
            table.add_column(_HEADINGS.get(name, name), justify="right", no_wrap=True)
        for number, row in enumerate(self.rows, start=1):
            rates = ("-" if rate is None else f"{rate:.4f}" for rate in (row.false_alarm_rate, row.recall))
            counts = (str(count) for count in (row.normal, row.anomalous, row.false_alarms, row.missed))
            last_category = number == len(self.categories)
            table.add_row(row.category, f"{row.threshold:.6g}", *rates, *counts, end_section=last_category)
        return table

    def to_csv(self, path: str | Path) -> None:
        """Write the rows of the table at full precision; a rate that does not exist is empty.

        Args:
            path: File to write; its folder is made, an existing file is replaced.

        Raises:
            OSError: If the file cannot be written.
        """
        write_rows(path, _COLUMNS, map(asdict, self.rows))


_COLUMNS = [field.name for field in fields(ThresholdResult)]
_HEADINGS = {"false_alarm_rate": "false-alarm\nrate", "false_alarms": "false\nalarms"}


def threshold_report(
    categories: Mapping[str, CategoryScores],
    thresholds: Thresholds,
    sensitivity: float = 0.5,
) -> ThresholdReport | None:
    """Count false alarms and misses of a test.

    Args:
        categories: Raw image scores and labels of each category.
        thresholds: The thresholds; the pooled one is used for a category without its own.
        sensitivity: Images are anomalous above ``1 - sensitivity`` on the squashed scale. Defaults to ``0.5``.

    Returns:
        The report, or ``None`` if there is no threshold or no labelled image.
    """
    pooled = thresholds.pooled.image
    named = {name: scores for name, scores in sorted(categories.items()) if scores.scores}
    if pooled is None or not named:
        return None

    def result(name: str, scores: CategoryScores, threshold: Threshold) -> ThresholdResult:
        return ThresholdResult.of(name, _raw(threshold, sensitivity), scores.scores, scores.labels)

    rows = []
    for name, scores in named.items():
        own = thresholds.of(name if name in thresholds.categories else None).image
        rows.append(result(name, scores, own or pooled))
    return ThresholdReport(tuple(rows), result(POOLED, CategoryScores.sum(named.values()), pooled))


def save_report(folder: str | Path, report: ThresholdReport) -> None:
    """Write the file; a full or read-only disk is logged, so that the printed table is not lost with it.

    Args:
        folder: Folder of the run; an existing file in it is replaced.
        report: The report of the test.
    """
    try_to_write(Path(folder) / CSV_NAME, report.to_csv, "Thresholds of each category")


def _raw(threshold: Threshold, sensitivity: float) -> float:
    """Return the raw score above which an image is called anomalous at the given sensitivity."""
    numbers = (
        torch.tensor(value, dtype=torch.float64) for value in (1 - sensitivity, threshold.value, threshold.scale)
    )
    return float(unsquash(*numbers))
