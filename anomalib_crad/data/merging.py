# SPDX-License-Identifier: Apache-2.0

"""Turn anomalib datamodules of one category each into one set: names, frames and a folder that holds all of it.

Pure functions on frames and datamodules, used by ``MultiCategory``. Nothing here reads an image.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from anomalib import TaskType
from anomalib.data.utils import LabelName
from anomalib.utils.path import generate_output_filename

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib.data import AnomalibDataModule


def category_names(datamodules: Sequence[AnomalibDataModule]) -> list[str]:
    """Name each datamodule's category uniquely.

    A category keeps its own name (the datamodule's name where it has none). Where two share one, the datamodule's name
    is put before it, and a number behind it where even that is not enough.

    Args:
        datamodules: Datamodules of one category each.

    Returns:
        One name for each, all different.
    """
    plain = [datamodule.category or datamodule.name for datamodule in datamodules]
    counts = Counter(plain)
    long = [
        f"{datamodule.name}_{name}" if counts[name] > 1 else name
        for datamodule, name in zip(datamodules, plain, strict=True)
    ]
    names: list[str] = []
    for name in long:
        candidate, number = name, 2
        while candidate in names:
            candidate, number = f"{name}_{number}", number + 1
        names.append(candidate)
    return names


def merge_samples(frames: Mapping[str, pd.DataFrame], *, training: bool) -> pd.DataFrame:
    """Merge the samples of categories into one frame.

    Args:
        frames: For each category anomalib's frame of samples, with the task in ``attrs``.
        training: Whether these are the training images: normal ones then have an empty mask as soon as any category
            has masks, so that every training batch has them.

    Returns:
        All rows, with the columns ``category`` and ``has_mask`` (see ``MultiCategoryDataset``), absolute image paths
        without symbolic links, as anomalib's items show them, and None for every mask path that is missing or belongs
        to an image that is not anomalous.

    Raises:
        ValueError: If two categories hold the same image.
    """
    merged = pd.concat([_labelled(name, frame) for name, frame in frames.items()], ignore_index=True)
    merged.attrs.clear()  # each category's task; the dataset sets the task of all
    if training and merged["has_mask"].any():
        merged["has_mask"] |= merged["label_index"] == LabelName.NORMAL
    duplicates = merged[merged.duplicated("image_path", keep=False)]
    if len(duplicates):
        path = duplicates["image_path"].iloc[0]
        owners = duplicates.loc[duplicates["image_path"] == path, "category"].tolist()
        msg = f"The image '{path}' is in more than one category: {owners}. Give each category its own images."
        raise ValueError(msg)
    return merged


def _labelled(category: str, frame: pd.DataFrame) -> pd.DataFrame:
    anomalous = frame["label_index"] == LabelName.ABNORMAL
    # Only the masks of anomalous images are ever read; for others BTech names files that do not exist.
    paths = frame.get("mask_path", pd.Series(None, index=frame.index, dtype=object)).where(anomalous, None)
    masks = pd.Series([_mask_or_none(path) for path in paths], index=frame.index, dtype=object)
    labelled = (frame["label_index"] == LabelName.NORMAL) | masks.notna()
    return frame.assign(
        image_path=[str(Path(path).resolve()) for path in frame["image_path"]],
        mask_path=masks,
        category=category,
        has_mask=labelled & (frame.attrs.get("task") == TaskType.SEGMENTATION),
    )


def _mask_or_none(path: Any) -> Any:  # noqa: ANN401 - path, list of paths or pandas' missing value
    return path if isinstance(path, str | list | tuple) and path else None


def common_folder_name(datamodules: Sequence[AnomalibDataModule]) -> str | None:
    """Return the name of the folder that holds the folders of all categories.

    anomalib's visualizer keeps of an image's path what follows the folder of this name, so that pictures of different
    categories do not overwrite each other only if the folder is above all of them.

    Args:
        datamodules: Datamodules of one category each.

    Returns:
        The name, or None if a datamodule has no ``root`` or their roots have no common folder.
    """
    parents = []
    for datamodule in datamodules:
        root = getattr(datamodule, "root", None)
        if root is None:
            return None
        # Items show paths without symbolic links, and a category's folder may be one.
        parents.append((Path(root) / (datamodule.category or "images")).resolve().parent)
    try:
        return Path(os.path.commonpath(parents)).name or None
    except ValueError:  # different drives
        return None


def overwritten_pictures(samples: pd.DataFrame, name: str, category: str) -> tuple[str, str] | None:
    """Find two images whose pictures anomalib's visualizer would save under one name.

    Args:
        samples: Frame of samples.
        name: The datamodule's name.
        category: The datamodule's category, empty if there are several.

    Returns:
        Two image paths, or None if all pictures get names of their own.
    """
    seen: dict[Path, str] = {}
    for path in samples["image_path"]:
        target = generate_output_filename(path, "images", name, category, mkdir=False)
        if target in seen:
            return seen[target], path
        seen[target] = path
    return None
