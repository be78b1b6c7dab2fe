# SPDX-License-Identifier: Apache-2.0

"""Numbers of normal and anomalous elements by score: all that a rule for thresholds needs.

Image scores are few, so each distinct score gets a row of its own. A validation set has tens of millions of pixels,
which anomalib keeps and sorts; ``PixelCounts`` counts them image by image in rows as narrow as 1/2048 of the score, so
that a category takes at most 25 MB, usually less than one, whatever the number of images. The bits of the float define
the rows, so no range has to be known beforehand, any unit will do, and counts of several processes or categories can be
added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

#: Lowest bits of a float32, which rows ignore: 11 of the 23 bits of a mantissa are kept.
DROPPED_BITS = 12
_MAGNITUDE = np.int32(0x7FFFFFFF)


@dataclass(frozen=True)
class ScoreTable:
    """Counts by score, in K rows of ascending scores.

    Attributes:
        low: Lowest score that a row may hold, float32, K.
        high: Highest score that a row may hold, float32, K.
        normal: Normal elements in each row, K.
        anomalous: Anomalous elements in each row, K.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    normal: NDArray[np.int64]
    anomalous: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> ScoreTable:
        """Count scores exactly, one row for each distinct score.

        Args:
            scores: Raw scores, N; values that are not finite are left out.
            labels: True where the element is anomalous, N.

        Returns:
            The table.
        """
        finite = np.isfinite(scores)
        values, row = np.unique(scores[finite].astype(np.float32), return_inverse=True)
        anomalous = np.bincount(row[labels[finite]], minlength=values.size)
        return cls(values, values, np.bincount(row, minlength=values.size) - anomalous, anomalous)

    @property
    def normals(self) -> int:
        """Number of normal elements."""
        return int(self.normal.sum())

    @property
    def anomalies(self) -> int:
        """Number of anomalous elements."""
        return int(self.anomalous.sum())


class PixelCounts:
    """Counts of pixels by score and kind, in a block of rows that grows at both ends.

    The kinds are pixels of normal images, normal pixels of anomalous images, and anomalous pixels.
    """

    OF_NORMAL_IMAGES, NORMAL, ANOMALOUS = range(3)
    _KINDS = 3

    def __init__(self) -> None:
        self._first = 0
        self._counts = np.zeros((self._KINDS, 0), np.int64)

    def add(self, scores: NDArray[np.float32], kinds: NDArray[np.integer]) -> None:
        """Count pixels.

        Args:
            scores: Raw scores, of any shape; values that are not finite are left out.
            kinds: Kind of each pixel, of the same shape.
        """
        finite = np.isfinite(scores)
        if not finite.all():
            scores, kinds = scores[finite], kinds[finite]
        if not scores.size:
            return
        rows = _to_rows(scores).ravel()
        self._reach(int(rows.min()), int(rows.max()))
        width = self._counts.shape[1]
        cells = rows - self._first + kinds.ravel() * width
        self._counts += np.bincount(cells, minlength=self._counts.size).reshape(self._counts.shape)

    def merge(self, other: PixelCounts) -> None:
        """Add the counts of another.

        Args:
            other: Counts of other pixels; not changed.
        """
        width = other._counts.shape[1]
        if width:
            self._reach(other._first, other._first + width - 1)
            start = other._first - self._first
            self._counts[:, start : start + width] += other._counts

    @classmethod
    def sum(cls, parts: Iterable[PixelCounts]) -> PixelCounts:
        """Merge several into a new one.

        Args:
            parts: Counts of different pixels; not changed.

        Returns:
            The counts of all of them.
        """
        total = cls()
        for part in parts:
            total.merge(part)
        return total

    def of_normal_images(self) -> ScoreTable:
        """Return the counts of the pixels of normal images alone; masks are not needed."""
        of_normal_images = self._counts[self.OF_NORMAL_IMAGES]
        return self._table(of_normal_images, np.zeros_like(of_normal_images))

    def labelled(self) -> ScoreTable:
        """Return the counts of normal and anomalous pixels of all normal and all annotated anomalous images."""
        normal = self._counts[self.OF_NORMAL_IMAGES] + self._counts[self.NORMAL]
        return self._table(normal, self._counts[self.ANOMALOUS])

    def _table(self, normal: NDArray[np.int64], anomalous: NDArray[np.int64]) -> ScoreTable:
        """Leave out empty rows."""
        used = np.flatnonzero(normal + anomalous)
        start = (used + self._first).astype(np.int32) << DROPPED_BITS
        last = start + ((1 << DROPPED_BITS) - 1)
        return ScoreTable(_to_floats(start), _to_floats(last), normal[used], anomalous[used])

    def _reach(self, first: int, last: int) -> None:
        """Extend the block so that it holds the rows from first to last, both included."""
        width = self._counts.shape[1]
        if not width:
            self._first, self._counts = first, np.zeros((self._KINDS, last - first + 1), np.int64)
            return
        before, after = max(self._first - first, 0), max(last - (self._first + width - 1), 0)
        if before or after:
            self._first -= before
            self._counts = np.pad(self._counts, ((0, 0), (before, after)))


def _to_rows(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the number of each score's row; both zeros share one."""
    bits = np.ascontiguousarray(scores, np.float32).view(np.int32)
    # Without the sign, the bits of a float increase with its magnitude; with the sign restored, with the float itself.
    ordered = bits if (bits >= 0).all() else np.where(bits < 0, -(bits & _MAGNITUDE), bits)
    return ordered >> DROPPED_BITS


def _to_floats(ordered: NDArray[np.int32]) -> NDArray[np.float32]:
    """Turn ordered bits, as in :func:`_to_rows`, back into scores."""
    magnitudes = np.abs(ordered).astype(np.int32).view(np.float32)
    return np.where(ordered < 0, -magnitudes, magnitudes)
