# SPDX-License-Identifier: Apache-2.0

"""Exported files agree with the checkpoint, carry each bank once, and quantise the head alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from anomalib.deploy import CompressionType
from made_up_models import datamodule, fit, narrow_dmad

from anomalib_crad import Dmad
from anomalib_crad.export.cleanup import module_of

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from pathlib import Path

BANK_SIZE = 5000
#: Bytes of a file beside weights and banks, at most.
GRAPH_SIZE = 200_000


@pytest.fixture(scope="module")
def model(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dmad:
    trained = narrow_dmad(seed=0, coreset_ratio=1.0)
    engine, _ = fit(tiny_root, trained, tmp_path_factory.mktemp("trained"), max_epochs=1)
    loaded = Dmad.load_from_checkpoint(str(engine.best_model_path)).eval()
    entries = loaded.model.normal_bank.entries
    loaded.model.normal_bank.fill(entries.repeat(BANK_SIZE // len(entries) + 1, 1) + 0.1)  # as large as to be noticed
    return loaded


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 45, 90, generator=torch.Generator().manual_seed(0))


def expected_of(model: Dmad, images: torch.Tensor) -> dict[str, np.ndarray]:
    assert model.pre_processor is not None
    with torch.no_grad():
        prediction = model.model(model.pre_processor(images))
    return {"pred_score": prediction.pred_score.numpy(), "anomaly_map": prediction.anomaly_map.numpy()}


def assert_agrees(path: Path, model: Dmad, images: torch.Tensor, tolerance: float = 1e-4) -> None:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    predicted = {output.any_name: value for output, value in compiled(images.numpy()).items()}
    for name, expected in expected_of(model, images).items():
        actual = predicted[name].reshape(expected.shape)
        np.testing.assert_allclose(actual, expected, atol=tolerance * np.ptp(expected))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_scores_and_maps_are_the_checkpoint_s_for_a_batch_of_images_of_another_size(
    model: Dmad, images: torch.Tensor, kind: str, tmp_path: Path
) -> None:
    path = getattr(model, f"to_{kind}")(tmp_path, raw_scores=True)
    assert_agrees(path, model, images)
    stored = path if kind == "onnx" else path.with_suffix(".bin")
    weights = 4 * sum(value.numel() for value in model.model.parameters())
    banks = 4 * 24 * (len(model.model.normal_bank) + len(model.model.abnormal_bank))
    assert stored.stat().st_size < weights + 1.5 * banks + GRAPH_SIZE


def test_8_bits_are_for_the_head(model: Dmad, tiny_root: Path, tmp_path: Path) -> None:
    path = model.to_openvino(
        tmp_path,
        compression_type=CompressionType.INT8_PTQ,
        datamodule=datamodule(tiny_root),
        raw_scores=True,
    )
    modules = set()
    for operation in openvino.Core().read_model(path).get_ops():
        if operation.get_type_name() in {"Convolution", "GroupConvolution", "MatMul"}:
            node = operation.input_value(1).get_node()
            while node.get_type_name() != "Constant" and node.get_input_size():
                node = node.input_value(0).get_node()
            if node.get_element_type() in {openvino.Type.i8, openvino.Type.u8}:
                modules.add(module_of(operation.get_friendly_name()))
    # The scorer's first layer bears the name of the batch norm that is folded into it.
    assert modules == {
        "model.reconstruction.projection",
        "model.reconstruction.knowledge.value",
        "model.reconstruction.scorer.1",
    }


def test_half_precision_scores_alike(model: Dmad, images: torch.Tensor, tmp_path: Path) -> None:
    path = model.to_openvino(tmp_path, compression_type=CompressionType.FP16, raw_scores=True)
    assert_agrees(path, model, images, tolerance=0.2)
