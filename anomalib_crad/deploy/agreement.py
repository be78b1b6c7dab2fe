# SPDX-License-Identifier: Apache-2.0

"""Agreement of an exported model with the model it came from.

Both see the same image files and both pre-process them: the trained model through anomalib's engine, the exported one
in its graph, run by OpenVINO. Compared is what a user acts on, the image score and the label.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from rich.progress import track

from anomalib_crad.deploy.compiled import compile_for_bytes
from anomalib_crad.deploy.frames import read_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib_crad.prediction import Prediction

logger = logging.getLogger(__name__)


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
        """Largest absolute difference of two scores of an image; normalised scores lie in [0, 1]."""
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


def compare_with_openvino(predictions: Sequence[Prediction], model_path: Path, device: str = "CPU") -> Agreement:
    """Run an exported model on the images that a trained model was run on.

    Args:
        predictions: Predictions of the trained model.
        model_path: The exported model: ``.xml`` of OpenVINO or ``.onnx``.
        device: OpenVINO's device. Defaults to ``"CPU"``.

    Returns:
        Scores and labels of both.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
        OSError: If an image cannot be read.
        ValueError: If there are no predictions, or an image is not of 8 bits.
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
