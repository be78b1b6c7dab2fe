# SPDX-License-Identifier: Apache-2.0

"""What a package takes from the user's data: the sample image and the names of the categories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data.utils import LabelName

from anomalib_crad.data.multi_category import MultiCategory

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule


def choose_sample(datamodule: AnomalibDataModule | None) -> Path:
    """Choose a test image, an anomalous one if there is one: it shows more of what the model does.

    Args:
        datamodule: Where to look; it is prepared and set up. ``None`` if the user named no data.

    Returns:
        The first such image.

    Raises:
        ValueError: If there is nowhere to look, or nothing to find.
    """
    if datamodule is None:
        msg = "A package needs a sample image. Name one with --sample, or images with --data or --config."
        raise ValueError(msg)
    datamodule.prepare_data()
    datamodule.setup()
    samples = datamodule.test_data.samples
    if samples.empty:
        msg = f"There are no test images in {datamodule.name}. Name an image with --sample."
        raise ValueError(msg)
    anomalous = samples[samples["label_index"] == LabelName.ABNORMAL]
    return Path((samples if anomalous.empty else anomalous)["image_path"].iloc[0])


def category_names(datamodule: AnomalibDataModule | None) -> tuple[str, ...]:
    """Name the categories of a datamodule.

    Args:
        datamodule: The datamodule, or ``None``.

    Returns:
        Their names, none if there is no datamodule.
    """
    if datamodule is None:
        return ()
    if isinstance(datamodule, MultiCategory):
        return tuple(datamodule.categories)
    return (datamodule.category or datamodule.name,)
