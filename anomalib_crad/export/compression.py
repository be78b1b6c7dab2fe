# SPDX-License-Identifier: Apache-2.0

"""anomalib's compression types for an OpenVINO graph, with parts of the model kept in floating point.

anomalib compresses a graph as a whole, and calibrates on batches, which a datamodule cannot make from images of
different sizes. Our models take the same options and compress here instead; ``quantization`` calls NNCF. OpenVINO's own
compression to 16 bits takes every constant and cannot leave one out; ``halve_weights`` can (docs/benchmarks/int8.md
measures what each part costs). The device still chooses in what precision it computes, as with any model.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score
from torchmetrics import Metric

from anomalib_crad.export.quantization import (
    CALIBRATION_IMAGES,
    GraphImages,
    compress_weights,
    input_size,
    kept_operations,
    quantize,
    quantize_with_accuracy_control,
)
from anomalib_crad.optional_packages import require_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino
    from anomalib.data import AnomalibDataModule

logger = logging.getLogger(__name__)

#: Fewer training images than these are worth a warning.
FEW_IMAGES = 100
_NEEDS_IMAGES = {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}
_SCORES = {"pred_score", "anomaly_map"}
_LARGEST_HALF = float(np.finfo(np.float16).max)
#: Smaller numbers lose digits in half precision, and in the end all of them. In a constant whose largest number is
#: greater, the loss of a smaller number is nothing compared with the rounding of the largest.
_SMALLEST_HALF = float(np.finfo(np.float16).smallest_normal)


def check_compression(
    compression_type: CompressionType | None,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None,
    max_drop: float,
    raw_scores: bool = False,
) -> None:
    """Check that a compression can be done, before anything is exported.

    Args:
        compression_type: What the user asked for.
        datamodule: Images, or ``None``; it is set up if they are needed.
        metric: Measure of ``INT8_ACQ``, or ``None``.
        max_drop: Its largest drop.
        raw_scores: Whether the exported scores are raw. Defaults to ``False``.

    Raises:
        ModuleNotFoundError: If NNCF is needed and not installed.
        ValueError: If images are needed and there are none, or none of one label, or an option of ``INT8_ACQ`` is out
            of range.
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


def compress(
    model: openvino.Model,
    compression_type: CompressionType,
    datamodule: AnomalibDataModule | None,
    metric: Metric | None,
    max_drop: float,
    kept_modules: Sequence[str],
) -> openvino.Model:
    """Compress a graph.

    Args:
        model: The graph, its operations named by their modules; it may be changed.
        compression_type: How to compress it.
        datamodule: Images for ``INT8_PTQ`` and ``INT8_ACQ``, as :func:`check_compression` has set them up.
        metric: Measure of ``INT8_ACQ``; ``None`` is anomalib's F1 score of images.
        max_drop: Largest drop of the metric.
        kept_modules: Patterns of the modules that stay as they are, see :func:`.quantization.kept_operations`.

    Returns:
        The compressed graph.
    """
    if compression_type == CompressionType.FP16:
        return halve_weights(model, kept_modules)
    if datamodule is None or compression_type == CompressionType.INT8:
        return compress_weights(model, kept_modules)
    images = _calibration_images(datamodule, input_size(model))
    if compression_type == CompressionType.INT8_PTQ:
        return quantize(model, images, kept_modules)
    validation = GraphImages(datamodule.val_data, input_size(model))
    metric = F1Score(fields=["pred_label", "gt_label"]) if metric is None else metric
    return quantize_with_accuracy_control(model, images, validation, metric, max_drop, kept_modules)


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
            if largest == 0 or _SMALLEST_HALF <= largest <= _LARGEST_HALF:
                half = opset13.convert(opset13.constant(values.astype(np.float16)), openvino.Type.f32)
                place.replace_source_output(half.output(0))
    return model


def _calibration_images(datamodule: AnomalibDataModule, size: tuple[int, int] | None) -> GraphImages:
    images = GraphImages(datamodule.train_data, size, CALIBRATION_IMAGES)
    if len(images) < FEW_IMAGES:
        logger.warning("Only %d training images to quantise with; a few hundred are better.", len(images))
    return images
