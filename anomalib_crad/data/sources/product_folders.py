# SPDX-License-Identifier: Apache-2.0

"""A user's own products: one folder for each, all in one root and laid out alike.

For ``Folder`` and ``Datumaro``, which read one folder and know no categories. Products differ in what they have, so a
folder of anomalous images or of masks may be missing for some of them: they then have no anomalous test images, or no
masks. A folder that is missing for all is taken for a misspelt name.
"""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule, Folder

from anomalib_crad.data.sources.datamodule_classes import create
from anomalib_crad.data.sources.selection import select_categories

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)

_OPTIONAL_FOLDERS = ("abnormal_dir", "normal_test_dir", "mask_dir")


def folder_datamodules(
    cls: type[AnomalibDataModule],
    choice: str | Iterable[str | int] | None,
    arguments: Mapping[str, Any],
) -> list[AnomalibDataModule]:
    """Make one datamodule for each folder of a root.

    Args:
        cls: ``Folder`` or ``Datumaro``, or a class made of one of them.
        choice: Names of folders; None for all.
        arguments: Arguments that all share. ``root`` is the folder above the products; other folders are relative to a
            product's.

    Returns:
        The datamodules, in the order of the names.

    Raises:
        ValueError: If a name is unknown, or a folder that is named in ``arguments`` is missing for all products.
        FileNotFoundError: If the root does not exist or has no folders.
    """
    root = Path(arguments["root"]) if arguments.get("root") is not None else None
    if root is None:
        msg = f"{cls.__name__} needs `root` in `base_args`: the folder that holds one folder for each category."
        raise ValueError(msg)
    names = _choose(root, choice)
    if issubclass(cls, Folder):
        _reject_folders_that_all_lack(root, names, arguments)
    return [_product(cls, root / name, arguments) for name in names]


def _choose(root: Path, choice: str | Iterable[str | int] | None) -> list[str]:
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
