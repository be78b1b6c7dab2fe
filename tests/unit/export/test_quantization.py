# SPDX-License-Identifier: Apache-2.0

"""Which operations of a graph get fewer bits, and which images quantisation reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import ImageItem
from openvino import opset13 as ops
from torchvision.transforms.v2 import RandomInvert, Resize, functional

from anomalib_crad import MVTec
from anomalib_crad.export.compression import halve_weights
from anomalib_crad.export.quantization import GraphImages, compress_weights, input_size, kept_operations, quantize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDTH = 32


@pytest.fixture
def graph() -> openvino.Model:
    """Two convolutions, named by modules, and what a converter would put between them."""
    rng = np.random.default_rng(0)
    image = ops.parameter([1, 3, 8, 8], np.float32, name="input")
    first = _convolution(image, rng.normal(size=(WIDTH, 3, 1, 1)), "model.backbone.first/node_Conv_0")
    scaled = ops.multiply(first, np.float32(0.5), name="Multiply_7")
    second = _convolution(scaled, rng.normal(size=(WIDTH, WIDTH, 1, 1)), "model.head/node_Conv_1")
    return openvino.Model([second], [image])


def _convolution(features: openvino.Node, weights: np.ndarray, name: str) -> openvino.Node:
    return ops.convolution(features, weights.astype(np.float32), [1, 1], [0, 0], [0, 0], [1, 1], name=name)


def bits(model: openvino.Model) -> dict[str, bool]:
    """Whether the weights of each convolution have 8 bits, by its name."""
    return {op.get_friendly_name(): _reads_8_bits(op) for op in model.get_ops() if op.get_type_name() == "Convolution"}


def _reads_8_bits(operation: openvino.Node) -> bool:
    return _type(operation) in {openvino.Type.i8, openvino.Type.u8}


def _type(operation: openvino.Node) -> openvino.Type:
    """In what type an operation's second input is stored."""
    node = operation.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_element_type()


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([], {"input", "Multiply_7"}),
        (["model.head"], {"input", "Multiply_7", "model.head/node_Conv_1"}),
        (["model.backbone*"], {"input", "Multiply_7", "model.backbone.first/node_Conv_0"}),
        (["model.backbone"], {"input", "Multiply_7"}),
    ],
)
def test_operations_to_keep(graph: openvino.Model, modules: Sequence[str], expected: set[str]) -> None:
    named = {name for name in kept_operations(graph, modules) if not name.startswith("Result")}
    assert named == expected


def test_only_the_modules_that_are_not_kept_get_8_bits(graph: openvino.Model) -> None:
    images = list(np.random.default_rng(1).random((8, 1, 3, 8, 8), dtype=np.float32))
    quantised = bits(quantize(graph.clone(), images, ["model.head"]))
    assert quantised == {"model.backbone.first/node_Conv_0": True, "model.head/node_Conv_1": False}
    everything = bits(quantize(graph.clone(), images, []))
    assert everything == {"model.backbone.first/node_Conv_0": True, "model.head/node_Conv_1": True}


def test_weights_of_kept_modules_are_not_compressed(graph: openvino.Model) -> None:
    compressed = bits(compress_weights(graph.clone(), ["model.backbone*"]))
    assert compressed == {"model.backbone.first/node_Conv_0": False, "model.head/node_Conv_1": True}


def test_only_the_modules_that_are_not_kept_have_half_precision(graph: openvino.Model, tmp_path: Path) -> None:
    openvino.save_model(halve_weights(graph, ["model.backbone*"]), tmp_path / "model.xml", compress_to_fp16=False)
    saved = openvino.Core().read_model(tmp_path / "model.xml")
    types = {op.get_friendly_name(): _type(op) for op in saved.get_ops() if op.get_type_name() == "Convolution"}
    assert types == {"model.backbone.first/node_Conv_0": openvino.Type.f32, "model.head/node_Conv_1": openvino.Type.f16}


