# SPDX-License-Identifier: Apache-2.0

"""Set up datamodules of one category each, and read what they would hand to a trainer.

That is not always what their attributes hold: ``MVTecAD2`` chooses among three test sets in its dataloader. Three
limits of anomalib's readers are lifted while a datamodule is set up: ``MVTecLOCO`` with pandas 3, paths with letters
beyond ASCII, and masks of ``Folder`` that are missing, have no image, or sort in another order than their images.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, Folder, MVTecLOCO
from anomalib.data.utils import LabelName
from anomalib.data.utils import path as anomalib_paths

from anomalib_crad.data.masks import mask_files, pair_masks

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from anomalib.data import AnomalibDataset

SUBSETS = ("train", "val", "test")


class Part(NamedTuple):
    """One subset of one category.

    Attributes:
        samples: Frame of samples, with the task in ``attrs``.
        dataset: anomalib's dataset that it comes from.
    """

    samples: pd.DataFrame
    dataset: AnomalibDataset


def read_categories(datamodules: Mapping[str, AnomalibDataModule]) -> dict[str, dict[str, Part]]:
    """Set up datamodules and read their subsets.

    Args:
        datamodules: For each category its datamodule.

    Returns:
        For each category its parts ``"train"``, ``"val"`` and ``"test"``, as far as the datamodule has them.

    Raises:
        ValueError: If categories cannot be read; the message names all of them.
    """
    parts: dict[str, dict[str, Part]] = {}
    errors: dict[str, Exception] = {}
    for name, datamodule in datamodules.items():
        try:
            parts[name] = _read(datamodule)
        except Exception as error:  # noqa: BLE001, PERF203 - whatever anomalib, pandas or a user's class raise
            errors[name] = error
    if errors:
        first = next(iter(errors))
        raise ValueError(_explanation(first, datamodules, errors)) from errors[first]
    return parts


def _read(datamodule: AnomalibDataModule) -> dict[str, Part]:
    with _lists_in_frames(datamodule), _any_printable_path(), _masks_left_out(datamodule) as folders:
        datamodule.setup()
    datasets = {subset: _dataset(datamodule, subset) for subset in SUBSETS}
    samples_by_subset = {subset: dataset.samples for subset, dataset in datasets.items() if dataset is not None}
    if folders:
        masks = mask_files(folders, getattr(datamodule, "extensions", None))
        samples_by_subset = _with_masks(samples_by_subset, masks)
    return {
        subset: Part(frame, cast("AnomalibDataset", datasets[subset])) for subset, frame in samples_by_subset.items()
    }


def _explanation(name: str, datamodules: Mapping[str, AnomalibDataModule], errors: Mapping[str, Exception]) -> str:
    """Name category and root, which the errors of anomalib and pandas do not."""
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
    """Let ``MVTecLOCO`` put lists of masks into a column of strings, which pandas 3 refuses by default."""
    if not (isinstance(datamodule, MVTecLOCO) and pd.__version__.startswith("3.")):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infer_string", category=DeprecationWarning)
        with pd.option_context("future.infer_string", False):  # noqa: FBT003
            yield


@contextmanager
def _any_printable_path() -> Generator[None, None, None]:
    """Let anomalib read paths with any printable characters; it takes every letter beyond ASCII for unprintable."""
    name = "contains_non_printable_characters"
    original = getattr(anomalib_paths, name, None)
    if original is None:  # another version of anomalib, which may have no such limit
        yield
        return
    setattr(anomalib_paths, name, lambda path: not str(path).isprintable())
    try:
        yield
    finally:
        setattr(anomalib_paths, name, original)


@contextmanager
def _masks_left_out(datamodule: AnomalibDataModule) -> Generator[list[Path], None, None]:
    """Let a ``Folder`` with anomalous images read everything but its masks, and yield the folders of the masks."""
    if not (isinstance(datamodule, Folder) and datamodule.mask_dir and datamodule.abnormal_dir):
        yield []
        return
    given = datamodule.mask_dir
    folders = [given] if isinstance(given, str | Path) else list(given)
    datamodule.mask_dir = None
    try:
        yield [(Path(datamodule.root or ".") / folder).resolve() for folder in folders]
    finally:
        datamodule.mask_dir = given


def _with_masks(samples_by_subset: Mapping[str, pd.DataFrame], masks: list[Path]) -> dict[str, pd.DataFrame]:
    """Add masks to the anomalous images that have none; synthetic anomalies have theirs."""
    unmasked = {
        subset: (frame["label_index"] == LabelName.ABNORMAL) & (frame["mask_path"].fillna("") == "")
        for subset, frame in samples_by_subset.items()
    }
    images = {
        Path(path) for subset, rows in unmasked.items() for path in samples_by_subset[subset].loc[rows, "image_path"]
    }
    pairs = pair_masks(images, masks) if images else {}
    return {subset: _with_pairs(frame, unmasked[subset], pairs) for subset, frame in samples_by_subset.items()}


def _with_pairs(frame: pd.DataFrame, unmasked: pd.Series, pairs: Mapping[Path, list[Path]]) -> pd.DataFrame:
    entries: list[Any] = frame["mask_path"].tolist()
    for row, (path, is_unmasked) in enumerate(zip(frame["image_path"], unmasked, strict=True)):
        found = [str(mask) for mask in pairs.get(Path(path), [])] if is_unmasked else []
        if found:
            entries[row] = found[0] if len(found) == 1 else found
    paired = frame.assign(mask_path=pd.Series(entries, index=frame.index, dtype=object))
    paired.attrs["task"] = TaskType.SEGMENTATION.value
    return paired


def _dataset(datamodule: AnomalibDataModule, subset: str) -> AnomalibDataset | None:
    if not hasattr(datamodule, f"{subset}_data"):
        return None
    if subset == "test" and type(datamodule).test_dataloader is not AnomalibDataModule.test_dataloader:
        return cast("AnomalibDataset", datamodule.test_dataloader().dataset)
    return cast("AnomalibDataset", getattr(datamodule, f"{subset}_data"))
