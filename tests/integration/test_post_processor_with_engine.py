# SPDX-License-Identifier: Apache-2.0

"""``CategoryPostProcessor`` in anomalib's Engine: Crad on two made-up categories, from training to the exported file.

The expected labels come from a second way: the inner model applied by hand, and the thresholds that were found.
"""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import PredictDataset
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, Padim
from anomalib.post_processing import PostProcessor

from anomalib_crad import Crad, MVTec
from anomalib_crad.export import read_thresholds, write_thresholds
from anomalib_crad.post_processing import CategoryPostProcessor

pytestmark = pytest.mark.slow

CATEGORIES = ("blue", "green")
FOUR_NAMES = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "layers": ["layer1", "layer2"],
    "pre_trained": False,
    "image_size": (32, 32),
    "num_blocks": 1,
    "hidden_channels": 8,
    "seed": 0,
}


def make_model(post_processor: PostProcessor | bool | None = None, **arguments: Any) -> Crad:  # noqa: ANN401
    chosen = CategoryPostProcessor(per_category=True) if post_processor is None else post_processor
    return Crad(**(SMALL | {"visualizer": False, "post_processor": chosen} | arguments))


def make_engine(folder: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    values: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=folder, **(values | arguments))


def post_processor_of(model: AnomalibModule) -> CategoryPostProcessor:
    assert isinstance(model.post_processor, CategoryPostProcessor)
    return model.post_processor


@pytest.fixture(scope="module")
def datamodule(tiny_root: Path) -> MVTec:
    return MVTec(root=tiny_root, category=[*CATEGORIES], train_batch_size=4, eval_batch_size=3, num_workers=0)


@pytest.fixture(scope="module")
def trained(datamodule: MVTec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Crad, Path, Path]:
    """Model, checkpoint and folder of one run; tests that change the model take a copy."""
    model, engine = make_model(), make_engine(tmp_path_factory.mktemp("run"), max_epochs=2)
    engine.train(model, datamodule=datamodule)
    checkpoint = Path(engine.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    return model, checkpoint, Path(engine.trainer.default_root_dir)


def raw_scores(model: AnomalibModule, datamodule: MVTec) -> list[tuple[str, bool, float]]:
    """Category, label and raw score of each test image, by hand."""
    model.eval()
    dataset: Any = datamodule.test_data
    found = []
    for i in range(len(dataset)):
        item = dataset[i]
        assert model.pre_processor is not None
        with torch.no_grad():
            prediction = model.model(model.pre_processor(item.image[None]))
        found.append((dataset.samples.category[i], bool(item.gt_label), float(prediction.pred_score)))
    return found


def test_a_run_finds_thresholds_and_counts_what_they_do(trained: tuple[Crad, Path, Path], datamodule: MVTec) -> None:
    model, _, folder = trained
    post_processor = post_processor_of(model)
    thresholds = post_processor.thresholds
    assert set(thresholds.categories) == set(CATEGORIES)
    scores = raw_scores(model, datamodule)
    with (folder / "thresholds.csv").open(encoding="utf-8") as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*CATEGORIES, "pooled"]
    assert (folder / "category_metrics.csv").is_file()
    for name, row in rows.items():
        level = thresholds.of(None if name == "pooled" else name).image
        assert level is not None
        above = [
            (anomalous, score > level.value) for category, anomalous, score in scores if name in {category, "pooled"}
        ]
        assert row["threshold"] == repr(level.value)
        assert int(row["normal"]) == sum(not anomalous for anomalous, _ in above)
        assert int(row["false_alarms"]) == sum(flagged and not anomalous for anomalous, flagged in above)
        assert int(row["missed"]) == sum(anomalous and not flagged for anomalous, flagged in above)
        assert float(row["recall"]) == pytest.approx(1 - int(row["missed"]) / int(row["anomalous"]))
    assert not post_processor._scores.categories, "nothing of an epoch may stay behind"


def test_prediction_uses_the_category_of_the_dataset(
    trained: tuple[Crad, Path, Path], datamodule: MVTec, tmp_path: Path
) -> None:
    model = copy.deepcopy(trained[0])
    thresholds = post_processor_of(model).thresholds
    expected = raw_scores(model, datamodule)
    batches: Any = make_engine(tmp_path).predict(model, datamodule=datamodule, ckpt_path=trained[1])
    labels = [bool(label) for batch in batches for label in batch.pred_label]
    levels = [thresholds.of(category).image for category, _, _ in expected]
    assert labels == [score > level.value for (_, _, score), level in zip(expected, levels, strict=True) if level]
    assert levels[0] != levels[-1]


