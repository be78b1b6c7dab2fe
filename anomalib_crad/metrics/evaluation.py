# SPDX-License-Identifier: Apache-2.0

"""The measurement of one category: from what was recorded of its images to its metrics.

A metric is an entry in one of two tables, by what it reads (image scores or pixels), so a new one is one line here.
A metric that does not exist for a category (no masks, one class only) is left out together with the reason; it is
never a zero, a half or an exception at the end of a long run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.metrics.overlap import area_under_overlap, region_shares
from anomalib_crad.metrics.ranking import Ranking
from anomalib_crad.metrics.report import POOLED, CategoryReport, CategoryResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageRecord:
    """What the metrics need to know of one image; nothing in it has passed a post-processor.

    Attributes:
        path: Path of the image, or an empty string where the batch has none.
        anomalous: Ground-truth label.
        score: Raw image score, or ``None`` where the model gives none.
        anomaly_map: Raw anomaly map, H x W, float32, or ``None`` where the model gives none.
        mask: Ground-truth mask, H x W, or ``None`` where the data has none.
    """

    path: str
    anomalous: bool
    score: float | None
    anomaly_map: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Level:
    """Ranked images or ranked pixels of one category; ``masks`` are those of the pixels."""

    ranking: Ranking
    masks: Sequence[NDArray[np.bool_]] = ()


_RANKING_METRICS: Mapping[str, Callable[[_Level], float]] = {
    "AUROC": lambda level: level.ranking.auroc(),
    "AP": lambda level: level.ranking.average_precision(),
    "F1Max": lambda level: level.ranking.f1_max(),
}
IMAGE_METRICS = {f"image_{name}": metric for name, metric in _RANKING_METRICS.items()}
PIXEL_METRICS = {
    **{f"pixel_{name}": metric for name, metric in _RANKING_METRICS.items()},
    "pixel_AUPRO": lambda level: area_under_overlap(level.ranking, region_shares(level.masks)),
}
#: The plain mean of the seven others, as the ADer suite defines it (Zhang et al., arXiv 2406.03262).
MAD = "mAD"
METRIC_NAMES = (*IMAGE_METRICS, *PIXEL_METRICS, MAD)


def evaluate_category(
    category: str,
    images: Sequence[ImageRecord],
    metrics: Collection[str] = METRIC_NAMES,
) -> CategoryResult:
    """Measure one category.

    Args:
        category: Name of the category.
        images: Records of all its images.
        metrics: Names of the metrics to compute. Defaults to all.

    Returns:
        The metrics that exist, and for each other one the reason.
    """
    anomalous = sum(image.anomalous for image in images)
    result = CategoryResult(category, normal=len(images) - anomalous, anomalous=anomalous)
    for table, level_of in ((IMAGE_METRICS, _image_level), (PIXEL_METRICS, _pixel_level)):
        wanted = {name: metric for name, metric in table.items() if name in metrics}
        if wanted:
            _measure(result, wanted, level_of(images) if images else "no image was tested")
    if MAD in metrics:
        _add_mean_of_all(result)
    return result


def _measure(result: CategoryResult, metrics: Mapping[str, Callable[[_Level], float]], level: _Level | str) -> None:
    """Add the metrics of one level to the result, or the reason why they do not exist."""
    if isinstance(level, str):
        result.missing.update(dict.fromkeys(metrics, level))
        return
    result.values.update({name: metric(level) for name, metric in metrics.items()})


def _add_mean_of_all(result: CategoryResult) -> None:
    """Add mAD; a mean of fewer than its seven metrics would pass as one that can be compared."""
    parts = [result.values[name] for name in METRIC_NAMES if name in result.values]
    if len(parts) == len(METRIC_NAMES) - 1:
        result.values[MAD] = sum(parts) / len(parts)
    else:
        result.missing[MAD] = "it is the mean of all seven others"


def _image_level(images: Sequence[ImageRecord]) -> _Level | str:
    """Rank the images, or return the reason why there is nothing to measure."""
    scored = [(image.score, image.anomalous) for image in images if image.score is not None]
    if not scored:
        return "the model gives no image scores"
    scores, labels = (np.array(column) for column in zip(*scored, strict=True))
    return _unmeasurable(scores, labels, "image") or _Level(Ranking.of(scores, labels))


def _pixel_level(images: Sequence[ImageRecord]) -> _Level | str:
    """Rank all pixels that have value and label, or return the reason why there is nothing to measure."""
    if all(image.anomaly_map is None for image in images):
        return "the model gives no anomaly maps"
    # A map without a mask (an anomalous image that nobody annotated) says nothing about its pixels.
    masked = [(i.anomaly_map, i.mask, i.anomalous) for i in images if i.anomaly_map is not None and i.mask is not None]
    if not masked:
        return "no image has a mask"
    unmasked = sum(image.anomalous for image in images) - sum(anomalous for *_, anomalous in masked)
    if unmasked and not any(anomalous for *_, anomalous in masked):
        return "no anomalous image has a mask"
    if unmasked:
        logger.warning("Pixel metrics leave out %d anomalous images that have no mask.", unmasked)
    values = np.concatenate([anomaly_map.ravel() for anomaly_map, *_ in masked])
    labels = np.concatenate([mask.ravel() for _, mask, _ in masked])
    return _unmeasurable(values, labels, "pixel") or _Level(Ranking.of(values, labels), [mask for _, mask, _ in masked])


def _unmeasurable(scores: NDArray[np.floating], labels: NDArray[np.bool_], element: str) -> str | None:
    """Return why no metric exists for these scores, or ``None`` if all do."""
    if not np.isfinite(scores).all():
        return f"some {element} scores are NaN or infinite"
    if labels.all():
        return f"every {element} is anomalous"
    if not labels.any():
        return f"every {element} is normal"
    return None


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
