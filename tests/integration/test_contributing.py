# SPDX-License-Identifier: Apache-2.0

"""The recipes of docs/contributing.md, each followed by a throw-away class that anomalib's Engine trains and tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, Split
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from PIL import Image
from torch import nn

from anomalib_crad import Crad
from anomalib_crad.data import MultiCategory
from anomalib_crad.data.sources import select_categories
from anomalib_crad.files import staged_file
from anomalib_crad.metrics import DEFAULT_METRICS, CategoryEvaluator, CategoryMetric, RankedCategory
from anomalib_crad.models.components import FeatureReconstruction, MultiScaleFeatures, ReconstructionModel
from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator

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


class ToyModel(FeatureReconstruction, AnomalibModule):
    """The model of the recipe: one convolution rebuilds the features."""

    architecture_arguments = ("backbone", "layers", "image_size")

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        layers: Sequence[int] = (2, 3),
        image_size: Sequence[int] | None = (64, 64),
        max_epochs: int = 1,
        lr_step: int | None = None,
        seed: int | None = 0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = False,
    ) -> None:
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        features = MultiScaleFeatures(backbone, layers, self.image_size, pre_trained=False, resize_to="coarsest")
        head = nn.Conv2d(features.out_channels, features.out_channels, kernel_size=1)
        self.model: ReconstructionModel = ReconstructionModel(features, head, AnomalyMapGenerator(self.image_size))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.reconstruction.parameters(), lr=1e-3)

    def to_state_dict(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """The export format of the recipe, which a real one would add to ``Exportable``."""
        self._check_before_export()
        path = Path(export_root) / "weights" / "state_dict" / f"{model_file_name}.pth"
        with staged_file(path) as unfinished:
            torch.save(self.model.state_dict(), unfinished)
        return path


class ImageAccuracy(CategoryMetric):
    """The metric of the recipe: the share of images on the right side of the mean score."""

    name = "image_Accuracy"

    def compute(self, category: RankedCategory) -> float:
        scores = np.array([record.score for record in category.records])
        labels = np.array([record.anomalous for record in category.records])
        return float(((scores > scores.mean()) == labels).mean())


def test_a_model_is_one_folder(root: Path, tmp_path: Path) -> None:
    model, engine = ToyModel(), tiny_engine(tmp_path)
    with pytest.raises(ValueError, match="ToyModel"):
        model.to_torch(tmp_path / "exported")
    engine.fit(model, datamodule=Toy(root))
    (means,) = engine.test(model, datamodule=Toy(root))
    assert 0 <= means["image_AUROC"] <= 1
    assert engine.best_model_path is not None
    loaded = ToyModel.load_from_checkpoint(engine.best_model_path)
    torch.testing.assert_close(loaded.model.state_dict(), model.model.state_dict())
    path = engine.export(model, ExportType.TORCH, export_root=tmp_path / "exported")
    assert path is not None
    assert path.is_file()


def test_a_metric_is_one_file(root: Path, tmp_path: Path) -> None:
    model = ToyModel(evaluator=CategoryEvaluator(metrics=[*DEFAULT_METRICS, ImageAccuracy()]))
    engine = tiny_engine(tmp_path)
    engine.fit(model, datamodule=Toy(root))
    engine.test(model, datamodule=Toy(root))
    (table,) = (tmp_path / "results").rglob("category_metrics.csv")
    assert pd.read_csv(table).set_index("category").loc[list(CATEGORIES), "image_Accuracy"].between(0, 1).all()


def test_an_export_format_is_a_method_that_writes_whole_files(root: Path, tmp_path: Path) -> None:
    model, engine = ToyModel(), tiny_engine(tmp_path)
    with pytest.raises(ValueError, match="ToyModel"):
        model.to_state_dict(tmp_path)
    engine.fit(model, datamodule=Toy(root))
    path = model.to_state_dict(tmp_path)
    torch.testing.assert_close(dict(torch.load(path)), dict(model.model.state_dict()))
    assert [each.name for each in path.parent.iterdir()] == ["model.pth"]
