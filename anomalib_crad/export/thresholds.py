# SPDX-License-Identifier: Apache-2.0

"""Thresholds of categories in an exported model: written into its metadata, read back, and used.

The exported graph knows no categories and squashes scores with the pooled thresholds. Squashing can be undone, so a
caller who knows the category can still apply that category's own threshold: the graph's score gives the raw score, and
the raw score gives score and label by the category's threshold. ONNX keeps the data in ``metadata_props``, OpenVINO in
``rt_info`` under ``model_info``, both as JSON, so that programs in other languages can read it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anomalib_crad.files import staged_file, staged_files
from anomalib_crad.post_processing.category_post_processor import CategoryPostProcessor
from anomalib_crad.post_processing.thresholds import Thresholds, squash, unsquash

if TYPE_CHECKING:
    import openvino
    from numpy.typing import NDArray

    from anomalib_crad.post_processing.rules import Threshold

METADATA_KEY = "category_thresholds"
_OPENVINO_PATH = ["model_info", METADATA_KEY]


@dataclass(frozen=True)
class CategoryPrediction:
    """Prediction by the thresholds of a category.

    Attributes:
        pred_score: Scores in (0, 1), of the shape of those given.
        pred_label: Whether each image is anomalous.
        anomaly_map: Maps in (0, 1), or ``None`` if none were given.
        pred_mask: Whether each pixel is anomalous, or ``None`` if no maps were given.
    """

    pred_score: NDArray[np.float32]
    pred_label: NDArray[np.bool_]
    anomaly_map: NDArray[np.float32] | None = None
    pred_mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ExportedThresholds:
    """Thresholds that an exported model holds in its metadata.

    Attributes:
        thresholds: The pooled ones, which the graph uses, and those of categories.
        normalized: Whether the graph squashes its scores; they are raw otherwise. Defaults to ``True``.
        image_sensitivity: Images are anomalous above 1 minus this, on the squashed scale. Defaults to ``0.5``.
        pixel_sensitivity: The same for pixels. Defaults to ``0.5``.
    """

    thresholds: Thresholds
    normalized: bool = True
    image_sensitivity: float = 0.5
    pixel_sensitivity: float = 0.5

    def predict(
        self,
        category: str | None,
        pred_score: NDArray[np.floating],
        anomaly_map: NDArray[np.floating] | None = None,
    ) -> CategoryPrediction:
        """Convert the output of the exported model to what it would be with the thresholds of a category.

        Close to 1, a score keeps few digits of the raw score. An image whose raw score equals a category's threshold up
        to rounding may get the other label.

        Args:
            category: Name of the category, or ``None`` for the pooled thresholds.
            pred_score: Image scores from the model, of any shape.
            anomaly_map: Maps from the model, of any shape. Defaults to ``None``: no maps.

        Returns:
            Scores, labels, maps and masks.

        Raises:
            ValueError: If the category has no thresholds.
        """
        own, pooled = self.thresholds.of(category), self.thresholds.pooled
        score, label = self._convert(pred_score, pooled.image, own.image, self.image_sensitivity)
        if anomaly_map is None:
            return CategoryPrediction(score, label)
        return CategoryPrediction(
            score, label, *self._convert(anomaly_map, pooled.pixel, own.pixel, self.pixel_sensitivity)
        )

    def _convert(
        self,
        values: NDArray[np.floating],
        pooled: Threshold | None,
        own: Threshold | None,
        sensitivity: float,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Undo the pooled squashing and squash with the category's threshold.

        A level without thresholds was never squashed.
        """
        scores = torch.as_tensor(np.asarray(values, np.float64))
        if own is not None:
            if pooled is not None and self.normalized:
                scores = unsquash(scores, *_tensors(pooled))
            scores = squash(scores, *_tensors(own))
        array = scores.numpy().astype(np.float32)
        return array, array > np.float32(1 - sensitivity)

    def to_json(self) -> str:
        """Return the text for the metadata."""
        return json.dumps({
            **self.thresholds.to_plain(),
            "normalized": self.normalized,
            "image_sensitivity": self.image_sensitivity,
            "pixel_sensitivity": self.pixel_sensitivity,
        })

    @classmethod
    def from_json(cls, text: str) -> ExportedThresholds:
        """Read what :meth:`to_json` returned.

        Args:
            text: The text.

        Returns:
            The thresholds.
        """
        plain: dict[str, Any] = json.loads(text)
        settings = {name: plain[name] for name in ("normalized", "image_sensitivity", "pixel_sensitivity")}
        return cls(Thresholds.from_plain(plain), **settings)


