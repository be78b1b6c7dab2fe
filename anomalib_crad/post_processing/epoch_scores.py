# SPDX-License-Identifier: Apache-2.0

"""What an epoch leaves behind to find thresholds from, or to count what they do: image scores, and counts of pixels.

Scores of images are kept, pixels are counted (see ``score_table``), both by category. After the epoch the parts of all
processes are put together and the rules applied, to each category and to all of them pooled.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from anomalib_crad.post_processing.rules import DEFAULT_TARGETS, Finding, find_threshold
from anomalib_crad.post_processing.score_table import PixelCounts, ScoreTable
from anomalib_crad.post_processing.thresholds import LevelThresholds, Thresholds
from anomalib_crad.recording.categories import ONLY_CATEGORY
from anomalib_crad.recording.processes import several_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from anomalib.data import Batch
    from numpy.typing import NDArray

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

    def add(
        self,
        score: float | None,
        anomalous: bool,
        anomaly_map: NDArray[np.float32] | None,
        mask: NDArray[np.bool_] | None,
    ) -> None:
        """Add an image.

        Args:
            score: Raw image score, or ``None`` if there is none.
            anomalous: Its label.
            anomaly_map: Raw anomaly map, H x W, or ``None`` if there is none.
            mask: Its ground truth, H x W, or ``None`` if there is none.
        """
        if score is not None:
            self.scores.append(score)
            self.labels.append(anomalous)
        # An anomalous image with an empty mask has not been annotated: which of its pixels are normal, nobody knows.
        if anomaly_map is not None and not anomalous:
            self.pixels.add(anomaly_map, np.full(anomaly_map.shape, PixelCounts.OF_NORMAL_IMAGES, np.int32))
        elif anomaly_map is not None and mask is not None and mask.any():
            self.pixels.add(anomaly_map, np.where(mask, PixelCounts.ANOMALOUS, PixelCounts.NORMAL))
        finite = (score is None or np.isfinite(score)) and (anomaly_map is None or bool(np.isfinite(anomaly_map).all()))
        self.not_finite += not finite

    @classmethod
    def sum(cls, parts: Iterable[CategoryScores]) -> CategoryScores:
        """Return the scores of several together, none of which is changed.

        Args:
            parts: Scores of different images.
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
        pixels: Count pixels too. Defaults to ``True``.

    Attributes:
        categories (dict[str, CategoryScores]): Scores of each category.
    """

    def __init__(self, pixels: bool = True) -> None:
        self._pixels = pixels
        self.categories: dict[str, CategoryScores] = {}

    def add(self, batch: Batch, categories: Sequence[str], chosen: Sequence[bool]) -> None:
        """Add a batch of B images; one without labels is left out.

        Args:
            batch: Raw predictions and ground truth.
            categories: Category of each image, B.
            chosen: Whether to add each image, B.

        Raises:
            ValueError: If maps and masks differ in size.
        """
        if batch.gt_label is None:
            return
        labels = torch.as_tensor(batch.gt_label).reshape(-1).tolist()
        scores = _numpy(batch.pred_score, torch.float32)
        maps, masks = _pixels_of(batch) if self._pixels else (None, None)
        for i, category in enumerate(categories):
            if not chosen[i]:
                continue
            self.categories.setdefault(category, CategoryScores()).add(
                None if scores is None else float(scores.flat[i]),
                bool(labels[i]),
                None if maps is None else maps[i],
                None if masks is None else masks[i],
            )

    def gather(self) -> None:
        """Put the scores of all processes together, in all of them."""
        if several_processes():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, self.categories)
            names = sorted(set().union(*parts))
            self.categories = {name: CategoryScores.sum(part[name] for part in parts if name in part) for name in names}


def _pixels_of(batch: Batch) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """Return maps and masks, B x H x W each, or ``None`` for what the batch lacks."""
    maps = _numpy(batch.anomaly_map, torch.float32)
    masks = _numpy(getattr(batch, "gt_mask", None), torch.bool)
    if maps is not None:
        maps = maps.reshape(-1, *maps.shape[-2:])
    if maps is not None and masks is not None:
        masks = masks.reshape(-1, *masks.shape[-2:])
        if maps.shape != masks.shape:
            msg = (
                f"anomaly_map {maps.shape} and gt_mask {masks.shape} differ in size, so no threshold for pixels can be "
                "found. Make the model return maps of its input size, or resize both in its PreProcessor."
            )
            raise ValueError(msg)
    return maps, masks


def find_thresholds(
    categories: Mapping[str, CategoryScores],
    rule: str,
    target: float | None,
    pixel_false_alarm_rate: float,
    per_category: bool,
    warn: Callable[[str], None] = logger.warning,
) -> Thresholds:
    """Find the pooled thresholds and, if wished, those of each category.

    Args:
        categories: Scores of each category.
        rule: Name of the rule.
        target: What it aims at, or ``None`` for its default.
        pixel_false_alarm_rate: Share of pixels of normal images above the threshold, where the rule is
            ``false_alarm_rate`` or no pixel is known to be anomalous.
        per_category: Whether to find thresholds for each category too.
        warn: Takes each sentence about a wish that could not be fulfilled. Defaults to the module's logger.

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
    # Images of no known category make up one category of that name, which is the pooled one again.
    told = per_category and set(categories) != {ONLY_CATEGORY}
    own = {name: find(name, categories[name]) for name in sorted(categories)} if told else {}
    _tell_problems(findings, warn)
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
    """Find the threshold of pixels, or ``None`` if there are no maps that tell anything."""
    labelled = scores.pixels.labelled()
    if rule != "false_alarm_rate" and labelled.anomalies:
        return find_threshold(labelled, rule, target, "pixels")
    of_normal_images = scores.pixels.of_normal_images()
    if not of_normal_images.normals:
        return None
    return find_threshold(of_normal_images, "false_alarm_rate", rate, "pixels")


def _tell_problems(findings: Sequence[tuple[str, Finding]], warn: Callable[[str], None]) -> None:
    """Say each problem once, with the categories that have it."""
    names: dict[str, list[str]] = {}
    for name, finding in findings:
        if finding.problem:
            names.setdefault(finding.problem, []).append(f"{name} ({finding.detail})" if finding.detail else name)
    for problem, having in names.items():
        warn(f"Threshold of {', '.join(having)}: {problem}.")


def _numpy(tensor: torch.Tensor | None, dtype: torch.dtype) -> NDArray[Any] | None:
    """Return values on the CPU, or ``None`` for ``None``."""
    if tensor is None:
        return None
    return tensor.detach().as_subclass(torch.Tensor).to("cpu", dtype).numpy()
