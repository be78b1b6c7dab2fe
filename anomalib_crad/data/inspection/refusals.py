# SPDX-License-Identifier: Apache-2.0

"""Data that every set-up refuses, with or without ``check``, since they would stop or silently spoil a run later.

These tests are cheap enough for every run; ``inspect.py`` inspects the data more closely.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib.data.utils import LabelName

from anomalib_crad.data.dataset import MultiCategoryDataset, mask_paths
from anomalib_crad.data.image_files import reject_bad_image_files

if TYPE_CHECKING:
    from collections.abc import Mapping


def reject_untrained(subsets: Mapping[str, MultiCategoryDataset], roots: Mapping[str, object]) -> None:
    """Refuse a category that has no training images.

    Args:
        subsets: The merged datasets.
        roots: For each category its root folder, for the error.

    Raises:
        ValueError: If a category has no training images.
    """
    trained = set(subsets["train"].samples["category"]) if "train" in subsets else set()
    for name, root in roots.items():
        if name not in trained:
            msg = f"Category '{name}' has no training images (root: '{root}'). Add normal images, or leave it out."
            raise ValueError(msg)


def reject_half_labelled(subsets: Mapping[str, MultiCategoryDataset]) -> None:
    """Refuse a subset in which some images have labels and others have none, which anomalib's batches cannot mix.

    Args:
        subsets: The merged datasets.

    Raises:
        ValueError: If there is such a subset.
    """
    for subset, data in subsets.items():
        unlabelled = data.samples["label_index"] == LabelName.UNKNOWN
        if unlabelled.any() and not unlabelled.all():
            names = data.samples.loc[unlabelled, "category"].unique().tolist()
            msg = (
                f"The {subset} images of {names} have no labels, those of other categories have. Their batches cannot "
                "mix: use these categories in a datamodule of their own."
            )
            raise ValueError(msg)


def reject_bad_files(subsets: Mapping[str, MultiCategoryDataset]) -> None:
    """Refuse files that cannot be read, and images that would be clipped.

    Args:
        subsets: The merged datasets.

    Raises:
        OSError: If a file is missing, is no image, or is truncated.
        ValueError: If an image holds more than 8 bits a channel.
    """
    samples_by_subset = [data.samples for data in subsets.values()]
    images = {path for frame in samples_by_subset for path in frame["image_path"]}
    masks = {path for frame in samples_by_subset for entry in frame["mask_path"] for path in mask_paths(entry)}
    reject_bad_image_files(sorted(images), sorted(masks))
