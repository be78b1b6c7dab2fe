# SPDX-License-Identifier: Apache-2.0

"""The model of a package, run by OpenVINO: one image after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomalib_crad.deploy.compiled import compile_for_bytes
from anomalib_crad.deploy.frames import read_frame
from anomalib_crad.prediction import Prediction

if TYPE_CHECKING:
    import openvino
    from numpy.typing import NDArray

    from anomalib_crad.deploy.frames import Frame
    from anomalib_crad.deploy.package import EdgePackage

OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


class EdgeModel:
    """The model of a package.

    Args:
        package: The package.
        device: OpenVINO's device. Defaults to ``"CPU"``.
        category: Category of the images, whose own threshold then decides. Defaults to ``None``: one threshold for all.
        throughput: Compile for many images at once instead of the shortest time for one. Defaults to ``False``.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
        ValueError: If the category has no threshold of its own.
    """

    def __init__(
        self,
        package: EdgePackage,
        device: str = "CPU",
        category: str | None = None,
        throughput: bool = False,
    ) -> None:
        self.package = package
        self.category = category
        self._thresholds = package.thresholds
        self._thresholds.thresholds.of(category)  # an unknown category is an error before the first image
        self.compiled = compile_for_bytes(package.model_path, device, throughput)
        self._sides = self.compiled.input().partial_shape[1:3]
        self._request = self.compiled.create_infer_request()

    def predict(self, frame: Frame) -> Prediction:
        """Predict one image, and wait for it.

        Args:
            frame: A file or pixels.

        Returns:
            Score and map in (0, 1), and the label.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the image is not of 8 bits, or of a size that the model does not take.
        """
        self._request.infer({0: self.to_input(read_frame(frame))})
        return self.to_prediction(self._request, "" if isinstance(frame, np.ndarray) else str(frame))

    def to_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Make an image what a request takes.

        Args:
            image: Height x width x 3 bytes.

        Returns:
            1 x height x width x 3 bytes.

        Raises:
            ValueError: If the model was exported for one size of images, and the image has another.
        """
        height, width = image.shape[:2]
        fits = (side.is_dynamic or side == given for side, given in zip(self._sides, (height, width), strict=True))
        if not all(fits):
            msg = (
                f"The image is {height} x {width} (height x width), but the model was exported for images of "
                f"{self._sides[0]} x {self._sides[1]} only. Export it without input_size: then it resizes by itself."
            )
            raise ValueError(msg)
        return image[None]

    def to_prediction(self, request: openvino.InferRequest, name: str) -> Prediction:
        """Read what a finished request has found.

        Args:
            request: The request; it may be used again afterwards.
            name: What the image is called.

        Returns:
            The prediction.
        """
        score, label, anomaly_map = (request.get_tensor(output).data.copy() for output in OUTPUTS[:3])
        if self.category is not None:
            own = self._thresholds.predict(self.category, score, anomaly_map)
            score, label, anomaly_map = own.pred_score, own.pred_label, own.anomaly_map
        return Prediction(name, score.item(), bool(label.item()), anomaly_map[0, 0])
