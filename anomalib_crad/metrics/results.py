# SPDX-License-Identifier: Apache-2.0

"""The files of a test: the table as CSV, and as JSON together with a description of the run.

The description is what a reader needs to understand or repeat the numbers: model, data, seed, versions and time.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_crad.files import try_to_write
from anomalib_crad.provenance import class_path, describe_model, describe_versions, json_value
from anomalib_crad.recording.categories import ONLY_CATEGORY, image_categories

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad.metrics.category_report import CategoryReport

CSV_NAME = "category_metrics.csv"
JSON_NAME = "category_metrics.json"

_DATAMODULE_SETTINGS = ("name", "root", "train_batch_size", "eval_batch_size", "balance")
#: A merged datamodule has no value of its own for these; its parts have.
_SPLIT_SETTINGS = ("root", "test_split_mode", "test_split_ratio", "val_split_mode", "val_split_ratio", "seed")
_TRAINER_SETTINGS = ("max_epochs", "current_epoch", "global_step", "precision", "world_size", "ckpt_path")


def save_results(folder: str | Path, report: CategoryReport, run: Mapping[str, Any]) -> None:
    """Write both files; a full or read-only disk is logged, so that printed and returned metrics are not lost with it.

    Args:
        folder: Folder of the run; existing files in it are replaced.
        report: The report of the test.
        run: The description of the run, see :func:`describe_run`.
    """
    results = json_value({"metrics": report.to_dict(), **run})

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
        "class": class_path(datamodule),
        **_settings(datamodule, _DATAMODULE_SETTINGS),
        "splits": {
            category: {"class": class_path(part), **_settings(part, _SPLIT_SETTINGS)}
            for category, part in _parts(datamodule).items()
        },
        "images": images,
    }


def _settings(datamodule: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(datamodule, name) for name in names if hasattr(datamodule, name)}


def _parts(datamodule: object) -> Mapping[str, object]:
    """Return the datamodule of each category: those of a merged one, or itself."""
    parts = getattr(datamodule, "datamodules", None)
    return parts if isinstance(parts, Mapping) else {getattr(datamodule, "category", "") or ONLY_CATEGORY: datamodule}


def _seed(model: LightningModule) -> int | None:
    """Return the model's own seed, or else that of Lightning's ``seed_everything``, or else ``None``."""
    seed = model.hparams.get("seed", None)
    seed = os.environ.get("PL_GLOBAL_SEED") if seed is None else seed
    return None if seed is None else int(seed)
