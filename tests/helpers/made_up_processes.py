# SPDX-License-Identifier: Apache-2.0

"""Two processes that train together, and what a test has to know about a training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from anomalib.engine import Engine
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Callback
from torch import multiprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer


def in_two_processes(work: Callable[..., dict[str, Any]], folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Call a function with these arguments in each of two processes; return what each returns."""
    multiprocessing.spawn(_take_part, (work, folder, arguments, find_free_network_port()), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _take_part(rank: int, work: Callable[..., dict[str, Any]], folder: Path, arguments: tuple, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    torch.save(work(folder, 2, *arguments), folder / f"{rank}.pt")


class Losses(Callback):
    """Training losses of all steps, their mean over all processes, and the images of each batch."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.images: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: object) -> None:  # noqa: ANN401
        self.images += getattr(batch, "image_path", [])

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, torch.Tensor], *_: object
    ) -> None:
        self.values.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))


def make_engine(folder: Path, processes: int, *callbacks: Callback, **trainer: Any) -> Engine:  # noqa: ANN401
    """An engine of one process, or of one of several on this machine."""
    if processes > 1:
        # Spawned processes start alike, and anomalib fails if two make the same version's folder at once.
        folder /= f"process_{os.environ['LOCAL_RANK']}"
    return Engine(
        callbacks=list(callbacks),
        default_root_dir=folder,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        **{"logger": False, "enable_progress_bar": False, **trainer},
    )
