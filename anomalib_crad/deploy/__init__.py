# SPDX-License-Identifier: Apache-2.0

"""From checkpoint to edge: does an exported model say what the trained one says?"""

from .agreement import Agreement, compare_with_openvino

__all__ = ["Agreement", "compare_with_openvino"]
