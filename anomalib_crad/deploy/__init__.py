# SPDX-License-Identifier: Apache-2.0

"""From checkpoint to device: packages of trained models, verified and run with OpenVINO.

``write_package`` makes a folder from a trained model, ``verify_package`` checks that it works on this device, and
``EdgeModel`` with ``stream`` runs it.
"""

from anomalib_crad.deploy.package import EdgePackage
from anomalib_crad.deploy.run import EdgeModel, Frame, read_frame
from anomalib_crad.deploy.stream import StreamResult, stream
from anomalib_crad.deploy.stream_folder import StreamSummary, stream_folder
from anomalib_crad.deploy.verify import Agreement, Verification, compare_with_openvino, verify_package
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
