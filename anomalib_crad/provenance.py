# SPDX-License-Identifier: Apache-2.0

"""The files of a test: the table as CSV, and as JSON together with what it takes to read or repeat it.

A number without its settings is of little use a month later, so the JSON file names model, data, seed, versions and
time. Everything in it is plain data; what is not, is written as its text.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timezone
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anomalib_crad
from anomalib_crad.files import try_to_write
from anomalib_crad.recording.categories import ONLY_CATEGORY, image_categories

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad.metrics.report import CategoryReport


CSV_NAME = "category_metrics.csv"
JSON_NAME = "category_metrics.json"

_PACKAGES = ("anomalib", "torch", "timm", "lightning")
_DATAMODULE_SETTINGS = ("name", "root", "train_batch_size", "eval_batch_size", "balance")
#: Of a merged datamodule these are true of its parts only.
_SPLIT_SETTINGS = ("root", "test_split_mode", "test_split_ratio", "val_split_mode", "val_split_ratio", "seed")
_TRAINER_SETTINGS = ("max_epochs", "current_epoch", "global_step", "precision", "world_size", "ckpt_path")


def save_results(folder: str | Path, report: CategoryReport, run: Mapping[str, Any]) -> None:
    """Write both files; a full or read-only disk must not take the printed and returned metrics along.

    Args:
        folder: Folder of the run; existing files in it are replaced.
        report: What was measured.
        run: What :func:`describe_run` returns.
    """
    results = plain({"metrics": report.to_dict(), **run})

    def to_json(path: Path) -> None:
        path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    for name, write in ((CSV_NAME, report.to_csv), (JSON_NAME, to_json)):
        try_to_write(Path(folder) / name, write, "Metrics of each category")


def describe_run(trainer: Trainer, model: LightningModule, seconds: float) -> dict[str, Any]:
    """Describe what was tested, how, when and with which versions.

    Args:
        trainer: The trainer of the test.
        model: The model that was tested.
        seconds: How long the test took.

    Returns:
        Sections ``model``, ``data``, ``trainer``, ``seed``, ``versions`` and ``time``.
    """
    return {
        "model": describe_model(model),
        "data": _describe_data(getattr(trainer, "datamodule", None)),
        "trainer": {
            **{name: getattr(trainer, name) for name in _TRAINER_SETTINGS},
            "accelerator": type(trainer.accelerator).__name__,
        },
        "seed": _seed(model),
        "versions": describe_versions(),
        "time": {"finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), "test_seconds": seconds},
    }


def describe_model(model: LightningModule) -> dict[str, Any]:
    """Describe how a model was built.

    Args:
        model: The model.

    Returns:
        Its ``class``, ``hyper_parameters`` and ``post_processor``.
    """
    return {
        "class": _class_path(model),
        "hyper_parameters": dict(model.hparams),
        "post_processor": _describe_post_processor(getattr(model, "post_processor", None)),
    }


def describe_versions(further: Sequence[str] = ()) -> dict[str, str | None]:
    """Name the versions of Python, of this package and of those that it stands on.

    Args:
        further: Names of more packages. Defaults to none.

    Returns:
        Versions by package; ``None`` for one that is not installed.
    """
    return {
        "python": platform.python_version(),
        "anomalib_crad": anomalib_crad.__version__,
        **{package: _version(package) for package in (*_PACKAGES, *further)},
    }


def _describe_data(datamodule: object) -> dict[str, Any] | None:
    """Describe a datamodule by its settings and the number of images of each category and subset."""
    if datamodule is None:
        return None
    images = {
        subset: Counter(category or ONLY_CATEGORY for _, category in image_categories(dataset))
        for subset in ("train", "val", "test")
        if (dataset := getattr(datamodule, f"{subset}_data", None)) is not None
    }
    return {
        "class": _class_path(datamodule),
        **_settings(datamodule, _DATAMODULE_SETTINGS),
        "splits": {
            category: {"class": _class_path(part), **_settings(part, _SPLIT_SETTINGS)}
            for category, part in _parts(datamodule).items()
        },
        "images": images,
    }


def _settings(thing: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)}


def _parts(datamodule: object) -> Mapping[str, object]:
    """Return the datamodule of each category: those of a merged one, or itself."""
    parts = getattr(datamodule, "datamodules", None)
    return parts if isinstance(parts, Mapping) else {getattr(datamodule, "category", "") or ONLY_CATEGORY: datamodule}


def _describe_post_processor(post_processor: object) -> dict[str, Any] | None:
    if post_processor is None:
        return None
    settings = post_processor.checkpoint_config() if hasattr(post_processor, "checkpoint_config") else {}
    return {"class": _class_path(post_processor), **settings}


def _seed(model: LightningModule) -> int | None:
    """Return the model's own seed, or else that of Lightning's ``seed_everything``, or else ``None``."""
    seed = model.hparams.get("seed", None)
    seed = os.environ.get("PL_GLOBAL_SEED") if seed is None else seed
    return None if seed is None else int(seed)


def _class_path(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def plain(value: object) -> Any:  # noqa: ANN401 - JSON has no type of its own
    """Turn a value into what JSON can hold.

    Args:
        value: Anything.

    Returns:
        Numbers, strings, lists and dictionaries; non-finite numbers and any other object as text.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Real):
        number = int(value) if isinstance(value, Integral) else float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence | Set):
        return [plain(entry) for entry in value]
    return str(value)
