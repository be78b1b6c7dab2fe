# SPDX-License-Identifier: Apache-2.0

"""Verify an exported model: against the model that it came from, and on another device.

``compare_with_openvino`` runs the exported model on images that the trained model has predicted. Both preprocess the
same files themselves, the trained model in anomalib's engine and the exported one in its graph, and the comparison is
of what a user acts on, score and label. ``verify_package`` checks that a package computes on this device what it
computed where it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from rich.progress import track

from anomalib_crad.deploy.package import EdgePackage
from anomalib_crad.deploy.run import EdgeModel, compile_for_bytes, read_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib_crad.deploy.package import ExpectedSample
    from anomalib_crad.prediction import Prediction


@dataclass(frozen=True)
class Agreement:
    """Scores and labels of two models on the same images.

    Attributes:
        table: One row an image: ``image_path``, ``score`` and ``label`` of the trained model, ``exported_score`` and
            ``exported_label`` of the exported one.
    """

    table: pd.DataFrame

    @property
    def largest_difference(self) -> float:
        """Largest absolute difference between the two scores of an image; squashed scores lie in [0, 1]."""
        return float((self.table["score"] - self.table["exported_score"]).abs().max(skipna=False))

    @property
    def equal_labels(self) -> int:
        """Number of images that both models label alike."""
        return int((self.table["label"] == self.table["exported_label"]).sum())

    def __str__(self) -> str:
        """One sentence for a person."""
        return (
            f"{len(self.table)} images: image scores differ by at most {self.largest_difference:.1e} on the scale from "
            f"0 to 1, {self.equal_labels} of {len(self.table)} labels are equal."
        )


@dataclass(frozen=True)
class Verification:
    """Expected and actual prediction for the sample of a package.

    Attributes:
        expected: Prediction where the package was made.
        found: Prediction on this device.
    """

    expected: ExpectedSample
    found: Prediction

    @property
    def agrees(self) -> bool:
        """Whether score and label are as expected.

        The label may differ if the expected score is within the tolerance of the threshold. NaN never agrees.
        """
        expected, found = self.expected, self.found
        same_label = found.label == expected.label or abs(expected.score - expected.limit) <= expected.tolerance
        return abs(found.score - expected.score) <= expected.tolerance and same_label

    def __str__(self) -> str:
        """One sentence for a person."""
        return (
            f"The sample's score is {self.found.score:.6f} ({_word(self.found.label)}), expected is "
            f"{self.expected.score:.6f} ({_word(self.expected.label)}) up to {self.expected.tolerance:g}: "
            f"{'it agrees' if self.agrees else 'it does NOT agree'}."
        )


def compare_with_openvino(predictions: Sequence[Prediction], model_path: Path, device: str = "CPU") -> Agreement:
    """Run an exported model on the images that a trained model has predicted.

    Args:
        predictions: Predictions of the trained model.
        model_path: The exported model: ``.xml`` of OpenVINO or ``.onnx``.
        device: OpenVINO's device. Defaults to ``"CPU"``.

    Returns:
        Scores and labels of both models.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
        OSError: If an image cannot be read.
        ValueError: If there are no predictions, or an image does not have 8 bits per channel.
    """
    if not predictions:
        msg = "predictions is empty: there is nothing to compare the exported model with."
        raise ValueError(msg)
    model = compile_for_bytes(model_path, device)
    rows = []
    for prediction in track(predictions, description="Running the exported model"):
        exported = model(read_frame(prediction.image_path)[None])
        rows.append({
            "image_path": prediction.image_path,
            "score": prediction.score,
            "label": prediction.label,
            "exported_score": exported["pred_score"].item(),
            "exported_label": bool(exported["pred_label"].item()),
        })
    return Agreement(pd.DataFrame(rows))


def verify_package(folder: str | Path, device: str = "CPU") -> Verification:
    """Check that a package is complete and unaltered, and run its sample.

    Args:
        folder: The package.
        device: OpenVINO's device. Defaults to ``"CPU"``.

    Returns:
        Expected and actual prediction.

    Raises:
        FileNotFoundError: If the folder is not a package, or is incomplete.
        ModuleNotFoundError: If OpenVINO is not installed.
        ValueError: If a file was altered.
    """
    package = EdgePackage.open(folder)
    expected = package.sample
    return Verification(expected, EdgeModel(package, device).predict(expected.path))


def _word(label: bool) -> str:
    return "anomalous" if label else "normal"
