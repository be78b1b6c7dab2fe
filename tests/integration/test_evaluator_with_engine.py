# SPDX-License-Identifier: Apache-2.0

"""``CategoryEvaluator`` in anomalib's Engine, with one of anomalib's own models on two small made-up categories.

The expected numbers come from a second way: the inner model applied to each image by hand, scikit-learn, and for AUPRO
anomalib.
"""

import copy
import csv
import io
import json
import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, Evaluator
from anomalib.models import AnomalibModule, Padim
from anomalib.pipelines.benchmark.job import BenchmarkJob
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import multiprocessing
from torch.overrides import TorchFunctionMode
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_crad.metrics import DEFAULT_METRICS, CategoryEvaluator, CategoryMetric, RankedCategory
from anomalib_crad.post_processing import CategoryPostProcessor
from anomalib_crad.recording import PredictionRecorder

SIZE = 64
TRANSFORM = Compose([Resize((SIZE, SIZE)), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
CATEGORIES = ("bolt", "nut")
FOUR_NAMES = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}


class TwoCategories(AnomalibDataModule):
    """Two categories in one datamodule, told apart by a column of the samples."""

    def __init__(self, frame: pd.DataFrame) -> None:
        super().__init__(4, 3, 0, val_split_mode="same_as_test", test_split_mode="from_dir")
        self.frame = frame

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data, self.test_data = (make_dataset(self.frame, split) for split in ("train", "test"))


def make_dataset(frame: pd.DataFrame, split: str) -> AnomalibDataset:
    samples = frame[frame.split == split].reset_index(drop=True)
    samples.attrs = dict(frame.attrs)
    dataset = AnomalibDataset()
    dataset.samples = samples
    return dataset


def paint(rng: np.random.Generator, category: str, *, anomalous: bool) -> tuple[np.ndarray, np.ndarray]:
    image = rng.integers(90, 130, (SIZE, SIZE, 3)) + (40 if category == "nut" else 0)
    mask = np.zeros((SIZE, SIZE), bool)
    if anomalous:
        row, column = rng.integers(8, SIZE - 24, 2)
        mask[row : row + 12, column : column + 12] = True
        image[mask] += rng.integers(-45, 45, 3)
    return image.astype(np.uint8), mask


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Write the images and return their samples."""
    rng = np.random.default_rng(5)
    root = tmp_path_factory.mktemp("products")
    rows = []
    for category in CATEGORIES:
        for split, label, count in (("train", 0, 6), ("test", 0, 5), ("test", 1, 5)):
            for number in range(count):
                image, mask = paint(rng, category, anomalous=bool(label))
                path = root / f"{category}_{split}_{label}_{number}.png"
                Image.fromarray(image).save(path)
                mask_path = path.with_name(f"mask_{path.name}") if label else ""
                if label:
                    Image.fromarray(mask).save(mask_path)
                rows.append((str(path), split, label, str(mask_path), category))
    frame = pd.DataFrame(rows, columns=["image_path", "split", "label_index", "mask_path", "category"])
    frame.attrs["task"] = "segmentation"
    return frame


def make_model(model_class: type[Padim] = Padim, **arguments: Any) -> Padim:  # noqa: ANN401
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "evaluator": CategoryEvaluator(),
        "visualizer": False,
        "pre_processor": PreProcessor(TRANSFORM),
    }
    return model_class(backbone="resnet18", pre_trained=False, n_features=20, **(values | arguments))


def make_engine(folder: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    return Engine(default_root_dir=folder, accelerator="cpu", **({"enable_progress_bar": False} | arguments))


def evaluator_of(model: AnomalibModule) -> CategoryEvaluator:
    assert isinstance(model.evaluator, CategoryEvaluator)
    return model.evaluator


def recorders_of(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, PredictionRecorder)]


def expected_values(model: Padim, dataset: AnomalibDataset) -> dict[str, float]:
    """Measure each category from predictions made by hand."""
    model.eval()
    values: dict[str, float] = {}
    for category in CATEGORIES:
        items: list[Any] = [dataset[int(i)] for i in np.flatnonzero(dataset.samples.category == category)]
        images = torch.stack([item.image for item in items])
        with torch.no_grad():
            prediction = model.model(TRANSFORM(images))
        labels = np.array([bool(item.gt_label) for item in items])
        masks = torch.stack([item.gt_mask for item in items])
        seven = ranking_metrics("image", labels, prediction.pred_score.ravel().numpy())
        seven |= ranking_metrics("pixel", masks.numpy().astype(bool).ravel(), prediction.anomaly_map.ravel().numpy())
        seven["pixel_AUPRO"] = anomalibs_aupro(prediction.anomaly_map, masks)
        values |= {f"{name}/{category}": value for name, value in seven.items()}
        values[f"mAD/{category}"] = sum(seven.values()) / 7
    return values


def ranking_metrics(level: str, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {
        f"{level}_AUROC": roc_auc_score(labels, scores),
        f"{level}_AP": average_precision_score(labels, scores),
        f"{level}_F1Max": float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))),
    }


def anomalibs_aupro(maps: torch.Tensor, masks: torch.Tensor) -> float:
    metric = AUPRO(fields=["anomaly_map", "gt_mask"])
    batch: Any = SimpleNamespace(anomaly_map=maps, gt_mask=masks)
    metric.update(batch)
    return float(metric.compute())


@pytest.fixture(scope="module")
def trained(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Padim:
    """A model after one run; tests that change it take a copy."""
    model = make_model()
    make_engine(tmp_path_factory.mktemp("run"), logger=False).fit(model, datamodule=TwoCategories(frame))
    return model


def fresh(trained: Padim, evaluator: CategoryEvaluator | bool | None = None) -> Padim:
    model = make_model(evaluator=CategoryEvaluator() if evaluator is None else evaluator)
    model.load_state_dict(trained.state_dict(), strict=False)
    return model


def test_train_ends_with_table_file_and_anomalibs_four_names(
    frame: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, datamodule = make_model(), TwoCategories(frame)
    engine = make_engine(tmp_path)
    (returned,) = engine.train(model, datamodule=datamodule)
    report = evaluator_of(model).report
    assert report is not None

    expected = expected_values(model, datamodule.test_data)
    assert report.per_category == pytest.approx(expected, abs=1e-6)
    assert 0 < report.mean["image_AUROC"] < 1, "a perfect score would prove nothing"
    assert set(returned) == FOUR_NAMES
    assert len(report.mean) == 8
    for name in ("image_AUROC", "pixel_AUROC"):
        assert returned[name] == pytest.approx(report.mean[name], abs=1e-6)

    table = capsys.readouterr().out
    assert "Test metrics per category, on raw scores" in table
    assert all(f"{value:.4f}" in table for value in (*report.per_category.values(), *report.mean.values()))

    with (Path(engine.trainer.default_root_dir) / "category_metrics.csv").open(encoding="utf-8") as file:
        rows = {
            row.pop("category"): {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        }
    assert list(rows) == [*CATEGORIES, "mean", "pooled"]
    assert rows["mean"] == report.mean
    assert {f"pooled/{name}": value for name, value in rows["pooled"].items()} == report.pooled_values
    assert rows["bolt"] == {name: report.per_category[f"{name}/bolt"] for name in report.mean}


def test_the_json_file_tells_how_the_numbers_came_about(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    model, engine = fresh(trained), make_engine(tmp_path, max_epochs=1)
    engine.test(model, datamodule=TwoCategories(frame))
    path = Path(engine.trainer.default_root_dir) / "category_metrics.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    report = evaluator_of(model).report
    assert report is not None
    assert results["metrics"] == report.to_dict()
    assert results["model"]["class"] == "anomalib.models.image.padim.lightning_model.Padim"
    assert results["model"]["hyper_parameters"]["n_features"] == 20
    assert results["data"]["class"].endswith(".TwoCategories")
    assert results["data"]["eval_batch_size"] == 3
    assert results["data"]["images"]["test"] == {"bolt": 10, "nut": 10}
    assert results["trainer"]["max_epochs"] == 1
    assert results["seed"] == 7
    assert results["versions"].keys() == {"python", "anomalib_crad", "anomalib", "torch", "timm", "lightning"}
    assert all(results["versions"].values())
    assert results["time"]["test_seconds"] > 0
    assert datetime.fromisoformat(results["time"]["finished"]).tzinfo is not None


def test_a_models_own_seed_is_the_one_in_the_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    model, engine = make_model(SeededPadim), make_engine(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "7")
        engine.train(model, datamodule=TwoCategories(frame))
    path = Path(engine.trainer.default_root_dir) / "category_metrics.json"
    assert json.loads(path.read_text(encoding="utf-8"))["seed"] == 11


class SeededPadim(Padim):
    """PaDiM with a seed among its hyper-parameters."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.hparams["seed"] = 11


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_test_logs_the_same_names_as_anomalibs_evaluator(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
    task: str,
) -> None:
    frame = frame if task == "segmentation" else frame.assign(mask_path="")
    frame.attrs["task"] = task
    rows = []
    for evaluator in (True, CategoryEvaluator()):
        (returned,) = make_engine(tmp_path).test(fresh(trained, evaluator), datamodule=TwoCategories(frame))
        rows.append({"accelerator": "cpu", **returned})
    for ordered in (rows, rows[::-1]):
        table = BenchmarkJob.collect(ordered)
        assert len(table) == 2
        assert not table.isna().any().any()


class Watch(Callback):
    """Notes which categories' images wait to be measured when a batch begins."""

    def __init__(self) -> None:
        self.waiting: list[list[str]] = []

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self.waiting.append(list(PredictionRecorder.of(trainer)._waiting))


def test_a_category_waits_for_its_own_images_only(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    watch = Watch()
    model, datamodule = fresh(trained), TwoCategories(frame)
    make_engine(tmp_path, callbacks=[watch]).test(model, datamodule=datamodule)
    # 10 images each, in batches of 3.
    assert watch.waiting == [[], ["bolt"], ["bolt"], ["bolt"], ["nut"], ["nut"], ["nut"]]
    report = evaluator_of(model).report
    assert report is not None
    assert report.per_category == pytest.approx(expected_values(model, datamodule.test_data), abs=1e-6)


def test_a_category_without_test_images_is_named(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without = frame[(frame.category != "nut") | (frame.split == "train")]
    model = fresh(trained)
    make_engine(tmp_path).test(model, datamodule=TwoCategories(without))
    report = evaluator_of(model).report
    assert report is not None
    assert [(result.category, result.normal + result.anomalous) for result in report.categories] == [
        ("bolt", 10),
        ("nut", 0),
    ]
    assert "pixel_AUPRO do not exist for nut: no image was tested." in " ".join(capsys.readouterr().out.split())


def test_a_post_processor_that_clamps_does_not_change_the_ranking(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
) -> None:
    def clamp_everything(model: Padim) -> Padim:
        # Above every maximum the post-processor gives 1: all scores and all pixels are tied.
        post_processor: Any = model.post_processor
        for level in ("image", "pixel"):
            for name, value in ((f"{level}_min", -2.0), (f"{level}_max", -1.0), (f"_{level}_threshold", -1.5)):
                getattr(post_processor, name).fill_(value)
        return model

    datamodule = TwoCategories(frame)
    ours, theirs = clamp_everything(fresh(trained)), clamp_everything(fresh(trained, evaluator=True))
    (their_values,) = make_engine(tmp_path).test(theirs, datamodule=datamodule)
    (our_values,) = make_engine(tmp_path).test(ours, datamodule=datamodule)

    assert their_values["image_AUROC"] == their_values["pixel_AUROC"] == pytest.approx(0.5)
    report = evaluator_of(ours).report
    assert report is not None
    assert report.per_category == pytest.approx(expected_values(ours, datamodule.test_data), abs=1e-6)
    assert our_values["image_AUROC"] != pytest.approx(0.5, abs=0.01)
    assert our_values["image_F1Score"] == their_values["image_F1Score"]


def test_without_masks_there_are_no_pixel_metrics(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    classification = frame.assign(mask_path="")
    classification.attrs["task"] = "classification"
    (returned,) = make_engine(tmp_path).test(fresh(trained), datamodule=TwoCategories(classification))
    assert set(returned) == {"image_AUROC", "image_F1Score"}
    said = " ".join(capsys.readouterr().out.split())
    assert "pixel_AUROC, pixel_AP, pixel_F1Max, pixel_AUPRO do not exist for bolt, nut: no image has a mask." in said


def test_validation_logs_means_of_raw_scores(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    model, datamodule = fresh(trained), TwoCategories(frame)
    (values,) = make_engine(tmp_path).validate(model, datamodule=datamodule) or []
    expected = expected_values(model, datamodule.val_data)
    for name in ("image_AUROC", "pixel_AUROC"):
        assert values[name] == pytest.approx(np.mean([expected[f"{name}/{c}"] for c in CATEGORIES]), abs=1e-6)
    assert set(values) == {"image_AUROC", "pixel_AUROC"}
    assert evaluator_of(model).report is None, "a report is the result of a test"


def test_validation_can_be_switched_off(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    model = fresh(trained, CategoryEvaluator(validation=False))
    assert make_engine(tmp_path).validate(model, datamodule=TwoCategories(frame)) == [{}]


class CheckedPadim(Padim):
    """PaDiM with a sanity check, in which it answers with arbitrary scores, as it is not fitted yet."""

    trainer_arguments = {"max_epochs": 1, "num_sanity_val_steps": 2, "devices": 1}  # noqa: RUF012

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking:
            super().on_validation_start()

    def validation_step(self, batch: Any, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        if self.trainer.sanity_checking:
            return batch.update(pred_score=torch.arange(float(len(batch.image))))
        return super().validation_step(batch, *args, **kwargs)


class Witness(Callback):
    """Remembers what is logged when the sanity check ends."""

    seen: dict[str, torch.Tensor] | None = None

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = dict(trainer.callback_metrics)


def test_a_sanity_check_logs_nothing_and_the_epoch_after_it_everything(frame: pd.DataFrame, tmp_path: Path) -> None:
    witness = Witness()
    engine = make_engine(tmp_path, callbacks=[witness])
    engine.fit(make_model(CheckedPadim), datamodule=TwoCategories(frame))
    assert witness.seen == {}
    assert {"image_AUROC", "pixel_AUROC"} <= set(engine.trainer.callback_metrics)


def test_dataloaders_need_no_datamodule(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    model, dataset = fresh(trained), make_dataset(frame, "test")
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=dataset.collate_fn)
    make_engine(tmp_path).test(model, dataloaders=loader)
    report = evaluator_of(model).report
    assert report is not None
    assert report.per_category == pytest.approx(expected_values(model, dataset), abs=1e-6)


def test_fast_dev_run_leaves_no_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    model = make_model()
    engine = make_engine(tmp_path, fast_dev_run=True)
    engine.fit(model, datamodule=TwoCategories(frame))
    engine.trainer.test(model, datamodule=TwoCategories(frame))
    assert evaluator_of(model).report is not None
    assert not list(tmp_path.rglob("*.csv"))


def test_barebones_keeps_what_a_test_measures(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    model, engine = fresh(trained), make_engine(tmp_path, barebones=True)
    engine.test(model, datamodule=TwoCategories(frame))
    measured = {name: float(value) for name, value in engine.trainer.callback_metrics.items()}
    report = evaluator_of(model).report
    assert report is not None
    assert set(measured) == FOUR_NAMES
    for name in ("image_AUROC", "pixel_AUROC"):
        assert measured[name] == pytest.approx(report.mean[name])


def test_loggers_get_every_category_all_means_and_the_pooled_metrics(
    frame: pd.DataFrame, trained: Padim, tmp_path: Path
) -> None:
    csv_logger = CSVLogger(tmp_path)
    model = fresh(trained)
    make_engine(tmp_path, logger=csv_logger).test(model, datamodule=TwoCategories(frame))
    logged = pd.read_csv(Path(csv_logger.log_dir) / "metrics.csv").max().to_dict()
    report = evaluator_of(model).report
    assert report is not None
    expected = report.per_category | report.mean | report.pooled_values
    assert {"image_AUROC/bolt", "mAD", "pixel_AUPRO", "image_AUROC", "pooled/image_F1Max"} <= set(expected)
    assert {name: logged[name] for name in expected} == pytest.approx(expected)


def test_a_quiet_test_prints_no_table(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_engine(tmp_path).test(fresh(trained), datamodule=TwoCategories(frame), verbose=False)
    assert "category" not in capsys.readouterr().out
    assert list(tmp_path.rglob("category_metrics.csv"))


def test_a_file_that_cannot_be_written_costs_no_metric(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine(tmp_path)
    model = fresh(trained)
    engine.test(model, datamodule=TwoCategories(frame))
    path = Path(engine.trainer.default_root_dir) / "category_metrics.csv"
    path.unlink()
    path.mkdir()
    (returned,) = engine.test(model, datamodule=TwoCategories(frame))
    assert set(returned) == FOUR_NAMES
    assert f"Could not write {path}" in caplog.text
    assert path.with_suffix(".json").is_file()


def test_a_second_test_starts_anew_and_nothing_stays_behind(
    frame: pd.DataFrame,
    trained: Padim,
    tmp_path: Path,
) -> None:
    model, engine = fresh(trained), make_engine(tmp_path)
    reports = []
    for _ in range(2):
        engine.test(model, datamodule=TwoCategories(frame))
        reports.append(evaluator_of(model).report)
    assert reports[0] == reports[1]
    assert len(pickled(evaluator_of(model))) < 20_000, "an export would carry pixels along"
    assert evaluator_of(copy.deepcopy(model)).report == reports[0]
    assert not recorders_of(engine.trainer)


def pickled(evaluator: CategoryEvaluator) -> bytes:
    alone = copy.copy(evaluator)
    alone.__dict__.pop("log", None)  # Lightning's own reference from each callback to the whole model
    alone.__dict__.pop("log_dict", None)
    buffer = io.BytesIO()
    torch.save(alone, buffer)
    return buffer.getvalue()


def test_an_error_in_the_middle_leaves_nothing_behind(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    model, engine = fresh(trained), make_engine(tmp_path)

    def fail(batch: object, batch_idx: int, *_: object) -> object:
        if batch_idx == 2:
            msg = "out of memory"
            raise RuntimeError(msg)
        return Padim.test_step(model, batch, batch_idx)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "test_step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.test(model, datamodule=TwoCategories(frame))
    assert not recorders_of(engine.trainer)
    assert evaluator_of(model)._evaluation.report().categories == ()

    (returned,) = make_engine(tmp_path).test(model, datamodule=TwoCategories(frame))
    assert set(returned) == FOUR_NAMES


def test_a_tested_model_exports_to_torch(frame: pd.DataFrame, trained: Padim, tmp_path: Path) -> None:
    model, engine = fresh(trained), make_engine(tmp_path)
    engine.test(model, datamodule=TwoCategories(frame))
    path = engine.export(model, ExportType.TORCH, export_root=tmp_path)
    assert path is not None
    loaded = torch.load(path, weights_only=False)["model"]
    assert evaluator_of(loaded).report == evaluator_of(model).report


@pytest.mark.parametrize("class_path", ["anomalib_crad.metrics.CategoryEvaluator", "CategoryEvaluator"])
def test_yaml_takes_the_class_path_and_the_name(tmp_path: Path, class_path: str) -> None:
    config = tmp_path / "model.yaml"
    config.write_text(
        "model:\n  class_path: anomalib.models.Padim\n  init_args:\n    pre_trained: false\n"
        f"    evaluator:\n      class_path: {class_path}\n"
        "      init_args:\n        validation: false\n",
        encoding="utf-8",
    )
    assert evaluator_of(AnomalibModule.from_config(config)).validation is False


class BrightSpots(AnomalibModule):
    """Scores brightness, so that an image's scores do not depend on its batch."""

    def __init__(self, **components: Any) -> None:  # noqa: ANN401
        defaults: dict[str, Any] = {"evaluator": CategoryEvaluator(), "visualizer": False, "pre_processor": False}
        super().__init__(**(defaults | components))
        post_processor: Any = self.post_processor
        for level in ("image", "pixel"):
            for name, value in ((f"{level}_min", 0.0), (f"{level}_max", 1.0), (f"_{level}_threshold", 0.45)):
                getattr(post_processor, name).fill_(value)

    trainer_arguments = {}  # noqa: RUF012
    learning_type = LearningType.ONE_CLASS

    def test_step(self, batch: Any, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        anomaly_map = batch.image.mean(dim=1, keepdim=True)
        return batch.update(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)

    validation_step = test_step


class PreciseSpots(BrightSpots):
    """Its maps, and nothing else, are of double precision, so that each way to the CPU has to convert them."""

    def validation_step(self, batch: Any, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        batch = self.test_step(batch)
        vars(batch)["anomaly_map"] = batch.anomaly_map.double()  # past the batch's check, which would convert it
        return batch


class CopyCounter(TorchFunctionMode):
    """Counts the calls that convert or copy maps of double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401, D105, PLW3201
        name = getattr(func, "__name__", "")
        if name in {"to", "cpu", "clone", "float", "numpy", "tolist"}:
            tensor = args[0]
            if tensor.dtype == torch.float64 and tensor.shape[-2:] == (SIZE, SIZE):
                self.calls[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("components", "copies"),
    [
        ({"evaluator": CategoryEvaluator(), "post_processor": CategoryPostProcessor(per_category=True)}, 1),
        ({"evaluator": CategoryEvaluator(validation=False), "post_processor": CategoryPostProcessor()}, 1),
        ({"evaluator": Evaluator(), "post_processor": CategoryPostProcessor()}, 1),
        ({"evaluator": CategoryEvaluator(), "post_processor": PostProcessor()}, 1),
        ({"evaluator": CategoryEvaluator(validation=False), "post_processor": PostProcessor()}, 0),
    ],
    ids=["both", "the post-processor", "the post-processor alone", "the evaluator alone", "neither"],
)
def test_a_validation_copies_each_map_once(
    frame: pd.DataFrame, tmp_path: Path, components: dict[str, Any], copies: int
) -> None:
    model, engine = PreciseSpots(**components), make_engine(tmp_path)
    with CopyCounter() as counter:
        engine.validate(model, datamodule=TwoCategories(frame))
    batches = 7  # 20 images in batches of 3
    assert counter.calls.total() == copies * batches
    assert not recorders_of(engine.trainer)


def test_what_both_find_is_what_each_finds_alone(frame: pd.DataFrame, tmp_path: Path) -> None:
    def run(**components: Any) -> tuple[Any, Any, list[Any]]:  # noqa: ANN401
        model, engine, datamodule = BrightSpots(**components), make_engine(tmp_path), TwoCategories(frame)
        values = engine.validate(model, datamodule=datamodule)
        engine.test(model, datamodule=datamodule)
        assert not recorders_of(engine.trainer)
        return model.evaluator, model.post_processor, [values]

    both = run(post_processor=CategoryPostProcessor(per_category=True))
    evaluator, _, values = run(post_processor=PostProcessor())
    _, post_processor, _ = run(evaluator=Evaluator(), post_processor=CategoryPostProcessor(per_category=True))
    assert both[0].report == evaluator.report
    assert both[1].thresholds == post_processor.thresholds
    assert both[1].report == post_processor.report
    assert set(both[1].thresholds.categories) == set(CATEGORIES)
    assert both[2] == values


class Copier(Callback):
    """Copies the model in the middle of an epoch, as exponential moving averages do."""

    copied: AnomalibModule | None = None

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        assert isinstance(pl_module, AnomalibModule)
        self.copied = copy.deepcopy(pl_module)


def test_a_copy_in_the_middle_of_an_epoch_holds_no_dataset_and_no_map(frame: pd.DataFrame, tmp_path: Path) -> None:
    copier = Copier()
    model = BrightSpots(post_processor=CategoryPostProcessor())
    make_engine(tmp_path, callbacks=[copier]).validate(model, datamodule=TwoCategories(frame))
    assert copier.copied is not None
    for component in (copier.copied.evaluator, copier.copied.post_processor):
        assert component is not None
        found = {type(value).__name__ for value in vars(component).values()}
        assert not found & {"PredictionRecorder", "CategoryLookup", "SampleOrder", "ImageRecord"}
    assert all(image.anomaly_map is None for image in evaluator_of(copier.copied)._evaluation._images)


class Brightest(CategoryMetric):
    """The highest image score of a category."""

    name = "image_Highest"

    def compute(self, category: RankedCategory) -> float:
        return max(record.score for record in category.records if record.score is not None)


def test_a_metric_of_ones_own_reaches_loggers_and_files_but_not_the_four_names(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    csv_logger = CSVLogger(tmp_path)
    model = BrightSpots(evaluator=CategoryEvaluator(metrics=[*DEFAULT_METRICS, Brightest()]))
    engine = make_engine(tmp_path, logger=csv_logger)
    (returned,) = engine.test(model, datamodule=TwoCategories(frame))
    assert set(returned) == FOUR_NAMES
    report = evaluator_of(model).report
    assert report is not None
    logged = pd.read_csv(Path(csv_logger.log_dir) / "metrics.csv").max().to_dict()
    for name in ("image_Highest", "image_Highest/bolt", "mAD"):
        assert logged[name] == pytest.approx((report.mean | report.per_category)[name])
    text = (Path(engine.trainer.default_root_dir) / "category_metrics.csv").read_text(encoding="utf-8")
    assert text.startswith("category,image_AUROC,")
    assert "mAD,image_Highest" in text
    (validated,) = engine.validate(model, datamodule=TwoCategories(frame)) or []
    assert set(validated) == {"image_AUROC", "pixel_AUROC"}, "a validation has to be cheap"


def measure(frame: pd.DataFrame, folder: Path, processes: int = 1) -> dict[str, Any]:
    """Test the images of a frame; return what this process has in the end."""
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
    )
    model = BrightSpots()
    trainer.test(model, datamodule=TwoCategories(frame))
    report = evaluator_of(model).report
    assert report is not None
    return {"report": report.to_dict(), "logged": {k: float(v) for k, v in trainer.callback_metrics.items()}}


def take_part(rank: int, frames: list[pd.DataFrame], folder: Path, port: int) -> None:
    """Take part in one test after the other; write down what this process has in the end of each."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    results = [measure(frame, folder / str(i), processes=2) for i, frame in enumerate(frames)]
    (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")


def test_two_processes_find_what_one_finds(frame: pd.DataFrame, tmp_path: Path) -> None:
    # 19 test images, so that one process repeats one, and a category of which the other has none.
    odd = frame.drop(index=frame.index[-1])
    odd.loc[odd[(odd.split == "test") & (odd.label_index == 1)].index[0], "category"] = "washer"
    # One image, so that one process has nothing but a repetition.
    tested = frame[(frame.split == "test") & (frame.label_index == 0)]
    single = frame.drop(index=frame[frame.split == "test"].index.difference(tested.index[:1]))
    frames = [odd, single]

    multiprocessing.spawn(take_part, (frames, tmp_path, find_free_network_port()), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    assert first == second
    for number, (two, images) in enumerate(zip(first, frames, strict=True)):
        one = measure(images, tmp_path / "one" / str(number))
        assert set(two["logged"]) == set(one["logged"])
        assert two["logged"] == pytest.approx(one["logged"], abs=1e-6)
        assert two["report"]["mean"] == pytest.approx(one["report"]["mean"], abs=1e-9)
        assert two["report"]["pooled"] == approximately(one["report"]["pooled"])
        assert two["report"]["categories"].keys() == one["report"]["categories"].keys()
        for name, category in one["report"]["categories"].items():
            assert two["report"]["categories"][name] == approximately(category)
    assert set(first[0]["logged"]) == FOUR_NAMES
    assert all(0 < value < 1 for value in first[0]["logged"].values()), "a perfect score would prove nothing"
    assert len(list(tmp_path.glob("[01]/category_metrics.*"))) == 4


def approximately(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "values": pytest.approx(result["values"], abs=1e-9)}
