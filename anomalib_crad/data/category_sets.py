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
from anomalib.data import AnomalibDataModule, MVTecLOCO

from anomalib_crad.data.dataset import MultiCategoryDataset
from anomalib_crad.data.merging import merge_samples

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from anomalib.data import AnomalibDataset

SUBSETS = ("train", "val", "test")


def read_subsets(datamodules: Mapping[str, AnomalibDataModule]) -> dict[str, MultiCategoryDataset]:
    """Set up datamodules and merge their sets.

    Args:
        datamodules: For each category its datamodule.

    Returns:
        The datasets ``"train"``, ``"val"`` and ``"test"``, as far as any datamodule has them.

    Raises:
        ValueError: If categories cannot be read (the message names all of them), or two hold the same image.
    """
    _set_up(datamodules)
    subsets = {}
    for subset in SUBSETS:
        parts = {name: _dataset(datamodule, subset) for name, datamodule in datamodules.items()}
        present = {name: data for name, data in parts.items() if data is not None}
        if present:
            frames = {name: data.samples for name, data in present.items()}
            samples = merge_samples(frames, training=subset == "train")
            subsets[subset] = MultiCategoryDataset(samples, sources=list(present.values()))
    return subsets


def _set_up(datamodules: Mapping[str, AnomalibDataModule]) -> None:
    errors: dict[str, Exception] = {}
    for name, datamodule in datamodules.items():
        try:
            with _lists_in_frames(datamodule):
                datamodule.setup()
        except Exception as error:  # noqa: BLE001, PERF203 - whatever anomalib, pandas or a user's class raise
            errors[name] = error
    if errors:
        first = next(iter(errors))
        raise ValueError(_explanation(first, datamodules, errors)) from errors[first]


def _explanation(name: str, datamodules: Mapping[str, AnomalibDataModule], errors: Mapping[str, Exception]) -> str:
    """Say where to look: anomalib and pandas speak of lengths and indices."""
    datamodule, error = datamodules[name], errors[name]
    root = getattr(datamodule, "root", None)
    reason = str(error) or type(error).__name__
    text = f"{type(datamodule).__name__} cannot read category '{name}' (root: '{root}'): {reason}"
    if len(errors) > 1:
        readable = [other for other in datamodules if other not in errors]
        others = ", ".join(other for other in errors if other != name)
        text += f". Nor can these be read: {others}. Can be read: {', '.join(readable) or 'none'}."
    return text


@contextmanager
def _lists_in_frames(datamodule: AnomalibDataModule) -> Generator[None, None, None]:
    """Let ``MVTecLOCO`` put lists of masks into a column that it made of strings, which pandas 3 refuses by default."""
    if not (isinstance(datamodule, MVTecLOCO) and pd.__version__.startswith("3.")):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infer_string", category=DeprecationWarning)
        with pd.option_context("future.infer_string", False):  # noqa: FBT003
            yield


def _dataset(datamodule: AnomalibDataModule, subset: str) -> AnomalibDataset | None:
    if not hasattr(datamodule, f"{subset}_data"):
        return None
    if subset == "test" and type(datamodule).test_dataloader is not AnomalibDataModule.test_dataloader:
        return cast("AnomalibDataset", datamodule.test_dataloader().dataset)
    return cast("AnomalibDataset", getattr(datamodule, f"{subset}_data"))