def write_thresholds(path: str | Path, post_processor: object) -> None:
    """Store the thresholds of a model's post-processor in the metadata of the file that the model was exported to.

    Weights and graph stay as they are. Nothing happens if the post-processor is of another class or has found no
    thresholds yet.

    Args:
        path: The exported model: ``.onnx``, or ``.xml`` of OpenVINO with its ``.bin`` beside it.
        post_processor: Post-processor of the model that was exported.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If the package of its format is not installed.
        ValueError: If the file has another ending.
    """
    path = _checked(path)
    text = _thresholds_text(post_processor)
    if text is None:
        return
    if path.suffix == ".onnx":
        _write_onnx(path, text)
    else:
        _write_openvino(path, text)


def add_thresholds(model: openvino.Model, post_processor: object) -> None:
    """Store the thresholds of a post-processor in the metadata of a graph that is not saved yet.

    Nothing happens if the post-processor is of another class or has found no thresholds yet.

    Args:
        model: The graph.
        post_processor: Post-processor of the model that is exported.
    """
    text = _thresholds_text(post_processor)
    if text is not None:
        model.set_rt_info(text, _OPENVINO_PATH)


def read_thresholds(path: str | Path) -> ExportedThresholds:
    """Read the thresholds from the metadata of an exported model.

    Args:
        path: The exported model: ``.onnx``, or ``.xml`` of OpenVINO with its ``.bin`` beside it.

    Returns:
        The thresholds.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If the package of its format is not installed.
        ValueError: If the file has another ending or holds no thresholds.
    """
    path = _checked(path)
    text = _read_onnx(path) if path.suffix == ".onnx" else _read_openvino(path)
    if text is None:
        msg = (
            f"{path} holds no thresholds of categories. It was exported before a validation had found any, or by a "
            "model with another post-processor than CategoryPostProcessor."
        )
        raise ValueError(msg)
    return ExportedThresholds.from_json(text)


def _thresholds_text(post_processor: object) -> str | None:
    if not isinstance(post_processor, CategoryPostProcessor) or not post_processor.thresholds.pooled.to_plain():
        return None
    return ExportedThresholds(
        post_processor.thresholds,
        post_processor.enable_normalization,
        post_processor.image_sensitivity,
        post_processor.pixel_sensitivity,
    ).to_json()


def _write_onnx(path: Path, text: str) -> None:
    import onnx

    # Weights in a file of their own stay there, unread.
    model = onnx.load(path, load_external_data=False)
    properties = {entry.key: entry.value for entry in model.metadata_props} | {METADATA_KEY: text}
    onnx.helper.set_model_props(model, properties)
    with staged_file(path) as staged:
        onnx.save(model, staged)


def _read_onnx(path: Path) -> str | None:
    import onnx

    properties = onnx.load(path, load_external_data=False).metadata_props
    return next((entry.value for entry in properties if entry.key == METADATA_KEY), None)


def _write_openvino(path: Path, text: str) -> None:
    import openvino

    core = openvino.Core()
    # The file is replaced below, so it must not stay mapped into memory.
    core.set_property({"ENABLE_MMAP": False})
    model = core.read_model(path)
    model.set_rt_info(text, _OPENVINO_PATH)
    with staged_files(path.parent, path.suffix, f".{path.name}-") as folder:
        # Weights that were compressed stay compressed; compressing the others would change the model.
        openvino.save_model(model, folder / path.name, compress_to_fp16=False)
        del model


def _read_openvino(path: Path) -> str | None:
    import openvino

    model = openvino.Core().read_model(path)
    return str(model.get_rt_info(_OPENVINO_PATH).value) if model.has_rt_info(_OPENVINO_PATH) else None


def _checked(path: str | Path) -> Path:
    """Return the path if the file exists and its format is known."""
    path = Path(path)
    if path.suffix not in {".onnx", ".xml"}:
        msg = f"path must end in .onnx or .xml, got {str(path)!r}."
        raise ValueError(msg)
    if not path.is_file():
        msg = f"path {str(path)!r} is no file. Export the model first."
        raise FileNotFoundError(msg)
    return path


def _tensors(threshold: Threshold) -> tuple[torch.Tensor, torch.Tensor]:
    """Return threshold and scale in double precision."""
    return torch.tensor(threshold.value, dtype=torch.float64), torch.tensor(threshold.scale, dtype=torch.float64)
