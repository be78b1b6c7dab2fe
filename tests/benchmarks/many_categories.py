# SPDX-License-Identifier: Apache-2.0

"""Cost, memory and accuracy of one CRAD-S against the number of its categories: 1, 2, 4, 6 and 8.

Real categories come first: four products (``--products``, a folder in MVTec AD's layout) and two kinds of solar cells.
Beyond them categories repeat under another name. That adds images and work but nothing to learn, so those settings say
"repeated" and count for cost only. Accuracy is that of the categories that settings share: the first one is in all of
them, so it shows what further categories take away. Run it on a quiet machine::

    python tests/benchmarks/many_categories.py --products ../shared/data

It writes ``many_categories.csv`` and ``many_categories.png``, and prints the table.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table

from anomalib_crad import Crad, Elpv, FeatureCache, MultiCategory, MVTec
from anomalib_crad.files import staged_file
from anomalib_crad.metrics import CategoryEvaluator
from anomalib_crad.post_processing import CategoryPostProcessor

mpl.use("Agg")  # before pyplot: no window is needed
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import AnomalibDataModule
    from lightning.pytorch import LightningModule, Trainer

PRODUCTS = ("bottle", "ksdd", "tire", "juice_bottle")
SOLAR_CELLS = ("mono", "poly")
COUNTS = (1, 2, 4, 6, 8)
OUTPUT = Path(__file__).parents[2] / "docs" / "benchmarks"
#: Widths for EfficientNet-Lite0's 152 channels: as wide in proportion as CRAD-S.
HEAD: dict[str, Any] = {"hidden_channels": 76, "num_blocks": 11}
COLUMNS = (
    "categories",
    "repeated",
    "seed",
    "train_images",
    "steps",
    "step_seconds",
    "train_seconds",
    "first_pass_seconds",
    "cache_mib",
    "thresholds",
    "checkpoint_mib",
    "shared_image_AUROC",
    "shared_pixel_AUROC",
    "mean_image_AUROC",
    "mean_pixel_AUROC",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=Path, required=True, help=f"folder with {', '.join(PRODUCTS)}")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="settings, at most 12 categories")
    parser.add_argument("--epochs", type=int, default=12, help="the same for each setting (default: 12)")
    parser.add_argument("--images", type=int, default=100, help="training images of a solar cell (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of CSV and plot")
    parser.add_argument("--quick", action="store_true", help="two settings, one epoch, a tiny head; nothing is written")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    console = Console()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.counts, options.epochs, options.images = [1, 3], 2, 4
            options.output = Path(folder)
        for seed in options.seeds:
            for count in options.counts:
                console.print(f"[dim]{count} categories, seed {seed}[/dim]")
                rows.append(measure(count, seed, options, Path(folder) / f"{count}-{seed}"))
        console.print(_table(rows))
        _write_csv(options.output / "many_categories.csv", rows)
        plot(options.output / "many_categories.png", rows)


def measure(count: int, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and test one model on a number of categories.

    Args:
        count: Categories.
        seed: Seed of weights and order.
        options: Command-line options.
        folder: Where runs, caches and copies of repeated categories go.

    Returns:
        A row of the table.
    """
    names = [*PRODUCTS, *SOLAR_CELLS]
    repeated = max(count - len(names), 0)
    data = MultiCategory(datamodules=_datamodules(count, options, folder))
    model = Crad(
        backbone="packaged_efficientnet_lite0",
        layers=(2, 3),
        seed=seed,
        evaluator=CategoryEvaluator(validation=False),
        post_processor=CategoryPostProcessor(per_category=True),
        visualizer=False,
        **({"hidden_channels": 8, "num_blocks": 1} if options.quick else HEAD),
    )
    timer, cache = StepTimes(), FeatureCache(folder=folder / "cache")
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[timer, cache],
        max_epochs=options.epochs,
        check_val_every_n_epoch=options.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    engine.fit(model, datamodule=data)
    engine.test(model, datamodule=data)
    report = cast("CategoryEvaluator", model.evaluator).report
    assert report is not None
    shared = next(result for result in report.categories if result.category == names[0])
    size = sum(path.stat().st_size for path in (folder / "cache").iterdir())
    path = folder / "model.ckpt"
    engine.trainer.save_checkpoint(path, weights_only=True)
    # A repeated category is learnt twice and tested twice, which is no setting of its own for accuracy.
    accuracy = {} if repeated else _accuracy(shared.values, report.mean)
    return {
        "categories": count,
        "repeated": repeated,
        "seed": seed,
        "train_images": len(data.train_data),
        "steps": len(timer.seconds),
        "step_seconds": round(statistics.median(timer.seconds), 4),
        "train_seconds": round(sum(timer.seconds), 1),
        "first_pass_seconds": round(timer.first_pass, 1),
        "cache_mib": round(size / 2**20, 1),
        "thresholds": len(report.categories),
        "checkpoint_mib": round(path.stat().st_size / 2**20, 2),
        **accuracy,
    }


