# SPDX-License-Identifier: Apache-2.0

"""Cost of ``CategoryEvaluator`` and ``CategoryPostProcessor`` beyond inference, on made-up images.

A model that returns ready-made maps is tested without evaluator and with it, and validated without both components and
with them. The differences are the cost of evaluation and of thresholds. The defaults have the size of MVTec AD's test
set. Run it with ``python tests/benchmarks/evaluation.py``.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.models import AnomalibModule
from lightning.pytorch import Trainer
from rich.console import Console
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader
from torchvision.tv_tensors import Mask

from anomalib_crad.metrics import CategoryEvaluator
from anomalib_crad.post_processing import CategoryPostProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

ANOMALOUS_SHARE = 1258 / 1725  # of MVTec AD's test images
PATTERNS = 16


class ReadyMadeMaps(AnomalibDataset):
    """Images that are their own anomaly maps: smooth noise, higher where the mask is.

    Args:
        images: Number of images, shared evenly among the categories.
        size: Height and width.
        categories: Number of categories.
        seed: Seed of the maps.
    """

    def __init__(self, images: int, size: int, categories: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.patterns = [self._paint(rng, size) for _ in range(PATTERNS)]
        names = [f"category_{i * categories // images:03}" for i in range(images)]
        labels = [int(rng.random() < ANOMALOUS_SHARE) for _ in range(images)]
        samples = pd.DataFrame({
            "image_path": [f"{name}/{i:05}.png" for i, name in enumerate(names)],
            "split": "test",
            "label_index": labels,
            "mask_path": ["mask.png" if label else "" for label in labels],
            "category": names,
        })
        samples.attrs["task"] = "segmentation"
        self.frame = samples
        self._samples = samples  # past the setter, which looks for the files

    @staticmethod
    def _paint(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        mask = gaussian_filter(rng.normal(size=(size, size)), size / 20) * size / 20 > 0.45
        noise = gaussian_filter(rng.normal(size=(size, size)), 2) + 0.15 * mask
        return noise.astype(np.float32), mask.astype(np.uint8)

    def __getitem__(self, index: int) -> ImageItem:
        """Return one image with its mask; the same pattern never returns with the same values."""
        sample = self.frame.iloc[index]
        values, mask = self.patterns[index % PATTERNS]
        return ImageItem(
            image=torch.from_numpy(values + np.float32(index * 1e-5)).expand(3, -1, -1),
            gt_mask=Mask(torch.from_numpy(mask * sample.label_index)),
            gt_label=torch.tensor(sample.label_index),
            image_path=sample.image_path,
            mask_path=sample.mask_path,
        )


class ReadyMade(AnomalibModule):
    """A model without inference: its maps come with the images."""

    trainer_arguments: dict[str, Any] = {}  # noqa: RUF012
    learning_type = LearningType.ONE_CLASS

    def test_step(self, batch: Any, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        anomaly_map = batch.image[:, :1]
        return batch.update(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)

    validation_step = test_step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=1725, help="test images, shared evenly among the categories")
    parser.add_argument("--size", type=int, default=224, help="height and width of the maps")
    parser.add_argument("--categories", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    dataset = ReadyMadeMaps(options.images, options.size, options.categories, options.seed)
    loader = DataLoader(dataset, options.batch_size, collate_fn=dataset.collate_fn)
    without, memory_without = run(loader, "test", evaluator=False)
    seconds, memory = run(loader, "test", evaluator=CategoryEvaluator())
    console = Console()
    console.print(f"{options.images} images, {options.size} x {options.size}, {options.categories} categories")
    console.print(f"without evaluator: {without:6.1f} s, peak memory of the process {memory_without:5.2f} GiB")
    console.print(f"with evaluator:    {seconds:6.1f} s, peak memory of the process {memory:5.2f} GiB")
    console.print(f"evaluation:        {seconds - without:6.1f} s, {memory - memory_without:5.2f} GiB more")
    neither, _ = run(loader, "validate", evaluator=False, post_processor=False)
    both, memory = run(loader, "validate", evaluator=CategoryEvaluator(), post_processor=CategoryPostProcessor())
    console.print(
        f"validation:        {both - neither:6.1f} s for evaluator and post-processor, peak {memory:5.2f} GiB"
    )


def run(loader: DataLoader, stage: Literal["test", "validate"], **components: nn.Module | bool) -> tuple[float, float]:
    """Test or validate once.

    Args:
        loader: Dataloader of the images.
        stage: Name of the trainer's method.
        **components: Evaluator and post-processor, or ``False`` for none.

    Returns:
        Seconds that it took, and the peak memory of this process so far in GiB.
    """
    arguments: dict[str, Any] = {"visualizer": False, "pre_processor": False, **components}
    model = ReadyMade(**arguments)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        begin = time.perf_counter()
        getattr(trainer, stage)(model, loader)
        seconds = time.perf_counter() - begin
    units_per_gib = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_gib


if __name__ == "__main__":
    main()
