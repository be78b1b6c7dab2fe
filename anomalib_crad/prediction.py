# SPDX-License-Identifier: Apache-2.0

"""Predictions of a trained model as plain values.

anomalib's batches have optional fields for every task; comparisons and pictures need four of them, all present and on
the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from anomalib.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from anomalib.data import AnomalibDataModule, ImageBatch
    from anomalib.models import AnomalibModule


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        image_path: The image.
        score: Image score, after the model's post-processor.
        label: Whether the image is called anomalous.
        anomaly_map: Height x width, after the model's post-processor.
    """

    image_path: str
    score: float
    label: bool
    anomaly_map: np.ndarray


def predict(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    checkpoint: Path | str | None,
    accelerator: str = "auto",
) -> list[Prediction]:
    """Predict the images of a datamodule's prediction set, without saving pictures.

    Args:
        model: The model; its visualizer is removed during the prediction and restored afterwards.
        datamodule: The datamodule of the images.
        checkpoint: Checkpoint to load weights and settings from, or ``None`` to keep the model's own.
        accelerator: Lightning's name of the device. Defaults to ``"auto"``.

    Returns:
        One prediction per image.
    """
    visualizer, model.visualizer = model.visualizer, None
    try:
        batches = Engine(accelerator=accelerator).predict(model, datamodule=datamodule, ckpt_path=checkpoint)
    finally:
        model.visualizer = visualizer
    return [
        Prediction(
            image_path=item.image_path,
            score=float(item.pred_score),
            label=bool(item.pred_label),
            anomaly_map=item.anomaly_map.squeeze().numpy(force=True),
        )
        for batch in cast("Iterable[ImageBatch]", batches or ())
        for item in cast("Iterable", batch)
    ]
