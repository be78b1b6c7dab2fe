# SPDX-License-Identifier: Apache-2.0

"""An exported model, compiled by OpenVINO to take images as bytes.

The graph wants numbers from 0 to 1, channels first. That conversion is compiled into it here, so that images go in as
the bytes that a camera delivers, a quarter of the memory. Nothing is written: anomalib's ``OpenVINOInferencer`` would
keep a cache in the working folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_crad.optional_packages import require_packages

if TYPE_CHECKING:
    from pathlib import Path

    import openvino


def compile_for_bytes(path: Path, device: str, throughput: bool = False) -> openvino.CompiledModel:
    """Compile an exported model for images of N x height x width x 3 bytes, red first.

    Args:
        path: The exported model: ``.xml`` of OpenVINO or ``.onnx``.
        device: OpenVINO's device.
        throughput: Compile for many images at once instead of the shortest time for one. Defaults to ``False``.

    Returns:
        The model; its outputs are those of the graph.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
    """
    require_packages("Running an exported model", "openvino")
    import openvino

    core = openvino.Core()
    steps = openvino.preprocess.PrePostProcessor(core.read_model(path))
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
        # Processors with bfloat16 use it unasked, which is faster and three digits short.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return core.compile_model(steps.build(), device, settings)
