# SPDX-License-Identifier: Apache-2.0

"""Thresholds in exported files: written beside a graph that squashes like torch, read back, and used."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch
from openvino import opset13
from torch import Tensor, nn

from anomalib_crad.export import read_thresholds, write_thresholds
from anomalib_crad.export.thresholds import ExportedThresholds, add_thresholds
from anomalib_crad.post_processing import CategoryPostProcessor, Thresholds
from anomalib_crad.post_processing.rules import Threshold
from anomalib_crad.post_processing.thresholds import LevelThresholds

FOUND = Thresholds(
    LevelThresholds(Threshold(10, 4), Threshold(2, 1)),
    {"cable": LevelThresholds(Threshold(3, 1), Threshold(1, 0.5)), "tile / 2": LevelThresholds(Threshold(20, 5))},
)
IMAGES = torch.tensor([1.0, 6, 9.99, 10, 10.01, 40]).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)


class Model(nn.Module):
    """Scores an image by its brightest pixel."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.post_processor = CategoryPostProcessor(**arguments)
        self.post_processor.thresholds = FOUND
        # A weight, so that exported files have something to lose.
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> InferenceBatch:
        maps = image * self.gain
        return self.post_processor(InferenceBatch(pred_score=maps.amax((1, 2, 3)), anomaly_map=maps))


def export(folder: Path, ending: str, **arguments: Any) -> tuple[Model, Path]:  # noqa: ANN401
    model = Model(**arguments).eval()
    path = folder / "model.onnx"
    batch = torch.export.Dim("batch")
    names = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    torch.onnx.export(
        model,
        (IMAGES,),
        path,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: batch},),
        input_names=["image"],
        output_names=names,
        verbose=False,
    )
    if ending == ".xml":
        path = folder / "model.xml"
        openvino.save_model(openvino.convert_model(folder / "model.onnx"), path, compress_to_fp16=False)
    write_thresholds(path, model.post_processor)
    return model, path


def infer(path: Path) -> dict[str, np.ndarray]:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled(IMAGES.numpy())
    return {name: outputs[name] for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask")}


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_an_exported_model_agrees_and_knows_its_categories(tmp_path: Path, ending: str) -> None:
    model, path = export(tmp_path, ending)
    with torch.no_grad():
        expected = model(IMAGES)
    outputs = infer(path)
    np.testing.assert_allclose(outputs["pred_score"], expected.pred_score, atol=1e-6)
    np.testing.assert_allclose(outputs["anomaly_map"], expected.anomaly_map, atol=1e-6)
    assert outputs["pred_label"].tolist() == [False, False, False, False, True, True]
    assert outputs["pred_mask"].tolist() == expected.pred_mask.tolist()

    stored = read_thresholds(path)
    assert stored.thresholds == FOUND
    raw = InferenceBatch(pred_score=IMAGES.amax((1, 2, 3)), anomaly_map=IMAGES)
    for category in (None, "cable", "tile / 2"):
        wanted = model.post_processor(raw, category=category)
        got = stored.predict(category, outputs["pred_score"], outputs["anomaly_map"])
        np.testing.assert_allclose(got.pred_score, wanted.pred_score, atol=1e-5)
        assert got.pred_label.tolist() == wanted.pred_label.tolist()
        assert got.anomaly_map is not None
        np.testing.assert_allclose(got.anomaly_map, wanted.anomaly_map, atol=1e-5)
        assert got.pred_mask is not None
        assert got.pred_mask.tolist() == wanted.pred_mask.tolist()


def test_other_metadata_and_the_weights_stay(tmp_path: Path) -> None:
    _, path = export(tmp_path, ".onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"owner": "line 3"})
    onnx.save(model, path)
    with_categories, other = Model().post_processor, {"owner": "line 3"}
    write_thresholds(path, with_categories)
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert other.items() <= properties.items()
    assert read_thresholds(path).thresholds == FOUND

    openvino.save_model(openvino.convert_model(path), tmp_path / "model.xml", compress_to_fp16=False)
    before = openvino.Core().read_model(tmp_path / "model.xml")
    before.set_rt_info("Padim", ["model_info", "model_type"])
    openvino.save_model(before, tmp_path / "second.xml", compress_to_fp16=False)
    write_thresholds(tmp_path / "second.xml", with_categories)
    after = openvino.Core().read_model(tmp_path / "second.xml")
    assert after.get_rt_info(["model_info", "model_type"]).value == "Padim"
    assert sorted(path.name for path in tmp_path.glob("second*")) == ["second.bin", "second.xml"]


def test_sensitivity_and_raw_scores_travel_along() -> None:
    stored = ExportedThresholds(FOUND, normalized=False, image_sensitivity=0.8, pixel_sensitivity=0.2)
    assert ExportedThresholds.from_json(stored.to_json()) == stored
    got = stored.predict("cable", np.array([2.0]), np.array([[1.5]]))
    assert got.pred_score == pytest.approx(0.25)
    assert got.pred_label.tolist() == [True]
    assert got.anomaly_map == pytest.approx(0.75)
    assert got.pred_mask is not None
    assert got.pred_mask.tolist() == [[False]]


def test_a_category_without_thresholds_is_an_error() -> None:
    with pytest.raises(ValueError, match="known: cable, tile / 2"):
        ExportedThresholds(FOUND).predict("screw", np.array([0.2]))


def test_other_post_processors_and_models_without_validation_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"left alone")
    write_thresholds(path, CategoryPostProcessor())
    write_thresholds(path, None)
    assert path.read_bytes() == b"left alone"


def test_a_file_without_thresholds_is_an_error(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="holds no thresholds of categories"):
        read_thresholds(tmp_path / "model.onnx")


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must end in .onnx or .xml, got .*model.pt"):
        write_thresholds(tmp_path / "model.pt", None)
    with pytest.raises(FileNotFoundError, match="Export the model first"):
        read_thresholds(tmp_path / "model.xml")


def test_a_graph_gets_thresholds_before_it_is_saved(tmp_path: Path) -> None:
    image = opset13.parameter([1, 3, 2, 2], np.float32)
    graph = openvino.Model([opset13.relu(image)], [image])
    add_thresholds(graph, None)
    openvino.save_model(graph, tmp_path / "without.xml")
    with pytest.raises(ValueError, match="holds no thresholds"):
        read_thresholds(tmp_path / "without.xml")
    add_thresholds(graph, Model().post_processor)
    openvino.save_model(graph, tmp_path / "with.xml")
    assert read_thresholds(tmp_path / "with.xml").thresholds == FOUND