class StepTimes(Callback):
    """Seconds of all training steps, and of the pass that fills the cache."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.first_pass = 0.0
        self._begin = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the first pass; the cache's hook comes after this one."""
        self._begin = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it."""
        self.first_pass = time.perf_counter() - self._begin

    def on_train_batch_start(self, *args: object, **kwargs: object) -> None:
        """Start the clock of a step."""
        self._begin = time.perf_counter()

    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._begin)


def _accuracy(shared: dict[str, float], mean: dict[str, float]) -> dict[str, float]:
    names = ("image_AUROC", "pixel_AUROC")
    return {
        f"{of}_{name}": round(values[name], 4)
        for of, values in (("shared", shared), ("mean", mean))
        for name in names
        if name in values
    }


def _datamodules(count: int, options: argparse.Namespace, folder: Path) -> list[AnomalibDataModule]:
    """Datamodules of the first categories; those beyond the real ones are copies of products under another name."""
    sizes: dict[str, Any] = {"train_batch_size": 16, "eval_batch_size": 16, "num_workers": 0}
    products = list(PRODUCTS[:count])
    cells = list(SOLAR_CELLS[: max(count - len(PRODUCTS), 0)])
    copies = PRODUCTS[: max(count - len(PRODUCTS) - len(SOLAR_CELLS), 0)]
    modules: list[AnomalibDataModule] = [MVTec(root=options.products, category=products, **sizes)]
    if cells:
        caps: dict[str, Any] = {"max_train_images": options.images, "max_test_images": options.images}
        modules.append(Elpv(category=cells, **caps, **sizes))
    if copies:
        for name in copies:
            shutil.copytree(options.products / name, folder / "copies" / f"{name}_repeated")
        renamed = [f"{name}_repeated" for name in copies]
        modules.append(MVTec(root=folder / "copies", category=renamed, **sizes))
    return modules


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="one model for many categories")
    for name in COLUMNS:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in COLUMNS))
    return table


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with staged_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw accuracy, seconds of a step and size of the cache against the number of categories.

    Args:
        path: The picture.
        rows: Rows of the table.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    lines = {
        "first category's image AUROC": (axes[0], "shared_image_AUROC"),
        "first category's pixel AUROC": (axes[0], "shared_pixel_AUROC"),
        "seconds of a step": (axes[1], "step_seconds"),
        "cache, MiB": (axes[2], "cache_mib"),
    }
    for label, (axis, column) in lines.items():
        counts = sorted({row["categories"] for row in rows if column in row})
        means = [statistics.mean(row[column] for row in rows if row["categories"] == count) for count in counts]
        axis.plot(counts, means, marker="o", label=label)
    for axis in axes:
        axis.set_xlabel("categories")
        axis.legend()
    for axis in axes[1:]:
        axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
