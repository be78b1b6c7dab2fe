# SPDX-License-Identifier: Apache-2.0

"""Models that train in seconds, and what a test of their training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback

from anomalib_crad import Crad, Dmad, HVQTrans, MVTec, UniAD

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer


OurModel: TypeAlias = Crad | Dmad | HVQTrans | UniAD

#: What all narrow models share.
NARROW: dict[str, Any] = {
    "backbone": "resnet18",
    "layers": ["layer1", "layer2"],
    "pre_trained": False,
    "image_size": (32, 32),
    "visualizer": False,
}


def narrow_crad(**arguments: Any) -> Crad:  # noqa: ANN401
    """Random features, 8 x 8 positions."""
    options: dict[str, Any] = {
        **NARROW,
        "num_blocks": 1,
        "hidden_channels": 8,
        **arguments,
    }
    return Crad(**options)


def narrow_uniad(**arguments: Any) -> UniAD:  # noqa: ANN401
    """Random features, 4 x 4 positions."""
    options: dict[str, Any] = {
        **NARROW,
        "hidden_dim": 8,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "feedforward_dim": 8,
        "neighbor_size": (3, 3),
        **arguments,
    }
    return UniAD(**options)


def narrow_hvq_trans(**arguments: Any) -> HVQTrans:  # noqa: ANN401
    """Random features, 4 x 4 positions, 3 levels of 16 codes."""
    options: dict[str, Any] = {
        **NARROW,
        "hidden_dim": 8,
        "num_codes": 16,
        "num_heads": 2,
        "num_layers": 2,
        "feedforward_dim": 8,
        **arguments,
    }
    return HVQTrans(**options)


def narrow_dmad(**arguments: Any) -> Dmad:  # noqa: ANN401
    """Random features, 8 x 8 patches of 24 numbers."""
    options: dict[str, Any] = {
        **NARROW,
        "dim": 24,
        "hidden_dim": 16,
        **arguments,
    }
    return Dmad(**options)


def datamodule(root: Path, **arguments: Any) -> MVTec:  # noqa: ANN401
    options = {"category": ["blue", "green"], "train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
    return MVTec(root=root, **{**options, **arguments})


class Recorder(Callback):
    """Learning rates of each epoch, and the gradient's norm after clipping."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.norms: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        # Clipping comes after this hook, and is asked for here as the trainer will ask.
        pl_module.configure_gradient_clipping(trainer.optimizers[0], trainer.gradient_clip_val, None)
        gradients = [value.grad.norm() for value in pl_module.parameters() if value.grad is not None]
        self.norms.append(torch.stack(gradients).norm().item())


def fit(root: Path, model: OurModel, tmp_path: Path, **trainer: Any) -> tuple[Engine, Recorder]:  # noqa: ANN401
    recorder = Recorder()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", callbacks=[recorder], **trainer)
    engine.fit(model, datamodule=datamodule(root))
    return engine, recorder
