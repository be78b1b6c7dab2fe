# SPDX-License-Identifier: Apache-2.0

"""A few annotated defects of each category to learn from, chosen as the field chooses them.

Data sets of the field have anomalous images in their test sets only. Detectors that learn from a few of them, such as
DMAD, move images out of the test set into training. Which ones is fixed by a protocol, so that results compare: the
defects of a category by path in sorted order, shuffled by Python's ``random``, seeded anew for each category, and of
these the first. So the one image of a choice of 1 is among those of a choice of 5, and those among 10.

Results with different numbers of annotated images are on different test sets. To compare them, test each on what the
largest number leaves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from anomalib.data.utils import LabelName, Split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def choose_annotated(
    paths_by_category: Mapping[str, Iterable[str]],
    count: int,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Choose annotated images of each category by the field's protocol.

    Args:
        paths_by_category: For each category the paths of its anomalous images, ``type of defect/file``, in any order.
        count: Images to choose of each category.
        seed: Seed of each category's choice. Defaults to ``0``, the authors' of DMAD.

    Returns:
        For each category the chosen paths, in the order of the choice; all of them where there are not more than
        ``count``.

    Raises:
        ValueError: If ``count`` is negative.
    """
    if count < 0:
        msg = f"annotated_per_category must be at least 0, got {count}."
        raise ValueError(msg)
    chosen = {}
    for category, paths in paths_by_category.items():
        shuffled = sorted(paths)
        random.Random(seed).shuffle(shuffled)  # noqa: S311  # a fixed choice, no secret
        chosen[category] = shuffled[:count]
    return chosen


@dataclass(frozen=True)
class AnnotatedSplit:
    """Subsets after annotated images have been moved into training.

    Attributes:
        samples: Frames of the subsets, by the names that they were given under.
        annotated: For each category the moved images, ``type of defect/file``; plain data, for checkpoint and results.
    """

    samples: dict[str, pd.DataFrame]
    annotated: dict[str, list[str]]


def move_annotated(samples: Mapping[str, pd.DataFrame], count: int, seed: int = 0) -> AnnotatedSplit:
    """Move annotated images from the test set into training, by :func:`choose_annotated`.

    Args:
        samples: Frames of ``train`` and ``test``, and ``val`` if there is one, with anomalib's columns ``image_path``,
            ``label_index`` and ``mask_path``, and the column ``category``. They are not changed.
        count: Images to move of each category; a category with fewer gives all.
        seed: Seed of each category's choice. Defaults to ``0``.

    Returns:
        The frames, those of ``train`` longer and those of ``test`` shorter; ``val`` lacks the moved images where it
        repeats the test set.

    Raises:
        ValueError: If ``count`` is negative, or a chosen image has no mask or the name of another one.
    """
    test = samples["test"]
    anomalous = test[test["label_index"] == LabelName.ABNORMAL]
    names = anomalous["image_path"].map(_name)
    _reject_equal_names(anomalous, names)
    categories = list(dict.fromkeys(test["category"]))
    chosen = choose_annotated({name: names[anomalous["category"] == name] for name in categories}, count, seed)
    order = [
        anomalous.index[(anomalous["category"] == category) & (names == name)][0]
        for category, own in chosen.items()
        for name in own
    ]
    moved = test.loc[order].copy()
    _reject_without_mask(moved)
    if "split" in moved:
        moved["split"] = Split.TRAIN
    taken = set(moved["image_path"])
    split = {name: frame[~frame["image_path"].isin(taken)].reset_index(drop=True) for name, frame in samples.items()}
    split["train"] = pd.concat([samples["train"], moved], ignore_index=True)
    for name, frame in samples.items():
        split[name].attrs = dict(frame.attrs)
    return AnnotatedSplit(split, chosen)


def _name(image_path: str) -> str:
    return "/".join(Path(image_path).parts[-2:])


def _reject_equal_names(anomalous: pd.DataFrame, names: pd.Series) -> None:
    """Names must tell a category's images apart, or the list of the chosen ones would not say which they were."""
    twice = pd.DataFrame({"category": anomalous["category"], "name": names}).duplicated(keep=False)
    if twice.any():
        first, second = anomalous.loc[twice[twice].index[:2], "image_path"]
        msg = f"'{first}' and '{second}' cannot be told apart by folder and file name. Rename one of the two."
        raise ValueError(msg)


def _reject_without_mask(moved: pd.DataFrame) -> None:
    has_mask = moved["mask_path"].map(lambda entry: isinstance(entry, str | list) and bool(entry))
    missing = moved.loc[~has_mask.astype(bool), "image_path"].tolist()
    if missing:
        msg = (
            f"{len(missing)} of {len(moved)} images that annotated_per_category has chosen have no mask, such as "
            f"'{missing[0]}'. Give each of them a mask of its defect, or set annotated_per_category to 0."
        )
        raise ValueError(msg)
