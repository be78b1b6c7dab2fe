# SPDX-License-Identifier: Apache-2.0

"""Thresholds of images and pixels, pooled and of each category, and scores for display.

Files hold thresholds as plain data: a checkpoint must load with nothing but plain data allowed, and an exported file
holds text. Numbers are those of float32 and are restored exactly.

``squash`` turns raw scores into scores for display: 0.5 is the threshold, everything lies in (0, 1), and no ranking
changes. anomalib clamps to [0, 1], so all scores beyond become equal. The rational function used here exists in every
runtime, keeps the distance between scores near the threshold, where people look, and can be inverted. With threshold
``t``, scale ``s > 0`` and ``u = (x - t) / s``::

    y = 1/2 * (1 + u / (1 + |u|))           x = t + s * v / (1 - |v|)   with   v = 2 * y - 1

The scale is the usual distance of a normal score from the threshold, so the numbers have a meaning:

==============  ======  ==========================================================
u               y       meaning
==============  ======  ==========================================================
-1              0.25    as far below the threshold as a usual normal image
0               0.5     the threshold
1               0.75    as far above it
9               0.95    nine times as far above it
==============  ======  ==========================================================

For scores that are never negative, twice the threshold gives at least 0.75 as long as most normal scores lie below the
threshold. Order is kept in float32 too, where each step is rounded but none reverses an order. A score just above the
threshold never rounds down to 0.5, so "above 0.5" always means "above the threshold".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The float32 after 0.5.
JUST_ABOVE_HALF = 0.5 + 2.0**-24


@dataclass(frozen=True)
class Threshold:
    """A threshold on raw scores.

    Attributes:
        value: An element is anomalous if its score is above this.
        scale: Usual distance of a normal score from it, above 0; see :func:`squash`.
    """

    value: float
    scale: float


@dataclass(frozen=True)
class LevelThresholds:
    """Thresholds of images and of pixels.

    Attributes:
        image: Threshold of image scores, or ``None`` if there is none.
        pixel: Threshold of anomaly maps, or ``None`` if there is none.
    """

    image: Threshold | None = None
    pixel: Threshold | None = None

    def or_else(self, other: LevelThresholds) -> LevelThresholds:
        """Fill missing levels from other thresholds.

        Args:
            other: Thresholds to take them from.

        Returns:
            Thresholds in which a level is missing only if both lack it.
        """
        return LevelThresholds(self.image or other.image, self.pixel or other.pixel)

    def to_plain(self) -> dict[str, dict[str, float]]:
        """Return the numbers by level, without missing levels."""
        levels = {"image": self.image, "pixel": self.pixel}
        return {name: {"threshold": t.value, "scale": t.scale} for name, t in levels.items() if t is not None}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Mapping[str, float]]) -> LevelThresholds:
        """Restore thresholds from plain data.

        Args:
            plain: What :meth:`to_plain` returned.
        """
        return cls(**{name: Threshold(float(t["threshold"]), float(t["scale"])) for name, t in plain.items()})


@dataclass(frozen=True)
class Thresholds:
    """All thresholds of a model.

    Attributes:
        pooled: Thresholds of all categories together, used where no category is given.
        categories: Thresholds of each category that has its own.
    """

    pooled: LevelThresholds = field(default_factory=LevelThresholds)
    categories: dict[str, LevelThresholds] = field(default_factory=dict)

    def of(self, category: str | None) -> LevelThresholds:
        """Return the thresholds for a category.

        Args:
            category: Its name, or ``None`` for the pooled ones.

        Returns:
            Its own thresholds; a missing level is taken from the pooled ones.

        Raises:
            ValueError: If the category has no thresholds.
        """
        if category is None:
            return self.pooled
        if category not in self.categories:
            raise ValueError(unknown_category(category, self.categories))
        return self.categories[category].or_else(self.pooled)

    def to_plain(self) -> dict[str, Any]:
        """Return names and numbers only."""
        return {"pooled": self.pooled.to_plain(), "categories": categories_to_plain(self.categories)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Thresholds:
        """Restore thresholds from plain data.

        Args:
            plain: What :meth:`to_plain` returned.
        """
        return cls(LevelThresholds.from_plain(plain["pooled"]), categories_from_plain(plain["categories"]))


def categories_to_plain(categories: Mapping[str, LevelThresholds]) -> dict[str, dict[str, dict[str, float]]]:
    """Return names and numbers only.

    Args:
        categories: Thresholds by the name of the category.
    """
    return {name: thresholds.to_plain() for name, thresholds in categories.items()}


def categories_from_plain(plain: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, LevelThresholds]:
    """Restore thresholds by category from plain data.

    Args:
        plain: What :func:`categories_to_plain` returned.
    """
    return {str(name): LevelThresholds.from_plain(levels) for name, levels in plain.items()}


def unknown_category(category: str, known: Mapping[str, LevelThresholds]) -> str:
    """Return the message for a category that has no thresholds.

    Args:
        category: Its name.
        known: Thresholds of the categories that have any.
    """
    if not known:
        return (
            f"category {category!r} has no threshold of its own, and neither has any other. Find them by a validation "
            "with CategoryPostProcessor(per_category=True), or leave the category out to use the pooled threshold."
        )
    return (
        f"category {category!r} has no threshold of its own; known: {', '.join(sorted(known))}. Leave the category out "
        "to use the pooled threshold."
    )


def squash(scores: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """Map raw scores to (0, 1) with the threshold at 0.5.

    Args:
        scores: Raw scores, of any shape. NaN stays NaN; infinite ones become 0 and 1.
        threshold: Threshold, of a shape that broadcasts with the scores. Where it is NaN, scores are returned raw.
        scale: Distance from the threshold that is shown as 0.25 and 0.75; above 0, of the threshold's shape.

    Returns:
        Scores for display, of the shape of ``scores``.
    """
    # The distance to 0 or 1, whichever is nearer, is computed directly, since a difference from 1/2 would lose digits.
    tail = 0.5 / (1 + ((scores - threshold) / scale).abs())
    squashed = torch.where(scores > threshold, (1 - tail).clamp(min=JUST_ABOVE_HALF), tail)
    return torch.where(torch.isnan(threshold), scores, squashed)


def unsquash(squashed: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """Invert :func:`squash`, up to rounding: near 1, float32 holds few digits of a high score.

    Args:
        squashed: Scores for display, in [0, 1], of any shape.
        threshold: As given to :func:`squash`.
        scale: As given to :func:`squash`.

    Returns:
        Raw scores, of the shape of ``squashed``; minus infinity for 0 and infinity for 1.
    """
    # Starting from the tail instead of 2 * y - 1 keeps the digits of small values.
    distance = scale * (0.5 / torch.where(squashed > 0.5, 1 - squashed, squashed) - 1)
    raw = threshold + torch.where(squashed > 0.5, distance, -distance)
    return torch.where(torch.isnan(threshold), squashed, raw)
