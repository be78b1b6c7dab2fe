# SPDX-License-Identifier: Apache-2.0

"""From a trained model to a package: export it, run both models on the sample, and write one folder.

The folder is written whole or not at all, and only if the exported model gives the sample the trained model's score.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.data.utils import LabelName
from anomalib.deploy import CompressionType

from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.deploy.checkpoint import describe_checkpoint, found_thresholds
from anomalib_crad.deploy.package import (
    MODEL,
    README,
    SAMPLE,
    WEIGHTS,
    EdgePackage,
    file_hash,
    package_readme,
    write_metadata,
)
from anomalib_crad.deploy.run import OUTPUTS, EdgeModel, read_frame
from anomalib_crad.export.exportable import Exportable
from anomalib_crad.export.thresholds import read_thresholds, write_thresholds
from anomalib_crad.files import staged_folder
from anomalib_crad.optional_packages import require_packages
from anomalib_crad.provenance import describe_model, describe_versions, json_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib.data import AnomalibDataModule
    from anomalib.models import AnomalibModule

    from anomalib_crad.post_processing import CategoryPostProcessor
    from anomalib_crad.prediction import Prediction

logger = logging.getLogger(__name__)

#: Largest difference of a sample's score in (0, 1) between the trained and the exported model, and between devices.
FP32_TOLERANCE = 1e-3
FP16_TOLERANCE = 1e-2
#: For quantised models, between devices only. What quantising itself changes is logged; a user judges it on a test set.
INT8_TOLERANCE = 5e-2


@dataclass(frozen=True)
class _Origin:
    """What a package is made from.

    Attributes:
        model: The trained model.
        checkpoint: Description of the checkpoint, if there is one.
        compression: How the exported model is compressed.
    """

    model: AnomalibModule
    checkpoint: Mapping[str, Any] | None
    compression: CompressionType | None


def write_package(
    model: AnomalibModule,
    folder: str | Path,
    sample: str | Path,
    checkpoint: str | Path | None = None,
    compression_type: CompressionType | None = None,
    datamodule: AnomalibDataModule | None = None,
    categories: Sequence[str] = (),
) -> EdgePackage:
    """Export a trained model into a folder that holds all that a device needs.

    Args:
        model: A trained model with a ``CategoryPostProcessor`` whose thresholds a validation has found. It is put into
            evaluation mode, on the CPU.
        folder: The folder to make. Its name is the model's name for OpenVINO Model Server.
        sample: An image file. A copy goes into the folder, so its licence must allow you to pass it on.
        checkpoint: File that the model was loaded from; the metadata get its hash and its number of epochs.
            Defaults to ``None``.
        compression_type: How weights are compressed or the model is quantised. Defaults to ``None``: no compression.
        datamodule: Images for quantisation. Defaults to ``None``.
        categories: Categories that the model was trained on; those of its validation are added. Defaults to none.

    Returns:
        The package.

    Raises:
        FileExistsError: If ``folder`` exists.
        FileNotFoundError: If ``checkpoint`` does not exist.
        ModuleNotFoundError: If an optional dependency of exports is not installed.
        OSError: If the folder cannot be written, or the sample cannot be read.
        RuntimeError: If the exported model does not agree with the trained one.
        ValueError: If the model was not trained and validated, ``checkpoint`` is not a checkpoint,
            ``compression_type`` is unknown, or the sample does not have 8 bits per channel.
    """
    require_packages("A package for a device", "openvino", "onnx", "onnxscript")
    compression = None if compression_type is None else CompressionType(compression_type)
    found_thresholds(model)
    described = None if checkpoint is None else describe_checkpoint(checkpoint, type(model))
    origin = _Origin(model.eval().cpu(), described, compression)
    trained = _predict(model, Path(sample))
    with staged_folder(folder) as whole:
        _export(origin, whole, datamodule)
        sample_name = SAMPLE + Path(sample).suffix.lower()
        shutil.copyfile(sample, whole / sample_name)
        metadata = _metadata(origin, whole, categories)
        # Run the exported model as a device will, from a package that has no expected score yet.
        exported = EdgeModel(EdgePackage(whole, metadata)).predict(whole / sample_name)
        metadata["sample"] = {"file": sample_name, **_expectation(trained, exported, compression)}
        (whole / README).write_text(package_readme(Path(folder).name, metadata), encoding="utf-8")
        write_metadata(whole, metadata)
    return EdgePackage.open(folder)


def choose_sample(datamodule: AnomalibDataModule | None) -> Path:
    """Choose a test image as the sample; an anomalous one, if possible, shows more of what the model does.

    Args:
        datamodule: The data; it is prepared and set up. ``None`` if the user named no data.

    Returns:
        The first anomalous test image, or the first test image.

    Raises:
        ValueError: If there are no data or no test images.
    """
    if datamodule is None:
        msg = "A package needs a sample image. Name one with --sample, or images with --data or --config."
        raise ValueError(msg)
    datamodule.prepare_data()
    datamodule.setup()
    samples = datamodule.test_data.samples
    if samples.empty:
        msg = f"There are no test images in {datamodule.name}. Name an image with --sample."
        raise ValueError(msg)
    anomalous = samples[samples["label_index"] == LabelName.ABNORMAL]
    return Path((samples if anomalous.empty else anomalous)["image_path"].iloc[0])


def categories_of(datamodule: AnomalibDataModule | None) -> tuple[str, ...]:
    """List the categories of a datamodule.

    Args:
        datamodule: The datamodule, or ``None``.

    Returns:
        Their names; empty without a datamodule.
    """
    if datamodule is None:
        return ()
    if isinstance(datamodule, MultiCategory):
        return tuple(datamodule.categories)
    return (datamodule.category or datamodule.name,)


def _predict(model: AnomalibModule, sample: Path) -> tuple[float, bool]:
    """Return score and label of the trained model."""
    image = torch.from_numpy(read_frame(sample)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        prediction = model(image)
    return prediction.pred_score.item(), bool(prediction.pred_label.item())


def _export(origin: _Origin, whole: Path, datamodule: AnomalibDataModule | None) -> None:
    """Export the model, and move its two files to their places in a package."""
    root = whole / "export"
    exported = origin.model.to_openvino(root, compression_type=origin.compression, datamodule=datamodule)
    if not isinstance(origin.model, Exportable):
        write_thresholds(exported, origin.model.post_processor)
    (whole / MODEL).parent.mkdir()
    exported.replace(whole / MODEL)
    exported.with_suffix(".bin").replace(whole / WEIGHTS)
    shutil.rmtree(root)


def _metadata(origin: _Origin, whole: Path, categories: Sequence[str]) -> dict[str, Any]:
    """Collect what is known about the model, as plain data."""
    thresholds = read_thresholds(whole / MODEL)
    model = describe_model(origin.model)
    validated = cast("CategoryPostProcessor", origin.model.post_processor).validated_categories
    image_size = model["hyper_parameters"].get("image_size") or origin.model.input_size
    return json_value({
        "name": model["class"].rpartition(".")[2],
        "categories": sorted({*thresholds.thresholds.categories, *validated, *categories}),
        "thresholds": json.loads(thresholds.to_json()),
        "image_size": image_size,
        "precision": "FP32" if origin.compression is None else origin.compression.name,
        "input": "images x 3 x height x width of any size, red, green, blue, from 0 to 1",
        "outputs": OUTPUTS,
        "weights_sha256": file_hash(whole / WEIGHTS),
        "checkpoint": origin.checkpoint,
        "training": model,
        "versions": describe_versions(("openvino", "onnx", "nncf")),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    })


def _expectation(
    trained: tuple[float, bool], exported: Prediction, compression: CompressionType | None
) -> dict[str, Any]:
    """Compare trained and exported model on the sample, and return what to expect on a device."""
    tolerances = {None: FP32_TOLERANCE, CompressionType.FP16: FP16_TOLERANCE}
    tolerance = tolerances.get(compression)
    score, label = trained
    difference = abs(exported.score - score)
    if tolerance is None:
        logger.info("Quantising changed the sample's score from %.4f to %.4f.", score, exported.score)
    elif not difference <= tolerance:  # true for NaN too
        msg = (
            f"The exported model gives the sample the score {exported.score:.6f}, the trained one {score:.6f}; allowed "
            f"is a difference of {tolerance}. Nothing was written."
        )
        raise RuntimeError(msg)
    return {
        "score": exported.score,
        "label": exported.label,
        "tolerance": INT8_TOLERANCE if tolerance is None else tolerance,
        "trained_score": score,
        "trained_label": label,
    }
