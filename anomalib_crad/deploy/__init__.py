# SPDX-License-Identifier: Apache-2.0

"""From checkpoint to edge: exports that say what the trained model says, packaged and run on a device.

``write_package`` makes a folder of a trained model, ``verify_package`` tells whether it works on this device, and
``EdgeModel`` with ``stream`` runs it.
"""

from anomalib_crad.deploy.agreement import Agreement, compare_with_openvino
from anomalib_crad.deploy.frames import Frame, read_frame
from anomalib_crad.deploy.package import EdgePackage
from anomalib_crad.deploy.run import EdgeModel
from anomalib_crad.deploy.stream import StreamResult, stream
from anomalib_crad.deploy.stream_folder import StreamSummary, stream_folder
from anomalib_crad.deploy.verify import Verification, verify_package
from anomalib_crad.deploy.write import write_package

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
