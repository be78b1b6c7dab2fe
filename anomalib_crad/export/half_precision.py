# SPDX-License-Identifier: Apache-2.0

"""Weights in 16 bits, but for the parts whose rounding shows.

OpenVINO's own compression takes every constant and cannot be told to leave one. Here the operations of chosen modules
keep theirs (docs/benchmarks/int8.md has what each part costs). Arithmetic is the device's choice, as with any model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.export.quantization import kept_operations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino

_LARGEST = float(np.finfo(np.float16).max)
#: Below it half precision has ever fewer digits, and in the end none. In a constant whose largest number is above it,
#: what a smaller one loses is nothing beside the rounding of the largest.
_SMALLEST = float(np.finfo(np.float16).smallest_normal)


def halve_weights(model: openvino.Model, modules: Sequence[str]) -> openvino.Model:
    """Store constants in half precision.

    Args:
        model: The graph; it is changed.
        modules: Patterns of modules that keep single precision, see :func:`.quantization.kept_operations`.

    Returns:
        The graph.
    """
    import openvino
    from openvino import opset13

    kept = set(kept_operations(model, modules))
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Constant" or operation.get_friendly_name() in kept:
            continue
        for place in operation.inputs():
            constant = place.get_source_output().get_node()
            if constant.get_type_name() != "Constant" or constant.get_element_type() != openvino.Type.f32:
                continue
            values = constant.get_data()
            largest = np.abs(values).max(initial=0)
            if largest == 0 or _SMALLEST <= largest <= _LARGEST:
                half = opset13.convert(opset13.constant(values.astype(np.float16)), openvino.Type.f32)
                place.replace_source_output(half.output(0))
    return model
