# SPDX-License-Identifier: Apache-2.0

"""From the class of an anomalib datamodule and shared arguments to one datamodule for each category.

anomalib's datamodules come in three kinds. Most take ``category``, and their module names the categories in a constant.
``Folder`` and ``Datumaro`` read one folder, so each subfolder of a common root becomes a category: a user's own
products, all laid out alike. The rest (``Kolektor``, ``Tabular``) hold one set of images, which counts as one category.

Products differ in what they have, so a folder of anomalous images or of masks may be missing for some of them: these
have no anomalous test images, or no masks. A folder that all of them lack is an error, since its name is likely
misspelt.
"""

from __future__ import annotations

import inspect
import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule, Datumaro, Folder

from anomalib_crad.data.sources.datamodule_classes import create, reject_wrong_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

ALL = "all"

_SET_FOR_ALL = ("train_augmentations", "val_augmentations", "test_augmentations", "augmentations")
_OPTIONAL_FOLDERS = ("abnormal_dir", "normal_test_dir", "mask_dir")


def select_categories(
    category: str | Iterable[str | int] | None,
    default: Sequence[str],
    known: Sequence[str],
    where: str,
    argument: str = "category",
) -> list[str]:
    """Turn a choice of categories into a list of known names.

    The choice may be a string or a list from Python and the command line, an omegaconf list from anomalib's benchmark
    and ``get_datamodule``, or numbers: YAML reads ``[01, 02]`` as ``[1, 2]``.

    Args:
        category: One name, several, or None for ``default``. A number stands for the name that reads as this number.
        default: The categories that None stands for.
        known: All names that may be chosen.
        where: What defines these names, for the error.
        argument: What the user calls it, for the error. Defaults to ``"category"``.

    Returns:
        The names, in the given order.

    Raises:
        ValueError: If there is none, or one is unknown or named twice.
    """
    if category is None:
        return list(default)
    names = [_name(each, known) for each in ([category] if isinstance(category, str | int) else category)]
    if not names:
        msg = f"`{argument}` is empty. Choose from {', '.join(known)}, or leave it out for all."
        raise ValueError(msg)
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = f"Unknown `{argument}`: {', '.join(map(repr, unknown))}. Known to {where}: {', '.join(known)}."
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = f"`{argument}` names a category twice: {names}. Name each once."
        raise ValueError(msg)
    return names


def _name(category: str | int, known: Sequence[str]) -> str:
    if isinstance(category, int):
        return next((name for name in known if name.isdecimal() and int(name) == category), str(category))
    return str(category)


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
            elsewhere, or lacks one that the class needs, or a folder named in ``base_args`` is missing for all.
        FileNotFoundError: If the categories are subfolders of a root that does not exist or has none.
    """
    arguments = dict(base_args or {})
    choice = None if categories == ALL else categories
    parameters = inspect.signature(cls).parameters
    by_folder = issubclass(cls, Folder | Datumaro)
    set_here = {"category"} if "category" in parameters else {"name"} & set(parameters) if by_folder else set()
    _reject_misplaced_arguments(cls, arguments, set_here)
    if "category" in parameters:
        names = _choose_declared(cls, choice, arguments)
        return [create(cls, {**arguments, "category": name}, "base_args") for name in names]
    if by_folder:
        return _folder_datamodules(cls, choice, arguments)
    if choice is not None:
        msg = f"`categories` is {categories!r}, but {cls.__name__} has none to choose from. Leave it at '{ALL}'."
        raise ValueError(msg)
    return [create(cls, arguments, "base_args")]


def _reject_misplaced_arguments(
    cls: type[AnomalibDataModule], arguments: Mapping[str, Any], set_here: set[str]
) -> None:
    for argument in arguments:
        if argument in set_here:
            msg = f"`{argument}` in `base_args` differs between the categories; choose these with `categories`."
            raise ValueError(msg)
        if argument in _SET_FOR_ALL:
            msg = f"`{argument}` in `base_args` would be one category's own; give it to MultiCategory, for all of them."
            raise ValueError(msg)
    reject_wrong_arguments(cls, arguments, "base_args", set_elsewhere={*set_here, *_SET_FOR_ALL})


def _choose_declared(
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


def _folder_datamodules(
    cls: type[AnomalibDataModule], choice: str | Iterable[str | int] | None, arguments: Mapping[str, Any]
) -> list[AnomalibDataModule]:
    """Make a ``Folder`` or ``Datumaro`` for each folder of ``root``; other folders are relative to a product's."""
    root = Path(arguments["root"]) if arguments.get("root") is not None else None
    if root is None:
        msg = f"{cls.__name__} needs `root` in `base_args`: the folder that holds one folder for each category."
        raise ValueError(msg)
    names = _choose_folders(root, choice)
    if issubclass(cls, Folder):
        _reject_folders_that_all_lack(root, names, arguments)
    return [_product(cls, root / name, arguments) for name in names]


def _choose_folders(root: Path, choice: str | Iterable[str | int] | None) -> list[str]:
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    known = sorted(path.name for path in folders if not path.name.startswith("."))
    if not known:
        state = "holds no folders" if root.is_dir() else "does not exist"
        msg = f"root='{root}' (`base_args`) {state}. It must hold one folder for each category."
        raise FileNotFoundError(msg)
    return select_categories(choice, default=known, known=known, where=f"root='{root}'", argument="categories")


def _product(cls: type[AnomalibDataModule], folder: Path, arguments: Mapping[str, Any]) -> AnomalibDataModule:
    own: dict[str, Any] = {**arguments, "root": folder}
    if issubclass(cls, Folder):
        for argument in _OPTIONAL_FOLDERS:
            own[argument] = [part for part in _as_list(own.get(argument)) if (folder / part).is_dir()] or None
    if "name" in inspect.signature(cls).parameters:
        return create(cls, {**own, "name": folder.name}, "base_args")
    datamodule = create(cls, own, "base_args")
    datamodule.category = folder.name
    return datamodule


def _reject_folders_that_all_lack(root: Path, names: list[str], arguments: Mapping[str, Any]) -> None:
    for argument in _OPTIONAL_FOLDERS:
        for part in _as_list(arguments.get(argument)):
            lacking = [name for name in names if not (root / name / part).is_dir()]
            if len(lacking) == len(names):
                msg = (
                    f"`{argument}` in `base_args` is '{part}', which none of the categories in root='{root}' has. "
                    "Correct it, or leave it out."
                )
                raise ValueError(msg)
            if lacking:
                logger.info("No '%s' (`%s`) in the folders of: %s.", part, argument, ", ".join(lacking))


def _as_list(value: str | Path | Iterable[str | Path] | None) -> list[str | Path]:
    if value is None:
        return []
    return [value] if isinstance(value, str | Path) else list(value)
