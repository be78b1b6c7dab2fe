# SPDX-License-Identifier: Apache-2.0

"""Compares a trained Crad with nearest neighbours: reconstruction, features and pooling, one at a time.

Both use the same features of the same images, and both maps are pooled in the same ways. Pass a config of the benchmark
and the models that the benchmark exported (``model.pt`` in the folders of its cells):
``python tests/benchmarks/nearest_neighbour.py --config configs/benchmark.yaml --dataset solar_cells MODEL.pt ...``.
"""

from __future__ import annotations

import argparse
import csv
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from anomalib.data import get_datamodule
from random_crad import preprocessed
from rich.console import Console
from torch.nn import functional

from anomalib_crad.benchmark.cells import CELL_NAME
from anomalib_crad.benchmark.plan import read_plan
from anomalib_crad.metrics.ranking import auroc
from anomalib_crad.models.components.scoring import enlarge, feature_distance, image_score, smooth
from anomalib_crad.recording.categories import CategoryLookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomalib.data import AnomalibDataModule
    from torch.utils.data import DataLoader

    from anomalib_crad import Crad
    from anomalib_crad.models.crad.anomaly_map import AnomalyMapGenerator

#: Smoothing window and score window, in pixels.
POOLINGS = {"as Crad": (21, 32), "window of 32": (1, 32), "window of 16": (1, 16), "maximum": (1, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="exported PyTorch models of Crad")
    parser.add_argument("--config", type=Path, required=True, help="config of the benchmark")
    parser.add_argument("--dataset", required=True, help="name of a dataset in it")
    parser.add_argument("--entries", type=int, default=20_000, help="patches in the memory of nearest neighbours")
    parser.add_argument("--output", type=Path, help="CSV file of all figures")
    options = parser.parse_args(arguments)

    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    plan = read_plan(options.config).datasets[options.dataset]
    datamodule = get_datamodule({"data": {"class_path": plan.class_path, "init_args": plan.init_args}})
    datamodule.setup()
    console = Console()
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(options.models):
        model: Crad = torch.load(path, weights_only=False)["model"].eval()  # our own export
        # Nearest neighbours depend on the backbone, which all models share.
        ways = crad_ways(model) | ({} if number else neighbour_ways(model, datamodule, options.entries))
        for row in measure(model, ways, datamodule):
            rows.append({"model": cell_of(path), **row})
            console.print(rows[-1], soft_wrap=True)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def cell_of(path: Path) -> str:
    """Return the name of the benchmark's cell that exported a model, or its path.

    Args:
        path: The model.
    """
    cells = (parent.name for parent in path.resolve().parents if (parent / CELL_NAME).is_file())
    return next(cells, str(path))


def crad_ways(model: Crad) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Maps of a trained model, by name.

    Args:
        model: The model.

    Returns:
        Functions from features, B x C x H x W, to distances, B x 1 x H x W.
    """
    head = model.model.reconstruction

    def distance(features: torch.Tensor, refinement: bool) -> torch.Tensor:
        head.refinement = refinement
        return feature_distance(features, head(features))

    return {
        "Crad": lambda features: distance(features, refinement=True),
        "Crad, before refinement": lambda features: distance(features, refinement=False),
    }


def neighbour_ways(
    model: Crad, datamodule: AnomalibDataModule, entries: int
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Maps of nearest neighbours, on features as they are and averaged over 3 x 3 positions as PatchCore does.

    Args:
        model: The model whose features are taken.
        datamodule: Its training images fill the memory.
        entries: Patches that are kept, drawn at random.

    Returns:
        Functions from features, B x C x H x W, to distances, B x 1 x H x W.
    """
    features = torch.cat([extracted for extracted, _, _ in _features(model, datamodule.train_dataloader(), datamodule)])
    chosen = torch.randperm(features[:, 0].numel(), generator=torch.Generator().manual_seed(0))[:entries]

    def way(prepare: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        memory = _patches(prepare(features))[chosen]

        def distance(images: torch.Tensor) -> torch.Tensor:
            nearest = torch.stack([torch.cdist(_patches(image[None]), memory).amin(dim=1) for image in prepare(images)])
            return nearest.view(len(images), 1, *images.shape[2:])

        return distance

    return {
        "nearest neighbour": way(lambda values: values),
        "nearest neighbour of 3 x 3 means": way(lambda values: functional.avg_pool2d(values, 3, stride=1, padding=1)),
    }


def measure(
    model: Crad, ways: dict[str, Callable[[torch.Tensor], torch.Tensor]], datamodule: AnomalibDataModule
) -> Iterator[dict[str, Any]]:
    """Measure image AUROC of each map in each pooling.

    Args:
        model: The model whose features are taken.
        ways: Maps by name.
        datamodule: Its test images are taken.

    Yields:
        A row of the table: the AUROC of each category, and their mean.
    """
    size = cast("AnomalyMapGenerator", model.model.anomaly_map_generator).image_size
    maps: dict[str, list[torch.Tensor]] = {name: [] for name in ways}
    labels: list[bool] = []
    categories: list[str] = []
    for features, batch_labels, batch_categories in _features(model, datamodule.test_dataloader(), datamodule):
        labels += batch_labels
        categories += batch_categories
        with torch.inference_mode():
            for name, way in ways.items():
                maps[name].append(way(features))
    anomalous, of = np.array(labels), np.array(categories)
    for name, parts in maps.items():
        enlarged = enlarge(torch.cat(parts), size)
        for pooling, (smoothing, window) in POOLINGS.items():
            scores = image_score(smooth(enlarged, smoothing), window).numpy()
            found = {category: auroc(scores[of == category], anomalous[of == category]) for category in np.unique(of)}
            values = {**found, "mean": float(np.mean(list(found.values())))}
            yield {"map": name, "pooling": pooling, **{column: round(value, 4) for column, value in values.items()}}


def _features(
    model: Crad, dataloader: DataLoader, datamodule: AnomalibDataModule
) -> Iterator[tuple[torch.Tensor, list[bool], list[str]]]:
    """Yield features, labels and categories batch by batch."""
    category = CategoryLookup(dataloader, datamodule)
    for batch in dataloader:
        with torch.inference_mode():
            features = model.model.feature_extractor(preprocessed(model, batch.image)).clone()
        yield features, batch.gt_label.tolist(), [category(path) for path in batch.image_path]


def _patches(features: torch.Tensor) -> torch.Tensor:
    """Features, B x C x H x W, as rows, (B * H * W) x C."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


if __name__ == "__main__":
    main()
