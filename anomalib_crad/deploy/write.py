# SPDX-License-Identifier: Apache-2.0

"""From a trained model to a package: export, run the sample in both, and write one folder.

The folder is written whole or not at all, and only if the exported model says of the sample what the trained one says.
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
from anomalib.deploy import CompressionType

from anomalib_crad.deploy.checkpoint import describe_checkpoint, found_thresholds
from anomalib_crad.deploy.frames import read_frame
from anomalib_crad.deploy.package import MODEL, README, SAMPLE, WEIGHTS, EdgePackage, file_hash, write_metadata
from anomalib_crad.deploy.package_readme import package_readme
from anomalib_crad.deploy.run import OUTPUTS, EdgeModel
from anomalib_crad.files import staged_folder
from anomalib_crad.optional_packages import require_packages
from anomalib_crad.post_processing import read_thresholds, write_thresholds
from anomalib_crad.provenance import describe_model, describe_versions, plain

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
#: Quantised, between devices only: what quantising itself changes is said, and for the user to judge on a test set.
INT8_TOLERANCE = 5e-2


@dataclass(frozen=True)
class _Origin:
    """Where a package comes from.

    Attributes:
        model: The trained model.
        checkpoint: What is noted down of the file that it was loaded from, if it was.
        compression: How the exported one is compressed.
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
        model: A trained model with a ``CategoryPostProcessor`` that a validation has given thresholds. It is put into
            evaluation mode, on the CPU.
        folder: The folder to make. Its name is the model's name for OpenVINO Model Server.
        sample: An image file. A copy goes into the folder, so its licence must allow to pass it on with the model.
        checkpoint: File that the model was loaded from; its hash and its number of epochs are noted down.
            Defaults to ``None``.
        compression_type: How weights are compressed or the model is quantised. Defaults to ``None``: not at all.
        datamodule: Images for quantisation. Defaults to ``None``.
        categories: What the model was trained on, beside the categories of its validation, which are known.
            Defaults to none.

    Returns:
        The package.

    Raises:
        FileExistsError: If ``folder`` exists.
        FileNotFoundError: If ``checkpoint`` does not exist.
        ModuleNotFoundError: If an optional dependency of exports is not installed.
        OSError: If the folder cannot be written, or the sample cannot be read.
        RuntimeError: If the exported model does not agree with the trained one.
        ValueError: If the model was not trained and validated, ``checkpoint`` is not one, ``compression_type`` is
            unknown, or the sample is not of 8 bits.
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
        # The exported model is run as the package will run it, from a package without an expectation yet.
        exported = EdgeModel(EdgePackage(whole, metadata)).predict(whole / sample_name)
        metadata["sample"] = {"file": sample_name, **_expectation(trained, exported, compression)}
        (whole / README).write_text(package_readme(Path(folder).name, metadata), encoding="utf-8")
        write_metadata(whole, metadata)
    return EdgePackage.open(folder)


def _predict(model: AnomalibModule, sample: Path) -> tuple[float, bool]:
    """Return score and label of the trained model."""
    image = torch.from_numpy(read_frame(sample)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        prediction = model(image)
    return prediction.pred_score.item(), bool(prediction.pred_label.item())


def _export(origin: _Origin, whole: Path, datamodule: AnomalibDataModule | None) -> None:
    """Export, and leave the two files where a package has them."""
    root = whole / "export"
    exported = origin.model.to_openvino(root, compression_type=origin.compression, datamodule=datamodule)
    # Our models have done so, anomalib's have not.
    write_thresholds(exported, origin.model.post_processor)
    (whole / MODEL).parent.mkdir()
    exported.replace(whole / MODEL)
    exported.with_suffix(".bin").replace(whole / WEIGHTS)
    shutil.rmtree(root)


def _metadata(origin: _Origin, whole: Path, categories: Sequence[str]) -> dict[str, Any]:
    """Collect what is known of the model, as plain data."""
    thresholds = read_thresholds(whole / MODEL)
    model = describe_model(origin.model)
    validated = cast("CategoryPostProcessor", origin.model.post_processor).validated_categories
    image_size = model["hyper_parameters"].get("image_size") or origin.model.input_size
    return plain({
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
    """Compare trained and exported model on the sample, and say what to expect on a device."""
    tolerances = {None: FP32_TOLERANCE, CompressionType.FP16: FP16_TOLERANCE}
    tolerance = tolerances.get(compression)
    score, label = trained
    difference = abs(exported.score - score)
    if tolerance is None:
        logger.info("Quantising changed the sample's score from %.4f to %.4f.", score, exported.score)
    elif not difference <= tolerance:  # NaN is no agreement either
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
