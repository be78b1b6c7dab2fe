# SPDX-License-Identifier: Apache-2.0

"""Operations of an exported graph are named by their modules, and exporters log only what helps a user."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from torch import nn

from anomalib_crad.export.cleanup import is_any_of, module_of, name_nodes_by_module, quiet_exporter, quiet_quantizer

if TYPE_CHECKING:
    from pathlib import Path


class TwoParts(nn.Module):
    """A convolution and a linear layer, in a module each, and an addition outside both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh())
        self.second = nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images)) + 1


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path: Path = tmp_path_factory.mktemp("graph") / "model.onnx"
    torch.onnx.export(TwoParts(), (torch.rand(2, 3, 4, 4),), path, dynamo=True, verbose=False, external_data=False)
    name_nodes_by_module(path)
    return onnx.load(path)


def test_operations_are_named_by_their_modules(graph: onnx.ModelProto) -> None:
    modules = {node.op_type: module_of(node.name) for node in graph.graph.node}
    assert modules["Conv"] == "first.0"
    assert modules["Tanh"] == "first.1"
    assert modules["MatMul"] == "second"


def test_the_file_says_nothing_of_the_machine_that_exported(graph: onnx.ModelProto) -> None:
    assert __file__.encode() not in graph.SerializeToString()
    assert b"pkg.torch" not in graph.SerializeToString()


def test_a_renamed_graph_is_still_a_valid_one(graph: onnx.ModelProto) -> None:
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.parametrize(
    ("module", "patterns", "expected"),
    [
        ("model.head", ["model.head"], True),
        ("model.head.grid", ["model.head"], False),
        ("model.head.grid", ["other*", "model.head*"], True),
        ("model.head.local_memory.grid", ["model.head.*_memory.grid"], True),
        ("model.head", [], False),
    ],
)
def test_patterns_of_modules(module: str, patterns: list[str], expected: bool) -> None:
    assert is_any_of(module, patterns) is expected


def test_an_operation_of_a_converter_has_no_module() -> None:
    assert not module_of("Multiply_5374")


def test_only_chatter_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("onnx_ir.passes.common")
    with caplog.at_level(logging.INFO):
        with quiet_exporter():
            logger.info("merged a constant")
            logger.warning("cannot be exported")
            logging.getLogger("anomalib").info("exported")
        logger.info("afterwards")
    assert [record.getMessage() for record in caplog.records] == ["cannot be exported", "exported", "afterwards"]


def test_what_is_said_of_operations_is_left_out() -> None:
    logger, said = logging.getLogger("nncf"), []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener()
    logger.addHandler(listener)
    with quiet_quantizer():
        logger.warning("Not adding activation input quantizer for operation: 7 pred_score")
        logger.warning("91 ignored nodes were found by names in the NNCFGraph")
        logger.warning("Accuracy drop: 0.01")
    logger.warning("Not adding activation input quantizer for operation: 8 pred_label")
    logger.removeHandler(listener)
    assert [message[:12] for message in said] == ["Accuracy dro", "Not adding a"]


def test_deprecations_inside_the_exporter_are_not_the_users() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_exporter():
            warnings.warn("old function", DeprecationWarning, stacklevel=1)
            warnings.warn("wrong result", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["wrong result"]
