# SPDX-License-Identifier: Apache-2.0

"""Run the model of a package with OpenVINO: from an image file or a camera's pixels to a prediction.

``read_frame`` reads image files as anomalib reads them for training, with Pillow and as RGB; of 16-bit colours Pillow
takes the upper 8 bits. It refuses what Pillow would clip silently, grey of more than 8 bits, as training does.

``compile_for_bytes`` compiles an exported model so that it takes images as the bytes that a camera delivers, a quarter
of the memory of floats. The graph wants numbers from 0 to 1, channels first; the conversion is compiled into it.
Nothing is written, whereas anomalib's ``OpenVINOInferencer`` keeps a cache in the working folder.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_crad.data.image_files import READ_ERRORS, reject_bad_image_files, unreadable
from anomalib_crad.optional_packages import require_packages
from anomalib_crad.prediction import Prediction

if TYPE_CHECKING:
    import openvino

    from anomalib_crad.deploy.package import EdgePackage

#: Names of the outputs of an exported model.
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")

#: An image: a file, or pixels of 8 bits, height x width x RGB or height x width.
Frame: TypeAlias = str | Path | NDArray[np.uint8]


class EdgeModel:
    """The model of a package.

    Several threads may share it: it computes one image at a time, and the others wait. ``stream`` computes several.

    Args:
        package: The package.
        device: OpenVINO's device. Defaults to ``"CPU"``.
        category: Category of the images, whose own threshold is applied. Defaults to ``None``: the threshold of all
            categories together.
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
        self._thresholds.thresholds.of(category)  # refuses an unknown category before the first image
        self.compiled = compile_for_bytes(package.model_path, device, throughput)
        self._sides = self.compiled.input().partial_shape[1:3]
        self._request = self.compiled.create_infer_request()
        self._one_at_a_time = threading.Lock()

    def predict(self, frame: Frame) -> Prediction:
        """Predict one image, and wait for the result.

        Args:
            frame: A file or pixels, see :func:`read_frame`.

        Returns:
            Score and map in (0, 1), and the label.

        Raises:
            OSError: If the file cannot be read.
            TypeError: If ``frame`` is neither a path nor an array.
            ValueError: If the image does not have 8 bits per channel, or has a size that the model does not take.
        """
        pixels = self.to_input(read_frame(frame))
        with self._one_at_a_time:
            self._request.infer({0: pixels})
            return self.to_prediction(self._request, "" if isinstance(frame, np.ndarray) else str(frame))

    def to_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert an image to the input of a request.

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
        """Read the outputs of a finished request.

        Args:
            request: The request; it may be used again afterwards.
            name: Name of the image.

        Returns:
            The prediction.
        """
        score, label, anomaly_map = (request.get_tensor(output).data.copy() for output in OUTPUTS[:3])
        if self.category is not None:
            own = self._thresholds.predict(self.category, score, anomaly_map)
            score, label, anomaly_map = own.pred_score, own.pred_label, own.anomaly_map
        return Prediction(name, score.item(), bool(label.item()), anomaly_map[0, 0])


def compile_for_bytes(path: Path, device: str, throughput: bool = False) -> openvino.CompiledModel:
    """Compile an exported model for images of N x height x width x 3 bytes, red first.

    Args:
        path: The exported model: ``.xml`` of OpenVINO or ``.onnx``.
        device: OpenVINO's device.
        throughput: Compile for many images at once instead of the shortest time for one. Defaults to ``False``.

    Returns:
        The compiled model; its outputs are those of the graph.

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
        # By default OpenVINO uses bfloat16 on processors that have it, which is faster and loses three digits.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return core.compile_model(steps.build(), device, settings)


def read_frame(frame: Frame) -> NDArray[np.uint8]:
    """Return the pixels of an image.

    Args:
        frame: A file, or pixels of 8 bits: height x width x 3 in the order red, green, blue (OpenCV delivers blue
            first: ``image[..., ::-1]``), or height x width of a grey camera.

    Returns:
        Height x width x 3 bytes, red first.

    Raises:
        OSError: If the file is missing or cannot be decoded.
        TypeError: If ``frame`` is neither a path nor an array.
        ValueError: If the file is grey and has more than 8 bits, or pixels have another shape or type.
    """
    if isinstance(frame, np.ndarray):
        return _rgb(frame)
    if not isinstance(frame, str | Path):
        msg = (
            f"A frame must be a path or a NumPy array of 8-bit pixels, got {type(frame).__name__}. Convert an image of "
            "Pillow with numpy.asarray(image.convert('RGB')), and open the bytes of a file with PIL.Image.open first."
        )
        raise TypeError(msg)
    reject_bad_image_files([str(frame)])
    try:
        with Image.open(frame) as image:
            return np.array(image.convert("RGB"))
    except READ_ERRORS as error:
        raise unreadable(str(frame), "image", error) from error


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (grey or colour) or not pixels.size:
        msg = (
            f"pixels must be uint8 of shape height x width x 3 or height x width, got {pixels.dtype} of shape "
            f"{pixels.shape}."
        )
        raise ValueError(msg)
    # A copy, because cameras write the next image into the same memory.
    return np.array(pixels if colour else np.repeat(pixels[..., None], 3, axis=2), order="C")
