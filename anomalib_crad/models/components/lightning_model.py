# SPDX-License-Identifier: Apache-2.0

"""What anomalib's engine meets in every model that rebuilds the features of a frozen backbone.

Such models differ in the head that rebuilds, in its optimizer and in the map; steps, components, weights, checkpoints
and exports are the same and are here. anomalib lists direct subclasses of ``AnomalibModule`` only, so this is a mixin
and a model is ``class Model(FeatureReconstruction, AnomalibModule)``.
"""

from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from anomalib_crad.export.exportable import Exporting
from anomalib_crad.metrics import CategoryEvaluator
from anomalib_crad.models.components.checkpoints import ArchitectureCheck
from anomalib_crad.models.components.image_size import IMAGE_SIZE, resize_and_normalise
from anomalib_crad.models.components.training import TrainingDefaults
from anomalib_crad.post_processing import CategoryPostProcessor


class FeatureReconstruction(Exporting, ArchitectureCheck, TrainingDefaults):
    """Mixin for an ``AnomalibModule``; what its bases ask for must be set too.

    Attributes:
        model: Gives ``(reconstruction, features)`` in training mode and an ``InferenceBatch`` otherwise; its
            ``feature_extractor`` is a ``MultiScaleFeatures``.
        loss: Compares reconstruction and features.
    """

    loss: nn.Module

    @property
    def learning_type(self) -> LearningType:
        """Normal images only are learnt."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments that anomalib forces on the trainer.

        What a user may want to set is not here: epochs and clipping are filled in later, where the user was silent.
        """
        return {"num_sanity_val_steps": 0}

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize and normalise with ImageNet's mean and standard deviation.

        The resize has no antialiasing: an exported graph cannot have it, and scores must not change on export.

        Args:
            image_size: Height and width. Defaults to ``None``: 224 x 224.

        Returns:
            The pre-processor.
        """
        return resize_and_normalise(image_size or IMAGE_SIZE)

    @staticmethod
    def configure_post_processor() -> PostProcessor:
        """One threshold for all categories, at the best F1; scores are squashed so that no order is turned round."""
        return CategoryPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Metrics of each category and their mean, on raw scores."""
        return CategoryEvaluator()

    def setup(self, stage: str) -> None:
        """Fetch the backbone's weights before the first image is read; a checkpoint brings its own."""
        super().setup(stage)
        if stage == TrainerFn.FITTING and self.trainer.ckpt_path is None:
            self.fetch_weights()

    def training_loss(self, reconstruction: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What training minimises; a model may add terms of its own.

        Args:
            reconstruction: B x C x H x W.
            features: B x C x H x W.

        Returns:
            A scalar.
        """
        return self.loss(reconstruction, features)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Rebuild the features of normal images.

        Args:
            batch: Normal images.
            batch_idx: Not used.

        Returns:
            The loss.
        """
        del batch_idx
        reconstruction, features = self.model(batch.image)
        loss = self.training_loss(reconstruction, features)
        self.log(
            "train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(features), sync_dist=True
        )
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Score images.

        Args:
            batch: Images.
            batch_idx: Not used.

        Returns:
            The batch with predictions.
        """
        del batch_idx
        return batch.update(**self.model(batch.image)._asdict())