def test_new_images_have_the_category_that_they_are_given(
    trained: tuple[Crad, Path, Path], tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, checkpoint, _ = trained
    path = sorted((tiny_root / "blue" / "test" / "good").iterdir())[0]

    def score(category: str | None) -> float:
        images: Any = PredictDataset(path)
        if category is not None:
            images.category = category
        batches: Any = make_engine(tmp_path).predict(copy.deepcopy(model), dataset=images, ckpt_path=checkpoint)
        return batches[0].pred_score.item()

    own = score("blue")
    assert "No threshold was found for category" not in caplog.text
    pooled = score(None)
    assert own != pytest.approx(pooled, abs=1e-6)
    assert "No threshold was found for category 'all' (there are: blue, green): the pooled one is used" in caplog.text


def test_one_threshold_for_all_ignores_categories(datamodule: MVTec, tmp_path: Path) -> None:
    post_processor = CategoryPostProcessor(rule="false_alarm_rate", target=0.25)
    model, engine = make_model(post_processor), make_engine(tmp_path, max_epochs=1)
    engine.train(model, datamodule=datamodule)
    assert not post_processor.thresholds.categories
    assert post_processor.report is not None
    assert len({row.threshold for row in post_processor.report.rows}) == 1
    # Validation and test set are the same here, so the promise can be seen kept.
    assert post_processor.report.pooled.false_alarm_rate == pytest.approx(0.25)


def test_metrics_are_those_that_anomalib_logs(
    trained: tuple[Crad, Path, Path],
    datamodule: MVTec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = copy.deepcopy(trained[0])
    (returned,) = make_engine(tmp_path).test(model, datamodule=datamodule, ckpt_path=trained[1])
    assert set(returned) == FOUR_NAMES
    report = post_processor_of(model).report
    assert report is not None
    counted = sum(row.anomalous - row.missed for row in report.categories)
    flagged = counted + sum(row.false_alarms for row in report.categories)
    assert returned["image_F1Score"] == pytest.approx(2 * counted / (flagged + report.pooled.anomalous))
    printed = capsys.readouterr().out
    assert "Thresholds per category" in printed
    make_engine(tmp_path).test(model, datamodule=datamodule, ckpt_path=trained[1], verbose=False)
    assert "Thresholds per category" not in capsys.readouterr().out


def test_a_dry_run_leaves_no_file(datamodule: MVTec, tmp_path: Path) -> None:
    make_engine(tmp_path, fast_dev_run=True).train(make_model(), datamodule=datamodule)
    assert not list(tmp_path.rglob("thresholds.csv"))


def test_a_checkpoint_brings_everything_back(trained: tuple[Crad, Path, Path]) -> None:
    model, checkpoint, _ = trained
    loaded = Crad.load_from_checkpoint(checkpoint, post_processor=CategoryPostProcessor(rule="recall"))
    assert post_processor_of(loaded).thresholds == post_processor_of(model).thresholds
    assert post_processor_of(loaded).per_category
    assert post_processor_of(loaded).validated_categories == CATEGORIES
    assert post_processor_of(loaded).rule == "best_f1", "as in anomalib, the arguments are those that were saved"


def test_a_checkpoint_loads_into_anomalibs_post_processor_with_the_same_labels(
    trained: tuple[Crad, Path, Path],
) -> None:
    model, checkpoint, _ = trained
    loaded = Crad.load_from_checkpoint(checkpoint, post_processor=PostProcessor())
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert loaded.eval()(images).pred_label.tolist() == model.eval()(images).pred_label.tolist()


def test_a_checkpoint_of_anomalibs_post_processor_loads_into_ours(datamodule: MVTec, tmp_path: Path) -> None:
    model, engine = make_model(PostProcessor()), make_engine(tmp_path, max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    checkpoint = engine.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    loaded = Crad.load_from_checkpoint(checkpoint, post_processor=CategoryPostProcessor())
    assert isinstance(model.post_processor, PostProcessor)
    assert post_processor_of(loaded).image_threshold == model.post_processor.image_threshold


def test_a_training_resumes(trained: tuple[Crad, Path, Path], datamodule: MVTec, tmp_path: Path) -> None:
    model = make_model()
    make_engine(tmp_path, max_epochs=3).fit(model, datamodule=datamodule, ckpt_path=trained[1])
    assert set(post_processor_of(model).thresholds.categories) == set(CATEGORIES)


def test_new_thresholds_for_a_trained_model(
    trained: tuple[Crad, Path, Path], datamodule: MVTec, tmp_path: Path
) -> None:
    """The way that the documentation tells: another post-processor, and a validation without a checkpoint."""
    model = copy.deepcopy(trained[0])
    model.post_processor = CategoryPostProcessor(rule="recall", target=1.0)
    make_engine(tmp_path).validate(model, datamodule=datamodule)
    threshold = post_processor_of(model).thresholds.pooled.image
    assert threshold is not None
    assert all(score > threshold.value for _, anomalous, score in raw_scores(model, datamodule) if anomalous)


def test_an_exported_model_agrees_and_carries_its_thresholds(
    trained: tuple[Crad, Path, Path],
    datamodule: MVTec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = copy.deepcopy(trained[0])
    path = make_engine(tmp_path).export(model, ExportType.OPENVINO, export_root=tmp_path, input_size=(32, 32))
    assert path is not None
    write_thresholds(path, model.post_processor)
    stored = read_thresholds(path)
    assert stored.thresholds == post_processor_of(model).thresholds

    item: Any = datamodule.test_data[0]
    inferencer = OpenVINOInferencer(path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    exported = inferencer.predict(item.image)
    with torch.no_grad():
        raw = model.model(model.pre_processor(item.image[None]))  # type: ignore[misc]
    for category in (None, *CATEGORIES):
        expected = post_processor_of(model)(raw, category=category)
        assert exported.pred_score is not None
        assert exported.anomaly_map is not None
        found = stored.predict(category, exported.pred_score, exported.anomaly_map)
        assert found.pred_score.item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert found.pred_label.item() == expected.pred_label.item()


def test_torch_export_carries_everything(trained: tuple[Crad, Path, Path], tmp_path: Path) -> None:
    path = make_engine(tmp_path).export(copy.deepcopy(trained[0]), ExportType.TORCH, export_root=tmp_path)
    assert path is not None
    model = torch.load(path, weights_only=False)["model"]
    assert post_processor_of(model).thresholds == post_processor_of(trained[0]).thresholds


def test_pictures_are_drawn_with_it(trained: tuple[Crad, Path, Path], datamodule: MVTec, tmp_path: Path) -> None:
    model = make_model(visualizer=True)
    model.load_state_dict(trained[0].state_dict())
    make_engine(tmp_path).test(model, datamodule=datamodule)
    assert len(list(tmp_path.rglob("images/**/*.png"))) == 16


def test_any_anomalib_model_may_have_it(datamodule: MVTec, tmp_path: Path) -> None:
    model = Padim(
        backbone="resnet18",
        layers=["layer1"],
        pre_trained=False,
        n_features=10,
        pre_processor=Padim.configure_pre_processor((32, 32)),
        post_processor=CategoryPostProcessor(rule="precision", target=0.8, per_category=True),
        visualizer=False,
    )
    (returned,) = make_engine(tmp_path).train(model, datamodule=datamodule)
    assert set(returned) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert set(post_processor_of(model).thresholds.categories) == set(CATEGORIES)


def test_the_command_line_takes_it_with_its_arguments(tiny_root: Path) -> None:
    arguments = {
        "post_processor": "anomalib_crad.post_processing.CategoryPostProcessor",
        "post_processor.rule": "false_alarm_rate",
        "post_processor.target": "0.02",
        "post_processor.per_category": "true",
        **{name: str(value) for name, value in SMALL.items() if name not in {"layers", "image_size"}},
        "layers": "[layer1,layer2]",
        "image_size": "[32,32]",
    }
    words = ["train", "--model", "Crad", *(f"--model.{name}={value}" for name, value in arguments.items())]
    cli = AnomalibCLI([*words, "--data", "MVTec", f"--data.root={tiny_root}"], run=False)
    post_processor = post_processor_of(cli.model)
    assert (post_processor.rule, post_processor.target, post_processor.per_category) == ("false_alarm_rate", 0.02, True)


def test_yaml_takes_it_with_its_arguments(tmp_path: Path) -> None:
    config = tmp_path / "model.yaml"
    config.write_text(
        """
model:
  class_path: anomalib.models.Padim
  init_args:
    backbone: resnet18
    pre_trained: false
    post_processor:
      class_path: anomalib_crad.post_processing.CategoryPostProcessor
      init_args:
        rule: recall
        target: 0.99
        pixel_false_alarm_rate: 0.0005
""",
        encoding="utf-8",
    )
    post_processor = post_processor_of(Padim.from_config(config))
    assert (post_processor.rule, post_processor.target) == ("recall", 0.99)
    assert post_processor.pixel_false_alarm_rate == pytest.approx(0.0005)
