# SPDX-License-Identifier: Apache-2.0

"""From checkpoint to edge: exports that say what the trained model says, packaged and run on a device.

``write_package`` makes a folder of a trained model, ``verify_package`` tells whether it works on this device, and
``EdgeModel`` with ``stream`` runs it.
"""

from .agreement import Agreement, compare_with_openvino
from .edge_model import EdgeModel
from .frames import Frame, read_frame
from .package import EdgePackage
from .packaging import write_package
from .stream_folder import StreamSummary, stream_folder
from .streaming import StreamResult, stream
from .verification import Verification, verify_package

__all__ = [
    "Agreement",
    "EdgeModel",
    "EdgePackage",
    "Frame",
    "StreamResult",
    "StreamSummary",
    "Verification",
    "compare_with_openvino",
    "read_frame",
    "stream",
    "stream_folder",
    "verify_package",
    "write_package",
]
