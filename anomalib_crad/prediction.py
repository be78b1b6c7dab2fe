# SPDX-License-Identifier: Apache-2.0

"""Predictions of a trained model as plain values.

anomalib's batches have optional fields for every task; comparisons and pictures need four of them, all present and on
the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from anomalib.engine import Engine
from lightning.pytorch import Callback

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from anomalib.data import AnomalibDataModule, ImageBatch
    from anomalib.models import AnomalibModule
    from lightning.pytorch import LightningModule, Trainer


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


class CollectedPredictions(Callback):
    """Keeps the predictions of a test, so that nothing has to be predicted again for a comparison or a picture.

    Attributes:
        predictions (list[Prediction]): One prediction per image of the last test.
    """

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        self._last: ImageBatch | None = None

    def on_test_epoch_start(self, *_args: object, **_kwargs: object) -> None:
        """Forget the predictions of an earlier test."""
        self.predictions = []

    def on_test_batch_start(self, *_args: object, **_kwargs: object) -> None:
        """Take over the batch before this one."""
        self._take()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: object) -> None:  # noqa: ANN401
        """Remember the batch, which the post-processor is going to change after this hook."""
        del trainer, pl_module
        self._last = outputs

    def on_test_epoch_end(self, *_args: object, **_kwargs: object) -> None:
        """Take over the last batch."""
        self._take()

    def _take(self) -> None:
        if self._last is not None:
            self.predictions += predictions_of(self._last)
            self._last = None


def predictions_of(batch: ImageBatch) -> list[Prediction]:
    """Turn a batch with predictions into plain values.

    Args:
        batch: anomalib's batch, after the post-processor.

    Returns:
        One prediction per image.
    """
    return [
        Prediction(
            image_path=item.image_path,
            score=float(item.pred_score),
            label=bool(item.pred_label),
            anomaly_map=item.anomaly_map.squeeze().numpy(force=True),
        )
        for item in cast("Iterable", batch)
    ]


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
    return [prediction for batch in cast("Iterable[ImageBatch]", batches or ()) for prediction in predictions_of(batch)]
