# SPDX-License-Identifier: Apache-2.0

"""Where a result comes from, as plain data: the model and its arguments, the machine, and the versions of packages.

A number without its settings is of little use a month later. Values that JSON cannot hold are written as text.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anomalib_crad

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


_PACKAGES = ("anomalib", "torch", "timm", "lightning")


def describe_model(model: LightningModule) -> dict[str, Any]:
    """Describe how a model was built.

    Args:
        model: The model.

    Returns:
        Its ``class``, ``hyper_parameters`` and ``post_processor``.
    """
    return {
        "class": class_path(model),
        "hyper_parameters": dict(model.hparams),
        "post_processor": _describe_post_processor(getattr(model, "post_processor", None)),
    }


def describe_versions(further: Sequence[str] = ()) -> dict[str, str | None]:
    """Return the versions of Python, of this package and of the packages that it builds on.

    Args:
        further: Names of further packages. Defaults to none.

    Returns:
        Versions by package; ``None`` for one that is not installed.
    """
    return {
        "python": platform.python_version(),
        "anomalib_crad": anomalib_crad.__version__,
        **{package: _version(package) for package in (*_PACKAGES, *further)},
    }


def describe_machine() -> dict[str, Any]:
    """Describe the machine under a measurement: processor, accelerator, memory, system and versions."""
    # Not at the top: a process that measures OpenVINO must not load torch before it has measured.
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        **describe_versions(["openvino"]),
    }


def _describe_post_processor(post_processor: object) -> dict[str, Any] | None:
    if post_processor is None:
        return None
    settings = post_processor.checkpoint_config() if hasattr(post_processor, "checkpoint_config") else {}
    return {"class": class_path(post_processor), **settings}


def class_path(thing: object) -> str:
    """Return the import path of an object's class.

    Args:
        thing: The object.
    """
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _memory() -> int | None:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def json_value(value: object) -> Any:  # noqa: ANN401 - JSON has no type of its own
    """Convert a value to one that JSON can hold.

    Args:
        value: Anything.

    Returns:
        Numbers, strings, lists and dictionaries; non-finite numbers and any other object as text.
    """
    if isinstance(value, Enum):
        return json_value(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Real):
        number = int(value) if isinstance(value, Integral) else float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, Sequence | Set):
        return [json_value(entry) for entry in value]
    return str(value)
