# SPDX-License-Identifier: Apache-2.0

"""Models that a benchmark builds, or refuses to build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino
import pytest
from anomalib.models import Draem, Stfpm
from openvino import opset13
from PIL import Image

from anomalib_crad.benchmark.cells import Cell
from anomalib_crad.benchmark.quality import _check_own_limit, _model, _pre_processor, _to_openvino, run_quality

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib.models.components import AnomalibModule


def settings(class_path: str, **arguments: object) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments, "image_size": [32, 32], "score_window": 8}


def test_draem_is_refused_where_a_failed_download_left_no_textures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Draem paints defects from textures.*Delete that folder"):
        _model(settings("Draem", dtd_dir=str(tmp_path)), seed=0)
    Image.new("RGB", (8, 8)).save(tmp_path / "texture.jpg")
    assert isinstance(_model(settings("Draem", dtd_dir=str(tmp_path)), seed=0), Draem)


def test_an_unknown_model_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="'Patchcor' is no model of anomalib's or ours; near: Patchcore"):
        _model(settings("Patchcor"), seed=0)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("Dinomaly", [28, 56], r"Dinomaly cannot see images of 28 x 56 \(image_size\): .* makes them 28 x 28"),
        ("InpFormer", [56, 28], r"InpFormer cannot see images of 56 x 28 \(image_size\): .* makes them 28 x 28"),
        ("WinClip", [224, 224], r"WinClip cannot see images of 224 x 224 \(image_size\): .* makes them 240 x 240"),
    ],
)
def test_a_model_that_would_see_other_images_is_refused(name: str, size: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model({**settings(name), "image_size": size}, seed=0)


def test_a_default_backbone_is_normalised_for_as_a_given_one_is() -> None:
    given, default = (
        _pre_processor(Stfpm, settings("Stfpm", **arguments)) for arguments in ({"backbone": "resnet18"}, {})
    )
    assert repr(default.transform) == repr(given.transform)


def test_a_model_without_a_limit_to_its_training_is_refused(tmp_path: Path) -> None:
    """Lightning would train 1000 epochs."""
    dataset = {"class_path": "MVTec", "init_args": {"root": str(tmp_path), "category": "bottle"}}
    unlimited = {"max_epochs": None, "train_batch_size": None, "dataset": dataset, "accelerator": "cpu"}
    cell = Cell("quality", "GANomaly", "products", 0, {**settings("Ganomaly"), **unlimited})
    with pytest.raises(ValueError, match=r"Ganomaly sets no limit to its training.*set max_epochs"):
        run_quality(cell, tmp_path)


@pytest.mark.parametrize("name", ["Crad", "Padim"])
def test_our_models_and_memory_banks_limit_themselves(name: str) -> None:
    small = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False}
    _check_own_limit(_model(settings(name, **small), seed=0))


class _FixedBatch:
    """Exports a graph with the number of example images, unless told that no size varies."""

    def to_openvino(self, folder: Path, input_size: tuple[int, int], onnx_kwargs: dict[str, Any] | None = None) -> Path:
        images = 2 if onnx_kwargs is None else 1
        image = opset13.parameter([images, 3, *input_size], np.float32)
        openvino.save_model(openvino.Model([opset13.relu(image)], [image]), folder / "model.xml")
        return folder / "model.xml"


def test_a_graph_of_a_fixed_batch_is_exported_for_one_image(tmp_path: Path) -> None:
    path = _to_openvino(cast("AnomalibModule", _FixedBatch()), (8, 8), tmp_path)
    assert openvino.Core().read_model(path).input(0).shape[0] == 1
