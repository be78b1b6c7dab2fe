# SPDX-License-Identifier: Apache-2.0

"""Merge anomalib datamodules of one category each: their names, their sets, their frames of samples, their folders.

Each datamodule reads and splits its own images (``reading.py``).
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

from anomalib_crad.data.dataset import MultiCategoryDataset
from anomalib_crad.data.reading import SUBSETS, read_categories

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib.data import AnomalibDataModule


def unique_category_names(datamodules: Sequence[AnomalibDataModule]) -> list[str]:
    """Give each datamodule's category a unique name.

    A category keeps its own name (the datamodule's name where it has none). Where two share one, the datamodule's name
    becomes a prefix, and a number a suffix where even that is not enough.

    Args:
        datamodules: Datamodules of one category each.

    Returns:
        One name for each, all different.
    """
    own_names = [datamodule.category or datamodule.name for datamodule in datamodules]
    counts = Counter(own_names)
    prefixed = [
        f"{datamodule.name}_{name}" if counts[name] > 1 else name
        for datamodule, name in zip(datamodules, own_names, strict=True)
    ]
    names: list[str] = []
    for name in prefixed:
        candidate, number = name, 2
        while candidate in names:
            candidate, number = f"{name}_{number}", number + 1
        names.append(candidate)
    return names


def read_subsets(datamodules: Mapping[str, AnomalibDataModule]) -> dict[str, MultiCategoryDataset]:
    """Set up datamodules and merge their sets.

    Args:
        datamodules: For each category its datamodule.

    Returns:
        The datasets ``"train"``, ``"val"`` and ``"test"``, each only if any datamodule has it.

    Raises:
        ValueError: If categories cannot be read (the message names all of them), or two hold the same image.
    """
    parts = read_categories(datamodules)
    subsets = {}
    for subset in SUBSETS:
        present = {name: sets[subset] for name, sets in parts.items() if subset in sets}
        if present:
            samples_by_category = {name: part.samples for name, part in present.items()}
            samples = merge_samples(samples_by_category, training=subset == "train")
            subsets[subset] = MultiCategoryDataset(samples, sources=[part.dataset for part in present.values()])
    return subsets


def merge_samples(samples_by_category: Mapping[str, pd.DataFrame], *, training: bool) -> pd.DataFrame:
    """Merge the samples of categories into one frame.

    Args:
        samples_by_category: For each category anomalib's frame of samples, with the task in ``attrs``.
        training: Whether these are the training images. Normal ones then have an empty mask if any category has masks,
            so that every training batch has them.

    Returns:
        All rows, with the columns ``category`` and ``has_mask`` (see ``MultiCategoryDataset``), absolute image paths
        without symbolic links of folders, and None for every mask path that is missing or belongs to an image that is
        not anomalous.

    Raises:
        ValueError: If two categories hold the same image.
    """
    merged = pd.concat([_labelled(name, frame) for name, frame in samples_by_category.items()], ignore_index=True)
    merged.attrs.clear()  # holds one category's task; the dataset sets the task of all
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
        image_path=[_with_own_name(path) for path in frame["image_path"]],
        mask_path=masks,
        category=category,
        has_mask=labelled & (frame.attrs.get("task") == TaskType.SEGMENTATION),
    )


def _with_own_name(path: str) -> str:
    """Follow symbolic links of folders, which ``common_folder_name`` follows too, but not a link of the file itself.

    Data stores such as DVC, git-annex and model hubs keep files under nameless hashes, and link to them by name.
    """
    return str(Path(path).parent.resolve() / Path(path).name)


def _mask_or_none(path: Any) -> Any:  # noqa: ANN401 - path, list of paths or pandas' missing value
    return path if isinstance(path, str | list | tuple) and path else None


def common_folder_name(datamodules: Sequence[AnomalibDataModule]) -> str | None:
    """Return the name of the folder that holds the folders of all categories.

    anomalib's visualizer saves a picture under the part of the image's path below the folder of this name. Pictures of
    different categories do not overwrite each other only if this folder is above all categories.

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
        Two image paths, or None if all pictures have different names.
    """
    seen: dict[Path, str] = {}
    for path in samples["image_path"]:
        target = generate_output_filename(path, "images", name, category, mkdir=False)
        if target in seen:
            return seen[target], path
        seen[target] = path
    return None
