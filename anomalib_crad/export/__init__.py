# SPDX-License-Identifier: Apache-2.0

"""From a trained model to a file: anomalib's exporters, and what our models' exports need beyond them.

``exportable`` gives a model ``to_torch``, ``to_onnx`` and ``to_openvino``, ``checks`` refuses what cannot succeed,
``cleanup`` names nodes and quiets logs, ``compression`` and ``quantization`` make files smaller and faster,
``thresholds`` stores the thresholds of categories. Nothing here imports a model.
"""

from anomalib_crad.export.thresholds import ExportedThresholds, read_thresholds, write_thresholds

__all__ = ["ExportedThresholds", "read_thresholds", "write_thresholds"]
