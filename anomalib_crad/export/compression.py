# SPDX-License-Identifier: Apache-2.0

"""anomalib's compression types on an exported OpenVINO file, with parts of the model kept in floating point.

anomalib compresses a graph as a whole, and calibrates on batches that a datamodule cannot make from images of
different sizes. The same options lead here instead; ``quantization`` has the calls of NNCF.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score
from torchmetrics import Metric

from anomalib_crad.export.calibration import CALIBRATION_IMAGES, GraphImages
from anomalib_crad.export.half_precision import halve_weights
from anomalib_crad.export.quantization import compress_weights, input_size, quantize, quantize_with_accuracy_control
from anomalib_crad.optional_packages import require_packages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib.data import AnomalibDataModule

logger = logging.getLogger(__name__)

FEW_IMAGES = 100
_NEEDS_IMAGES = {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}
_SCORES = {"pred_score", "anomaly_map"}


def check_compression(
    compression_type: CompressionType | None,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None,
    max_drop: float,
    raw_scores: bool = False,
) -> None:
    """See that a compression can be done, before anything is exported.

    Args:
        compression_type: What was asked for.
        datamodule: Images, or ``None``; they are set up where they are needed.
        metric: Measure of ``INT8_ACQ``, or ``None``.
        max_drop: Its largest drop.
        raw_scores: Whether the exported scores are raw. Defaults to ``False``.

    Raises:
        ModuleNotFoundError: If NNCF is needed and not installed.
        ValueError: If images are needed and there are none, or none of one label, or an option of ``INT8_ACQ`` is out
            of its range.
    """
    if compression_type in {None, CompressionType.FP16}:
        return
    name = CompressionType(compression_type).name
    require_packages(f"compression_type={name}", "nncf")
    if compression_type not in _NEEDS_IMAGES:
        return
    if datamodule is None:
        msg = (
            f"compression_type={name} reads training images to find the range of values, but no datamodule was given. "
            "Pass the one that the model was trained on (command line: --data MVTec ...), or take INT8, which "
            "compresses weights without images."
        )
        raise ValueError(msg)
    if compression_type == CompressionType.INT8_ACQ:
        _check_accuracy_control(metric, max_drop, raw_scores)
    datamodule.prepare_data()
    datamodule.setup("fit")
    if not len(datamodule.train_data):
        msg = (
            f"compression_type={name} reads training images to find the range of values, but the datamodule has none. "
            "Take INT8, which compresses weights without images."
        )
        raise ValueError(msg)
    if compression_type == CompressionType.INT8_ACQ:
        _check_validation_images(datamodule)


def _check_accuracy_control(metric: Metric | None, max_drop: float, raw_scores: bool) -> None:
    if metric is not None and not isinstance(metric, Metric):
        msg = (
            f"metric must be a metric of anomalib, such as F1Score(fields=['pred_label', 'gt_label']), got {metric!r}."
        )
        raise ValueError(msg)
    if not 0 <= max_drop <= 1:
        msg = (
            "max_drop is how far the metric may drop (0.01: from 0.95 to 0.94) and must be from 0 to 1, got "
            f"{max_drop}."
        )
        raise ValueError(msg)
    if raw_scores and _SCORES & set(getattr(metric, "fields", ())):
        msg = (
            "metric reads scores, but the exported ones are raw, distances without an upper bound, and torchmetrics "
            "takes what is not between 0 and 1 for logits, of which all are nearly 1. Leave raw_scores out, or take a "
            "metric of labels, such as F1Score(fields=['pred_label', 'gt_label'])."
        )
        raise ValueError(msg)


def _check_validation_images(datamodule: AnomalibDataModule) -> None:
    # There is no attribute at all where the datamodule makes no validation set.
    images = getattr(datamodule, "val_data", None)
    if images is None or not images.has_normal or not images.has_anomalous:
        msg = (
            "compression_type=INT8_ACQ needs validation images with both labels, normal and anomalous, which this "
            "datamodule does not have (command line: --data.val_split_mode same_as_test). INT8_PTQ does without."
        )
        raise ValueError(msg)


def compress_file(
    path: Path,
    compression_type: CompressionType,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None,
    max_drop: float,
    kept_modules: Sequence[str],
) -> None:
    """Compress an exported model in place.

    Args:
        path: The ``.xml`` file, its operations named by their modules.
        compression_type: How.
        datamodule: Images for ``INT8_PTQ`` and ``INT8_ACQ``, as :func:`check_compression` has set them up.
        metric: Measure of ``INT8_ACQ``; ``None`` is anomalib's F1 score of images.
        max_drop: Largest drop of it.
        kept_modules: Patterns of the modules that are left as they are.
    """
    import openvino

    core = openvino.Core()
    # The file is written again below, so it must not stay mapped into memory.
    core.set_property({"ENABLE_MMAP": False})
    model = core.read_model(path)
    if compression_type == CompressionType.FP16:
        model = halve_weights(model, kept_modules)
    elif datamodule is None or compression_type == CompressionType.INT8:
        model = compress_weights(model, kept_modules)
    else:
        images = _calibration_images(datamodule, input_size(model))
        if compression_type == CompressionType.INT8_PTQ:
            model = quantize(model, images, kept_modules)
        else:
            validation = GraphImages(datamodule.val_data, input_size(model))
            metric = F1Score(fields=["pred_label", "gt_label"]) if metric is None else metric
            model = quantize_with_accuracy_control(model, images, validation, metric, max_drop, kept_modules)
    openvino.save_model(model, path, compress_to_fp16=False)


def _calibration_images(datamodule: AnomalibDataModule, size: tuple[int, int] | None) -> GraphImages:
    images = GraphImages(datamodule.train_data, size, CALIBRATION_IMAGES)
    if len(images) < FEW_IMAGES:
        logger.warning("Only %d training images to quantise with; a few hundred are better.", len(images))
    return images
