# SPDX-License-Identifier: Apache-2.0

"""Read the arguments of ``MultiCategory`` that say what it merges.

Python code gives datamodules. The command line and YAML give the name of one, its categories and shared arguments.
anomalib's benchmark and ``get_datamodule`` give either, as omegaconf's containers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomalib_crad.data.reading import SUBSETS
from anomalib_crad.data.sources.categories import ALL, category_datamodules
from anomalib_crad.data.sources.datamodule_classes import as_datamodule, find_datamodule_class, to_builtin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anomalib.data import AnomalibDataModule

_MERGED_ONLY = {"balance": "image", "check": False}
"""Settings that only the outermost ``MultiCategory`` may have, and their defaults."""


def given_datamodules(
    datamodules: Sequence[Any] | None,
    base: str | None,
    categories: str | Iterable[str | int],
    base_args: Mapping[str, Any] | None,
) -> list[AnomalibDataModule]:
    """Make the datamodules that are to be merged.

    Args:
        datamodules: Datamodules, or dicts with ``class_path`` and ``init_args``; or None.
        base: Name of a datamodule class; or None.
        categories: Categories of ``base``.
        base_args: Shared arguments of ``base``; or None.

    Returns:
        The datamodules. One may itself hold several categories.

    Raises:
        ValueError: If both or none of ``datamodules`` and ``base`` are given, or a value is wrong.
        FileNotFoundError: If the categories are folders of a root that does not exist or has none.
    """
    if base is not None:
        if datamodules is not None:
            msg = (
                "`datamodules` and `base` are both given. Give one of them; to mix bases, put a MultiCategory for each "
                "into `datamodules`."
            )
            raise ValueError(msg)
        return category_datamodules(find_datamodule_class(base, "base"), to_builtin(categories), to_builtin(base_args))
    if categories != ALL or base_args:
        msg = "`categories` and `base_args` are those of a `base`, which is not given, such as base='Visa'."
        raise ValueError(msg)
    if datamodules is None:
        msg = "Nothing to merge: give a `base`, such as 'Visa', or `datamodules`."
        raise ValueError(msg)
    made = [as_datamodule(entry) for entry in to_builtin(datamodules)]
    if not made:
        msg = "`datamodules` is empty; give one anomalib datamodule for each category."
        raise ValueError(msg)
    for datamodule in made:
        _reject_settings_of_its_own(datamodule)
    return made


def agreed(datamodules: Sequence[AnomalibDataModule], argument: str, value: int | None) -> int:
    """Choose a setting of the merged set.

    Args:
        datamodules: The datamodules that are merged.
        argument: Name of the setting.
        value: The user's value; or None.

    Returns:
        The user's value, or else the value of the datamodules.

    Raises:
        ValueError: If the user gives no value and the datamodules disagree.
    """
    if value is not None:
        return value
    values = {getattr(datamodule, argument) for datamodule in datamodules}
    if len(values) > 1:
        msg = (
            f"The datamodules disagree on `{argument}` ({sorted(values)}); give `{argument}` to the merging datamodule."
        )
        raise ValueError(msg)
    return values.pop()


def _reject_settings_of_its_own(datamodule: AnomalibDataModule) -> None:
    who = f"The {type(datamodule).__name__} of category '{datamodule.category or datamodule.name}' in `datamodules`"
    if any(getattr(datamodule, f"{subset}_augmentations") is not None for subset in SUBSETS):
        msg = (
            f"{who} has augmentations of its own; give them to the merging datamodule, which applies them to all "
            "categories."
        )
        raise ValueError(msg)
    for argument, default in _MERGED_ONLY.items():
        if getattr(datamodule, argument, default) != default:
            msg = f"{who} has `{argument}` set; give it to the merging datamodule, for all categories."
            raise ValueError(msg)
