# SPDX-License-Identifier: Apache-2.0

"""From the class of an anomalib datamodule and shared arguments to one datamodule for each category.

anomalib's datamodules come in three kinds. Most take ``category`` and name theirs in a constant. ``Folder`` and
``Datumaro`` read one folder, so that each subfolder of a common root becomes a category (``product_folders.py``). The
rest (``Kolektor``, ``Tabular``) hold one set of images, which counts as one category.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule, Datumaro, Folder

from anomalib_crad.data.sources.datamodule_classes import check_arguments, create
from anomalib_crad.data.sources.product_folders import folder_datamodules
from anomalib_crad.data.sources.selection import select_categories

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALL = "all"

_SET_FOR_ALL = ("train_augmentations", "val_augmentations", "test_augmentations", "augmentations")


def category_datamodules(
    cls: type[AnomalibDataModule],
    categories: str | Iterable[str | int] = ALL,
    base_args: Mapping[str, Any] | None = None,
) -> list[AnomalibDataModule]:
    """Make one datamodule for each category.

    Args:
        cls: Class of the datamodules.
        categories: One name, several, or ``"all"``. Defaults to ``"all"``.
        base_args: Arguments that all of them share. Defaults to ``None``: the defaults of the class.

    Returns:
        The datamodules, in the order of the categories.

    Raises:
        ValueError: If a category is unknown, ``base_args`` holds an argument that the class lacks or that is set
            elsewhere, or lacks one that the class needs.
        FileNotFoundError: If the categories are subfolders of a root that does not exist or has none.
    """
    arguments = dict(base_args or {})
    choice = None if categories == ALL else categories
    parameters = inspect.signature(cls).parameters
    by_folder = issubclass(cls, Folder | Datumaro)
    set_here = {"category"} if "category" in parameters else {"name"} & set(parameters) if by_folder else set()
    _check_base_args(cls, arguments, set_here)
    if "category" in parameters:
        names = _choose(cls, choice, arguments)
        return [create(cls, {**arguments, "category": name}, "base_args") for name in names]
    if by_folder:
        return folder_datamodules(cls, choice, arguments)
    if choice is not None:
        msg = f"`categories` is {categories!r}, but {cls.__name__} has none to choose from. Leave it at '{ALL}'."
        raise ValueError(msg)
    return [create(cls, arguments, "base_args")]


def _check_base_args(cls: type[AnomalibDataModule], arguments: Mapping[str, Any], set_here: set[str]) -> None:
    for argument in arguments:
        if argument in set_here:
            msg = f"`{argument}` in `base_args` differs between the categories; choose these with `categories`."
            raise ValueError(msg)
        if argument in _SET_FOR_ALL:
            msg = f"`{argument}` in `base_args` would be one category's own; give it to MultiCategory, for all of them."
            raise ValueError(msg)
    check_arguments(cls, arguments, "base_args", set_elsewhere={*set_here, *_SET_FOR_ALL})


def _choose(
    cls: type[AnomalibDataModule], choice: str | Iterable[str | int] | None, arguments: Mapping[str, Any]
) -> list[str]:
    root = arguments.get("root") or getattr(inspect.signature(cls).parameters.get("root"), "default", None)
    declared = _declared_categories(cls)
    known = [*declared, *(name for name in _folders_in_layout(root) if name not in declared)]
    if not known:
        msg = f"{cls.__name__} names no categories, and root='{root}' holds none. Check `root` in `base_args`."
        raise ValueError(msg)
    where = f"{cls.__name__} and root='{root}'"
    return select_categories(choice, default=declared or known, known=known, where=where, argument="categories")


def _declared_categories(cls: type[AnomalibDataModule]) -> list[str]:
    """Categories that are named in the module of the datamodule, or of anomalib's dataset of the same file name."""
    for parent in cls.__mro__:
        module = parent.__module__
        for name in (module, f"anomalib.data.datasets.image.{module.rpartition('.')[2]}"):
            try:
                declared = getattr(import_module(name), "CATEGORIES", None)
            except ImportError:
                continue
            if declared:
                return list(declared)
    return []


def _folders_in_layout(root: str | Path | None) -> list[str]:
    """Names of the folders of ``root`` that hold a folder ``train``, as the categories of most data sets do."""
    return [] if root is None else sorted(path.parent.name for path in Path(root).glob("*/train") if path.is_dir())
