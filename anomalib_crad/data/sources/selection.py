# SPDX-License-Identifier: Apache-2.0

"""Read an argument that chooses categories: one name, a list of names, or nothing for all.

Kept apart from the datamodules since the value arrives in many dresses: a string or a list from Python and the command
line, an omegaconf list from anomalib's benchmark and ``get_datamodule``, and numbers where YAML takes a name for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def select_categories(
    category: str | Iterable[str | int] | None,
    default: Sequence[str],
    known: Sequence[str],
    where: str,
    argument: str = "category",
) -> list[str]:
    """Turn a choice of categories into a list of known names.

    Args:
        category: One name, several, or None for ``default``. A number stands for the name that reads as this number:
            YAML reads ``[01, 02]`` as ``[1, 2]``.
        default: The categories that None stands for.
        known: All names that may be chosen.
        where: What knows them, for the error.
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
