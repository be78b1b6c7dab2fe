# SPDX-License-Identifier: Apache-2.0

"""Thresholds of images and pixels, pooled and of each category, and the plain data that stands for them in files.

A checkpoint is loaded with nothing but plain data allowed, and an exported file holds text, so both keep what
``to_plain`` makes. Numbers are those of float32 and come back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anomalib_crad.post_processing.rules import Threshold

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        """Fill in what is missing here.

        Args:
            other: Where to take it from.

        Returns:
            Thresholds that lack only what both lack.
        """
        return LevelThresholds(self.image or other.image, self.pixel or other.pixel)

    def to_plain(self) -> dict[str, dict[str, float]]:
        """Return numbers by name, without what is missing."""
        levels = {"image": self.image, "pixel": self.pixel}
        return {name: {"threshold": t.value, "scale": t.scale} for name, t in levels.items() if t is not None}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Mapping[str, float]]) -> LevelThresholds:
        """Undo :meth:`to_plain`.

        Args:
            plain: What it returned.
        """
        return cls(**{name: Threshold(float(t["threshold"]), float(t["scale"])) for name, t in plain.items()})


@dataclass(frozen=True)
class Thresholds:
    """All thresholds of a model.

    Attributes:
        pooled: Those of all categories together, used where no category is given.
        categories: Those of each category that has its own.
    """

    pooled: LevelThresholds = field(default_factory=LevelThresholds)
    categories: dict[str, LevelThresholds] = field(default_factory=dict)

    def of(self, category: str | None) -> LevelThresholds:
        """Return the thresholds for a category.

        Args:
            category: Its name, or ``None`` for the pooled ones.

        Returns:
            Its own thresholds; a level that it lacks is the pooled one's.

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
        """Undo :meth:`to_plain`.

        Args:
            plain: What it returned.
        """
        return cls(LevelThresholds.from_plain(plain["pooled"]), categories_from_plain(plain["categories"]))


def categories_to_plain(categories: Mapping[str, LevelThresholds]) -> dict[str, dict[str, dict[str, float]]]:
    """Return names and numbers only.

    Args:
        categories: Thresholds by the name of the category.
    """
    return {name: thresholds.to_plain() for name, thresholds in categories.items()}


def categories_from_plain(plain: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, LevelThresholds]:
    """Undo :func:`categories_to_plain`.

    Args:
        plain: What it returned.
    """
    return {str(name): LevelThresholds.from_plain(levels) for name, levels in plain.items()}


def unknown_category(category: str, known: Mapping[str, LevelThresholds]) -> str:
    """Return the message for a category that has no thresholds.

    Args:
        category: Its name.
        known: Those that have.
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
