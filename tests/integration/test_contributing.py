# SPDX-License-Identifier: Apache-2.0

"""The recipes of docs/contributing.md, each followed by a throw-away class that anomalib's Engine trains and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, Split
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from PIL import Image

from anomalib_crad import Crad
from anomalib_crad.data import MultiCategory
from anomalib_crad.data.sources import select_categories

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

CATEGORIES = ("disc", "ring")


class Toy(MultiCategory):
    """The datamodule of the recipe: generated images of two categories, labelled by image."""

    def __init__(self, root: Path, category: list[str] | str | None = None) -> None:
        names = select_categories(category, default=CATEGORIES, known=CATEGORIES, where="Toy")
        super().__init__([_ToyCategory(root, name) for name in names])


class _ToyCategory(AnomalibDataModule):
    def __init__(self, root: Path, category: str) -> None:
        super().__init__(4, 4, 0, test_split_mode="from_dir", val_split_mode="same_as_test")
        self.root = root
        self.category = category

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = self._dataset(Split.TRAIN, [LabelName.NORMAL] * 4)
        self.test_data = self._dataset(Split.TEST, [LabelName.NORMAL] * 2 + [LabelName.ABNORMAL] * 2)

    def _dataset(self, split: Split, labels: list[LabelName]) -> AnomalibDataset:
        paths = [str(self.root / self.category / split.value / f"{index}.png") for index in range(len(labels))]
        samples = pd.DataFrame({"image_path": paths, "split": split.value, "mask_path": None})
        samples["label_index"] = [int(label) for label in labels]
        samples.attrs["task"] = TaskType.CLASSIFICATION.value
        dataset = AnomalibDataset()
        dataset.samples = samples
        return dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four noisy images for each set of the toy datamodule, the last two of the test set brighter."""
    rng = np.random.default_rng(0)
    for category in CATEGORIES:
        for split in ("train", "test"):
            folder = tmp_path / "toy" / category / split
            folder.mkdir(parents=True)
            for index in range(4):
                bright = 90 if split == "test" and index > 1 else 0
                pixels = rng.integers(bright, bright + 100, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "toy"


def tiny_engine(tmp_path: Path) -> Engine:
    return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)


def tiny_crad() -> Crad:
    return Crad(
        backbone="tf_efficientnet_lite0",
        pre_trained=False,
        image_size=[64, 64],
        hidden_channels=16,
        num_blocks=1,
        max_epochs=1,
        seed=0,
        visualizer=False,
    )


def test_a_datamodule_is_one_file(root: Path, tmp_path: Path) -> None:
    datamodule = Toy(root)
    assert datamodule.categories == CATEGORIES
    model, engine = tiny_crad(), tiny_engine(tmp_path)
    engine.fit(model, datamodule=datamodule)
    (means,) = engine.test(model, datamodule=datamodule)
    assert 0 <= means["image_AUROC"] <= 1
    (table,) = (tmp_path / "results").rglob("category_metrics.csv")
    assert set(CATEGORIES) <= set(pd.read_csv(table)["category"])
    path = engine.export(model, ExportType.TORCH, export_root=tmp_path / "exported")
    assert path is not None
    assert path.is_file()
