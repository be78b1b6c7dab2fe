# SPDX-License-Identifier: Apache-2.0

"""Find datamodule classes by name, and make datamodules of configurations.

anomalib's command line passes finished datamodules; its benchmark and ``get_datamodule`` pass the content of the file,
as omegaconf's containers and raw dicts. The functions here turn both into Python objects.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anomalib.data
from anomalib.data import AnomalibDataModule
from anomalib.data.datamodules import image as image_datamodules
from anomalib.data.datamodules.base.video import AnomalibVideoDataModule
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEPTH_DATAMODULES = "anomalib.data.datamodules.depth"


def to_builtin(value: Any) -> Any:  # noqa: ANN401 - any part of a configuration
    """Turn omegaconf's containers into built-in ones.

    Args:
        value: Any part of a configuration.

    Returns:
        Lists and dicts for omegaconf's; every other value unchanged.
    """
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def find_datamodule_class(name: str, argument: str) -> type[AnomalibDataModule]:
    """Find the class of an image datamodule.

    Args:
        name: A name in ``anomalib.data`` (``"Visa"``) or the import path of a class (``"mine.data.Products"``).
        argument: The user's name of this argument, for the error.

    Returns:
        The class.

    Raises:
        ValueError: If there is no such class, or it is no datamodule of images.
    """
    try:
        found = pkgutil.resolve_name(name) if "." in name else getattr(anomalib.data, name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = (
            f"Unknown `{argument}`: '{name}'. Known: {', '.join(_known_names())}; or give the import path of a "
            "datamodule of your own, such as 'my_package.data.MyDataModule'."
        )
        raise ValueError(msg) from error
    if not (isinstance(found, type) and issubclass(found, AnomalibDataModule)) or _is_no_image_datamodule(found):
        msg = f"`{argument}` is '{name}', which is no datamodule of images. Known: {', '.join(_known_names())}."
        raise ValueError(msg)
    return found


def as_datamodule(entry: Any) -> AnomalibDataModule:  # noqa: ANN401 - what a configuration may hold
    """Make a datamodule of one entry of ``datamodules``.

    Args:
        entry: A datamodule, which is returned unchanged, or a dict with ``class_path`` and optionally ``init_args``.

    Returns:
        The datamodule.

    Raises:
        ValueError: If it is neither, or the class is unknown or rejects its arguments.
    """
    if isinstance(entry, AnomalibDataModule):
        return entry
    if not isinstance(entry, Mapping) or "class_path" not in entry:
        msg = (
            f"`datamodules` holds {entry!r}. Each entry must be an anomalib datamodule, or a dict with `class_path` "
            "and `init_args`."
        )
        raise ValueError(msg)
    cls = find_datamodule_class(entry["class_path"], "class_path")
    return create(cls, entry.get("init_args") or {})


def create(
    cls: type[AnomalibDataModule],
    arguments: Mapping[str, Any],
    where: str = "init_args",
) -> AnomalibDataModule:
    """Make a datamodule; an error names its class.

    Args:
        cls: The class.
        arguments: Arguments of its constructor.
        where: The user's name of these arguments, for the error. Defaults to ``"init_args"``.

    Returns:
        The datamodule.

    Raises:
        ValueError: If an argument is unknown or missing, or the constructor raises a ``TypeError`` or ``ValueError``.
    """
    reject_wrong_arguments(cls, arguments, where)
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        msg = f"{cls.__name__} rejects its `{where}`: {error}"
        raise ValueError(msg) from error


def reject_wrong_arguments(
    cls: type[AnomalibDataModule],
    arguments: Iterable[str],
    where: str,
    set_elsewhere: Iterable[str] = (),
) -> None:
    """Reject names of arguments that do not fit the constructor of a class.

    Args:
        cls: The class.
        arguments: The names.
        where: The user's name of these arguments, for the error.
        set_elsewhere: Arguments that the caller sets: not required here, and not listed in the error.
            Defaults to ``()``.

    Raises:
        ValueError: If the class lacks one of the arguments, or one that it needs is missing.
    """
    arguments, set_elsewhere = list(arguments), set(set_elsewhere)
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    offered = [p.name for p in named if p.name not in set_elsewhere]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    unknown = [name for name in arguments if name not in offered and name not in set_elsewhere and not takes_any]
    if unknown:
        msg = f"{cls.__name__} takes no {_quoted(unknown)} (`{where}`). It takes: {', '.join(offered)}."
        raise ValueError(msg)
    missing = [p.name for p in named if p.default is p.empty and p.name not in {*arguments, *set_elsewhere}]
    if missing:
        msg = f"{cls.__name__} needs {_quoted(missing)} in `{where}`."
        raise ValueError(msg)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _known_names() -> list[str]:
    return sorted(
        name for name in image_datamodules.__all__ if isinstance(getattr(image_datamodules, name, None), type)
    )


def _is_no_image_datamodule(cls: type) -> bool:
    return issubclass(cls, AnomalibVideoDataModule) or cls.__module__.startswith(_DEPTH_DATAMODULES)
