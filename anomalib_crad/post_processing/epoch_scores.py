# SPDX-License-Identifier: Apache-2.0

"""Scores that an epoch collects, to find thresholds from or to count what thresholds do.

Image scores are kept and pixels are counted (see ``score_table``), both by category. After the epoch the scores of all
processes are merged, and the rules are applied to each category and to all categories pooled.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.post_processing.rules import DEFAULT_TARGETS, Finding, find_threshold
from anomalib_crad.post_processing.score_table import PixelCounts, ScoreTable
from anomalib_crad.post_processing.thresholds import LevelThresholds, Thresholds
from anomalib_crad.recording.categories import ONLY_CATEGORY
from anomalib_crad.recording.processes import gather_everywhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from anomalib_crad.recording.records import ImageRecord

logger = logging.getLogger(__name__)


@dataclass
class CategoryScores:
    """Scores of one category, or of several together.

    Attributes:
        scores: Raw image scores.
        labels: Whether each of these images is anomalous.
        pixels: Counts of pixels by raw score.
        not_finite: Images that have a score or pixel that is NaN or infinite, which is left out.
    """

    scores: list[float] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    pixels: PixelCounts = field(default_factory=PixelCounts)
    not_finite: int = 0

    def add(self, image: ImageRecord, *, count_pixels: bool = True) -> None:
        """Add an image.

        Args:
            image: Raw prediction and ground truth.
            count_pixels: Whether to count its pixels too. Defaults to ``True``.
        """
        if image.score is not None:
            self.scores.append(image.score)
            self.labels.append(image.anomalous)
        finite = image.score is None or bool(np.isfinite(image.score))
        if count_pixels and image.anomaly_map is not None:
            finite = finite and bool(np.isfinite(image.anomaly_map).all())
            self._count_pixels(image.anomaly_map, image.mask, image.anomalous)
        self.not_finite += not finite

    def _count_pixels(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None, anomalous: bool) -> None:
        """Count the pixels of an image by score and kind."""
        if not anomalous:
            self.pixels.add(anomaly_map, np.full(anomaly_map.shape, PixelCounts.OF_NORMAL_IMAGES, np.int32))
        # An anomalous image with an empty mask is not annotated, so nobody knows which of its pixels are normal.
        elif mask is not None and mask.any():
            self.pixels.add(anomaly_map, np.where(mask, PixelCounts.ANOMALOUS, PixelCounts.NORMAL))

    @classmethod
    def sum(cls, parts: Iterable[CategoryScores]) -> CategoryScores:
        """Merge several into a new one.

        Args:
            parts: Scores of different images; not changed.

        Returns:
            The scores of all of them.
        """
        parts = list(parts)
        return cls(
            [score for part in parts for score in part.scores],
            [label for part in parts for label in part.labels],
            PixelCounts.sum(part.pixels for part in parts),
            sum(part.not_finite for part in parts),
        )


class EpochScores:
    """Scores of an epoch by category.

    Args:
        count_pixels: Whether to count pixels too. Defaults to ``True``.

    Attributes:
        categories (dict[str, CategoryScores]): Scores of each category.
    """

    def __init__(self, count_pixels: bool = True) -> None:
        self._count_pixels = count_pixels
        self.categories: dict[str, CategoryScores] = {}

    def add(self, category: str, image: ImageRecord) -> None:
        """Add an image.

        Args:
            category: Name of its category.
            image: Raw prediction and ground truth.
        """
        self.categories.setdefault(category, CategoryScores()).add(image, count_pixels=self._count_pixels)

    def gather(self) -> None:
        """Merge the scores of all processes, in each of them."""
        parts = gather_everywhere(self.categories)
        if len(parts) > 1:
            names = sorted(set().union(*parts))
            self.categories = {name: CategoryScores.sum(part[name] for part in parts if name in part) for name in names}


def find_thresholds(
    categories: Mapping[str, CategoryScores],
    rule: str,
    target: float | None,
    pixel_false_alarm_rate: float,
    per_category: bool,
    warn: Callable[[str], None] = logger.warning,
) -> Thresholds:
    """Find the pooled thresholds and, on request, those of each category.

    Args:
        categories: Scores of each category.
        rule: Name of the rule.
        target: The rule's target, or ``None`` for its default.
        pixel_false_alarm_rate: Share of the pixels of normal images above the threshold, used where the rule is
            ``false_alarm_rate`` or no pixel is known to be anomalous.
        per_category: Whether to find thresholds for each category too.
        warn: Called with one sentence for each target that could not be met. Defaults to the module's logger.

    Returns:
        The thresholds.
    """
    findings: list[tuple[str, Finding]] = []

    def find(name: str, scores: CategoryScores) -> LevelThresholds:
        image = _find_image(scores, rule, target)
        pixel = _find_pixel(scores, rule, target, pixel_false_alarm_rate)
        findings.extend((name, finding) for finding in (image, pixel) if finding is not None)
        return LevelThresholds(*(None if finding is None else finding.threshold for finding in (image, pixel)))

    pooled = find("all images pooled", CategoryScores.sum(categories.values()))
    # Images without a known category form the category ONLY_CATEGORY; its threshold would repeat the pooled one.
    known = per_category and set(categories) != {ONLY_CATEGORY}
    own = {name: find(name, categories[name]) for name in sorted(categories)} if known else {}
    _report_problems(findings, warn)
    broken = {name: scores.not_finite for name, scores in sorted(categories.items()) if scores.not_finite}
    if broken:
        counts = ", ".join(f"{name}: {count}" for name, count in broken.items())
        warn(f"Scores that are NaN or infinite were left out when thresholds were found; images with such: {counts}.")
    return Thresholds(pooled, own)


def _find_image(scores: CategoryScores, rule: str, target: float | None) -> Finding | None:
    """Find the threshold of images, or ``None`` if there are no scores."""
    table = ScoreTable.of(np.array(scores.scores, np.float32), np.array(scores.labels, bool))
    if not table.low.size:
        return None
    if rule == "false_alarm_rate" or table.anomalies:
        return find_threshold(table, rule, target)
    rate = DEFAULT_TARGETS["false_alarm_rate"]
    finding = find_threshold(table, "false_alarm_rate", rate)
    problem = f"rule {rule!r} needs anomalous images, and there are none; a false-alarm rate of {rate:g} was used"
    return Finding(finding.threshold, "; ".join(filter(None, (problem, finding.problem))), finding.detail)


def _find_pixel(scores: CategoryScores, rule: str, target: float | None, rate: float) -> Finding | None:
    """Find the threshold of pixels, or ``None`` if no map can be used."""
    labelled = scores.pixels.labelled()
    if rule != "false_alarm_rate" and labelled.anomalies:
        return find_threshold(labelled, rule, target, "pixels")
    of_normal_images = scores.pixels.of_normal_images()
    if not of_normal_images.normals:
        return None
    return find_threshold(of_normal_images, "false_alarm_rate", rate, "pixels")


def _report_problems(findings: Sequence[tuple[str, Finding]], warn: Callable[[str], None]) -> None:
    """Warn of each problem once, with the categories that have it."""
    names: dict[str, list[str]] = {}
    for name, finding in findings:
        if finding.problem:
            names.setdefault(finding.problem, []).append(f"{name} ({finding.detail})" if finding.detail else name)
    for problem, having in names.items():
        warn(f"Threshold of {', '.join(having)}: {problem}.")