@pytest.mark.parametrize("weight", [1e6, 1e-8])
def test_a_weight_too_large_or_too_small_for_half_precision_keeps_single(weight: float) -> None:
    image = ops.parameter([1, 1, 2, 2], np.float32)
    constant = ops.constant(np.full((1, 1, 2, 2), weight, np.float32))
    scaled = ops.multiply(image, constant, name="model.head/node_Mul_0")
    graph = halve_weights(openvino.Model([scaled], [image]), [])
    assert _type(scaled) == openvino.Type.f32
    result = openvino.Core().compile_model(graph, "CPU")(np.ones((1, 1, 2, 2), np.float32))[0]
    np.testing.assert_allclose(result, weight, rtol=1e-6)


@pytest.mark.parametrize("largest", [0.0, 1.0])
def test_a_small_weight_beside_a_large_one_does_not_keep_both(largest: float) -> None:
    image = ops.parameter([1, 1, 1, 2], np.float32)
    constant = ops.constant(np.array([largest * 1e-9, largest], np.float32).reshape(1, 1, 1, 2))
    scaled = ops.multiply(image, constant, name="model.head/node_Mul_0")
    halve_weights(openvino.Model([scaled], [image]), [])
    assert _type(scaled) == openvino.Type.f16


@pytest.mark.parametrize(("shape", "expected"), [([1, 3, 8, 6], (8, 6)), ([-1, 3, -1, -1], None)])
def test_input_size(shape: list[int], expected: tuple[int, int] | None) -> None:
    image = ops.parameter(shape, np.float32)
    assert input_size(openvino.Model([ops.relu(image)], [image])) == expected


class Numbered:
    """Ten images, each filled with a tenth of its number, of heights 4 to 13."""

    augmentations: Any = None

    def __len__(self) -> int:
        """Count them."""
        return 10

    def __getitem__(self, index: int) -> ImageItem:
        """Make one."""
        image = torch.full((3, 4 + index, 5), index / 10)
        return ImageItem(image=self.augmentations(image) if self.augmentations else image)


def numbers(images: GraphImages) -> list[int]:
    return [round(float(image.mean()) * 10) for image in images]


def test_all_images_as_they_are() -> None:
    images = GraphImages(Numbered())  # type: ignore[arg-type]
    assert numbers(images) == list(range(10))
    assert [image.shape for image in images] == [(1, 3, 4 + index, 5) for index in range(10)]
    assert images[0].dtype == np.float32


@pytest.mark.parametrize(("limit", "expected"), [(2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(10)))])
def test_a_few_images_are_spread_over_the_dataset(limit: int, expected: list[int]) -> None:
    assert numbers(GraphImages(Numbered(), limit=limit)) == expected  # type: ignore[arg-type]


def test_a_graph_of_one_size_gets_it_by_the_models_own_resize() -> None:
    dataset = Numbered()
    images = GraphImages(dataset, input_size=(7, 6))  # type: ignore[arg-type]
    assert {image.shape for image in images} == {(1, 3, 7, 6)}
    noise = torch.rand(3, 40, 50)
    expected = functional.resize(noise, [7, 6], antialias=False)
    np.testing.assert_array_equal(images.to_input(ImageItem(image=noise))[0], expected.numpy())


def test_augmentations_are_left_out_and_stay_the_datasets() -> None:
    dataset = Numbered()
    dataset.augmentations = RandomInvert(p=1.0)
    assert numbers(GraphImages(dataset)) == list(range(10))  # type: ignore[arg-type]
    assert dataset.augmentations is not None


def test_a_datamodule_whose_images_a_trainer_resizes(tiny_root: Path) -> None:
    datamodule = MVTec(root=tiny_root, category=["blue", "green"], num_workers=0, train_augmentations=Resize((8, 8)))
    datamodule.setup("fit")
    images = GraphImages(datamodule.train_data, limit=4)
    assert {image.shape for image in images} == {(1, 3, 64, 64)}
    assert [str(images.item(row).image_path).split("/")[-4] for row in range(4)] == ["blue", "blue", "green", "green"]
