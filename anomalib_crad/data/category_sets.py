# SPDX-License-Identifier: Apache-2.0

"""Set up one datamodule for each category and merge what they hold: training, validation and test images.

Each datamodule reads and splits its own images. What is merged is what it would hand to a trainer, which is not always
what its attributes hold: ``MVTecAD2`` chooses among three test sets in its dataloader.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pandas as pd
from anomalib.data import MVTecLOCO

from anomalib_crad.data.merging import merge_samples
from anomalib_crad.data.multi_category_dataset import MultiCategoryDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomalib.data import AnomalibDataModule, AnomalibDataset

SUBSETS = ("train", "val", "test")


def read_subsets(datamodules: Mapping[str, AnomalibDataModule]) -> dict[str, MultiCategoryDataset]:
    """Set up datamodules and merge their sets.

    Args:
        datamodules: For each category its datamodule.

    Returns:
        The datasets ``"train"``, ``"val"`` and ``"test"``, as far as any datamodule has them.

    Raises:
        ValueError: If a category cannot be read, or two hold the same image.
    """
    for name, datamodule in datamodules.items():
        _set_up(name, datamodule)
    subsets = {}
    for subset in SUBSETS:
        parts = {name: _dataset(datamodule, subset) for name, datamodule in datamodules.items()}
        present = {name: data for name, data in parts.items() if data is not None}
        if present:
            frames = {name: data.samples for name, data in present.items()}
            samples = merge_samples(frames, training=subset == "train")
            subsets[subset] = MultiCategoryDataset(samples, sources=list(present.values()))
    return subsets


def _set_up(name: str, datamodule: AnomalibDataModule) -> None:
    try:
        with _lists_in_frames(datamodule):
            datamodule.setup()
    except Exception as error:
        # anomalib and pandas speak of lengths and indices here; the user needs to know where to look.
        reason = str(error) or type(error).__name__
        root = getattr(datamodule, "root", None)
        msg = f"{type(datamodule).__name__} cannot read category '{name}' (root: '{root}'): {reason}"
        raise ValueError(msg) from error


@contextmanager
def _lists_in_frames(datamodule: AnomalibDataModule) -> Iterator[None]:
    """Let ``MVTecLOCO`` put lists of masks into a column that it made of strings, which pandas 3 refuses by default."""
    if not (isinstance(datamodule, MVTecLOCO) and pd.__version__.startswith("3.")):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infer_string", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*infer_string", category=FutureWarning)
        with pd.option_context("future.infer_string", False):  # noqa: FBT003
            yield


def _dataset(datamodule: AnomalibDataModule, subset: str) -> AnomalibDataset | None:
    if not hasattr(datamodule, f"{subset}_data"):
        return None
    if subset == "test":
        return cast("AnomalibDataset", datamodule.test_dataloader().dataset)
    return cast("AnomalibDataset", getattr(datamodule, f"{subset}_data"))
