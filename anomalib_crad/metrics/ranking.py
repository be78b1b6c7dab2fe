# SPDX-License-Identifier: Apache-2.0

"""Exact, threshold-free measures of how well scores rank anomalous above normal.

Sorting each class once gives a ``Ranking``: the counts of both classes above each score. AUROC, average precision, the
best F1 and (in ``overlap``) AUPRO follow from these counts, so they depend neither on a grid of thresholds nor on the
range, unit or batch of scores. scikit-learn gives the same numbers (the tests compare with it) but sorts the indices of
all elements again for each metric, which takes forty times as long for the millions of pixels of one category.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """Numbers of elements of each class above the scores of the anomalous ones.

    Only the K distinct scores of the A anomalous elements matter: between two of them recall is constant and every
    curve is straight. Elements with the same score cannot be distinguished, so they count together.

    Attributes:
        order: Indices into the anomalous elements, from the highest score to the lowest, A.
        found: Anomalous elements at or above each score, K, rising to A.
        false_alarms: Normal elements at or above each score, K.
        false_alarms_above: Normal elements strictly above each score, K.
        normal: Number of normal elements.
    """

    order: NDArray[np.integer]
    found: NDArray[np.integer]
    false_alarms: NDArray[np.integer]
    false_alarms_above: NDArray[np.integer]
    normal: int

    @classmethod
    def of(cls, scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> Ranking:
        """Rank elements by their scores.

        Each class is sorted separately: values sort several times faster than indices, and only the indices of the
        anomalous elements, usually a few percent of a category's pixels, are needed.

        Args:
            scores: Finite raw scores, of any shape.
            labels: True where the element is anomalous, of the same shape.

        Returns:
            The ranking; ``order`` counts the anomalous elements in the order of the flattened arrays.

        Raises:
            ValueError: If the shapes differ, a score is not finite, or one of the two classes has no element.
        """
        if scores.shape != labels.shape:
            msg = f"scores and labels must have one shape, got {scores.shape} and {labels.shape}."
            raise ValueError(msg)
        if not np.isfinite(scores).all():
            msg = "scores must be finite; some are NaN or infinite."
            raise ValueError(msg)
        anomalous, normal = scores[labels], scores[~labels]
        if not anomalous.size or not normal.size:
            msg = f"A ranking needs both classes, got {anomalous.size} anomalous and {normal.size} normal elements."
            raise ValueError(msg)
        normal.sort()
        order = np.argsort(anomalous)[::-1]
        falling = anomalous[order]
        last_of_score = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
        distinct = falling[last_of_score]
        return cls(
            order=order,
            found=last_of_score + 1,
            false_alarms=normal.size - np.searchsorted(normal, distinct, side="left"),
            false_alarms_above=normal.size - np.searchsorted(normal, distinct, side="right"),
            normal=normal.size,
        )

    @property
    def anomalous(self) -> int:
        """Number of anomalous elements."""
        return self.order.size

    def auroc(self) -> float:
        """Return the area under the ROC curve, counted as the Mann-Whitney statistic.

        It is the share of (anomalous, normal) pairs in which the anomalous element has the higher score; a tie counts
        as half a pair.
        """
        twice_outranked = 2 * self.normal - self.false_alarms - self.false_alarms_above
        return float((self._elements() * twice_outranked).sum() / (2 * self.anomalous * self.normal))

    def average_precision(self) -> float:
        """Return the mean over anomalous elements of the precision at their score (no interpolation)."""
        precision = self.found / (self.found + self.false_alarms)
        return float((self._elements() * precision).sum() / self.anomalous)

    def f1_max(self) -> float:
        """Return the F1 score of the best threshold, which is always the score of an anomalous element."""
        return float((2 * self.found / (self.found + self.false_alarms + self.anomalous)).max())

    def _elements(self) -> NDArray[np.integer]:
        """Return the number of anomalous elements of each score, K."""
        return np.diff(self.found, prepend=0)


def auroc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Return the exact area under the ROC curve, as :meth:`Ranking.auroc`.

    Args:
        scores: Finite raw scores, of any shape.
        labels: True where the element is anomalous, of the same shape.

    Returns:
        The area, between 0 and 1.

    Raises:
        ValueError: If the shapes differ, a score is not finite, or one of the two classes has no element.

    Example:
        >>> auroc(np.array([0.1, 7.0, 0.3, 2.0]), np.array([False, True, False, False]))
        1.0
    """
    return Ranking.of(scores, labels).auroc()


def average_precision(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Return the exact average precision, as scikit-learn's ``average_precision_score``.

    Args:
        scores: Finite raw scores, of any shape.
        labels: True where the element is anomalous, of the same shape.

    Returns:
        The average precision, between 0 and 1.

    Raises:
        ValueError: If the shapes differ, a score is not finite, or one of the two classes has no element.

    Example:
        >>> average_precision(np.array([0.1, 7.0, 0.3, 2.0]), np.array([False, True, True, False]))
        0.8333333333333333
    """
    return Ranking.of(scores, labels).average_precision()


def f1_max(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Return the highest F1 score over all thresholds.

    Args:
        scores: Finite raw scores, of any shape.
        labels: True where the element is anomalous, of the same shape.

    Returns:
        The F1 score, between 0 and 1.

    Raises:
        ValueError: If the shapes differ, a score is not finite, or one of the two classes has no element.

    Example:
        >>> f1_max(np.array([0.1, 7.0, 0.3, 2.0]), np.array([False, True, True, False]))
        0.8
    """
    return Ranking.of(scores, labels).f1_max()
