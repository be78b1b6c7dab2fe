# SPDX-License-Identifier: Apache-2.0

"""What a metric is: a small class that reads a number off one category.

A metric gets a ``RankedCategory``, in which images and pixels are sorted by their raw scores at most once, however many
metrics read them. A metric that does not exist for a category (no masks, one class only) is left out together with the
reason; it is never a zero, a half or an exception at the end of a long run.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.metrics.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomalib_crad.recording.records import ImageRecord

logger = logging.getLogger(__name__)


class UndefinedMetricError(ValueError):
    """A metric does not exist for a category; the message is the reason, which tables and files state."""


class CategoryMetric(ABC):
    """Base class of metrics.

    To add a metric, write one file with a subclass that has a ``name`` and a method :meth:`compute`, and give an
    instance to ``CategoryEvaluator(metrics=[...])``. Its name must not be that of another metric. Constructor arguments
    can be set in YAML as those of any other class. An instance keeps nothing about the images that it has seen.

    Attributes:
        name (str): Name in tables, files and loggers. Starts with ``image_`` or ``pixel_`` by custom; underscores
            become line breaks in the head of a table.

    Example:
        AUPRO up to a stricter false-positive rate, beside the metrics that are there by default:

        >>> from anomalib_crad.metrics import DEFAULT_METRICS, CategoryEvaluator, CategoryMetric
        >>> from anomalib_crad.metrics.overlap import area_under_overlap, region_shares
        >>> class PixelAUPRO5(CategoryMetric):
        ...     name = "pixel_AUPRO5"
        ...
        ...     def compute(self, category):
        ...         return area_under_overlap(category.pixels, region_shares(category.masks), fpr_limit=0.05)
        >>> evaluator = CategoryEvaluator(metrics=[*DEFAULT_METRICS, PixelAUPRO5()])
    """

    name: str

    @abstractmethod
    def compute(self, category: RankedCategory) -> float:
        """Compute the metric of one category.

        Args:
            category: Raw scores of the category's images and pixels.

        Returns:
            The value. One that is NaN or infinite counts as undefined.

        Raises:
            UndefinedMetricError: If the metric does not exist for this category. Reading a ranking that does not exist
                raises it with the right reason already.
        """


@dataclass(frozen=True)
class _RankedPixels:
    """Ranked pixels of one category, and their masks."""

    ranking: Ranking
    masks: list[NDArray[np.bool_]]


class RankedCategory:
    """Images and pixels of one category, ranked by their raw scores when a metric first reads them.

    Args:
        records: Records of all images of the category.

    Attributes:
        records (Sequence[ImageRecord]): The same.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        self.records = records
        self._values: dict[str, float] = {}

    @property
    def images(self) -> Ranking:
        """Ranking of the images.

        Raises:
            UndefinedMetricError: If an image has no finite score, or one of the classes has no image.
        """
        if isinstance(self._images, str):
            raise UndefinedMetricError(self._images)
        return self._images

    @property
    def pixels(self) -> Ranking:
        """Ranking of all pixels of images that have a map and a mask.

        Raises:
            UndefinedMetricError: If there are no maps or no masks, a pixel's score is not finite, or one of the classes
                has no pixel.
        """
        return self._pixels_or_raise().ranking

    @property
    def masks(self) -> list[NDArray[np.bool_]]:
        """Masks of the ranked pixels, one H x W an image, in the order of :attr:`pixels`.

        Raises:
            UndefinedMetricError: If :attr:`pixels` does.
        """
        return self._pixels_or_raise().masks

    def value(self, metric: CategoryMetric) -> float:
        """Return the value of a metric, computed once for each name.

        Args:
            metric: The metric.

        Returns:
            Its value, finite.

        Raises:
            UndefinedMetricError: If it does not exist for this category.
        """
        if metric.name not in self._values:
            value = float(metric.compute(self))
            if not math.isfinite(value):
                msg = f"its value is {value}"
                raise UndefinedMetricError(msg)
            self._values[metric.name] = value
        return self._values[metric.name]

    def _pixels_or_raise(self) -> _RankedPixels:
        if isinstance(self._pixels, str):
            raise UndefinedMetricError(self._pixels)
        return self._pixels

    @cached_property
    def _images(self) -> Ranking | str:
        """The ranking of the images, or the reason why there is none."""
        if not self.records:
            return "no image was tested"
        scored = [(record.score, record.anomalous) for record in self.records if record.score is not None]
        if not scored:
            return "the model gives no image scores"
        scores, labels = (np.array(column) for column in zip(*scored, strict=True))
        return _unmeasurable(scores, labels, "image") or Ranking.of(scores, labels)

    @cached_property
    def _pixels(self) -> _RankedPixels | str:
        """The ranking of the pixels and their masks, or the reason why there is none."""
        if not self.records:
            return "no image was tested"
        if all(record.anomaly_map is None for record in self.records):
            return "the model gives no anomaly maps"
        # A map without a mask (an anomalous image that nobody annotated) says nothing about its pixels.
        masked = [
            (record.anomaly_map, record.mask, record.anomalous)
            for record in self.records
            if record.anomaly_map is not None and record.mask is not None
        ]
        if not masked:
            return "no image has a mask"
        unmasked = sum(record.anomalous for record in self.records) - sum(anomalous for *_, anomalous in masked)
        if unmasked and not any(anomalous for *_, anomalous in masked):
            return "no anomalous image has a mask"
        if unmasked:
            logger.warning("Pixel metrics leave out %d anomalous images that have no mask.", unmasked)
        scores = np.concatenate([anomaly_map.ravel() for anomaly_map, *_ in masked])
        labels = np.concatenate([mask.ravel() for _, mask, _ in masked])
        return _unmeasurable(scores, labels, "pixel") or _RankedPixels(
            Ranking.of(scores, labels), [mask for _, mask, _ in masked]
        )


def _unmeasurable(scores: NDArray[np.floating], labels: NDArray[np.bool_], element: str) -> str | None:
    """Return why no metric exists for these scores, or ``None`` if all do."""
    if not np.isfinite(scores).all():
        return f"some {element} scores are NaN or infinite"
    if labels.all():
        return f"every {element} is anomalous"
    if not labels.any():
        return f"every {element} is normal"
    return None
