# SPDX-License-Identifier: Apache-2.0

"""Trainings that are killed, or run out of disk, and go on: with the weights of a training that was not interrupted."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from made_up_models import datamodule, narrow_crad
from torch import multiprocessing

from anomalib_crad import FeatureCache
from anomalib_crad.models.components import checkpoint_writing
from anomalib_crad.models.components.checkpoint_writing import WholeCheckpointIO
from anomalib_crad.models.components.checkpoints import check_checkpoint_file

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer

EPOCHS = 4
KILLED_IN_EPOCH = 2

fork_server = multiprocessing.get_context("forkserver")
# Imported once: each process that is to be killed starts as a copy.
fork_server.set_forkserver_preload(["anomalib.engine", "made_up_models"])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KilledInEpoch(Callback):
    """Kills its process in the middle of an epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, number: int) -> None:
        if trainer.current_epoch == KILLED_IN_EPOCH and number == 1:
            kill()


def half_a_checkpoint(checkpoint: dict[str, Any], file: Any) -> None:  # noqa: ANN401
    """Write the first half of a checkpoint; the process is killed before the second half from some epoch on."""
    torch.save(checkpoint, file)
    if checkpoint["epoch"] == KILLED_IN_EPOCH:
        file.truncate(file.tell() // 2)
        file.flush()
        kill()


def killed_after_first_rows(original: Any, *arguments: Any) -> Any:  # noqa: ANN401
    """Compute the features of one batch."""
    for number, features in enumerate(original(*arguments)):
        if number:
            kill()
        yield features


def train(
    root: Path, folder: Path, cache: Path | None, *callbacks: Callback, checkpoint: Path | None = None
) -> dict[str, torch.Tensor]:
    """Train a model whose local memory is jittered, and return its weights."""
    torch.set_num_threads(1)
    model = narrow_crad(seed=3, lr_step=2)
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,
        callbacks=[FeatureCache(memory_gib=0, folder=cache), *callbacks],
    )
    engine.fit(model, datamodule=datamodule(root), ckpt_path=checkpoint)
    return model.model.state_dict()


def train_and_be_killed(moment: str, root: Path, folder: Path, cache: Path | None) -> None:
    from anomalib_crad.models.components import feature_cache  # in the process that is killed

    if moment == "cache":
        original = feature_cache._features
        feature_cache._features = lambda *arguments: killed_after_first_rows(original, *arguments)
    if moment == "checkpoint":
        checkpoint_writing.torch = SimpleNamespace(save=half_a_checkpoint)  # type: ignore[assignment]
    train(root, folder, cache, *([KilledInEpoch()] if moment == "epoch" else []))


@pytest.fixture(scope="module")
def whole(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a training that nobody interrupted."""
    return train(tiny_root, tmp_path_factory.mktemp("whole"), None)


@pytest.mark.parametrize(
    ("moment", "keep"), [("cache", True), ("cache", False), ("epoch", False), ("checkpoint", True)]
)
def test_a_killed_training_resumes_and_ends_as_if_it_had_not_been_killed(
    whole: dict[str, torch.Tensor], tiny_root: Path, tmp_path: Path, moment: str, keep: bool
) -> None:
    cache = tmp_path / "cache" if keep else None
    process = fork_server.Process(target=train_and_be_killed, args=(moment, tiny_root, tmp_path, cache))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    checkpoints = list(tmp_path.rglob("*.ckpt"))
    assert len(checkpoints) == (moment != "cache")
    for checkpoint in checkpoints:
        check_checkpoint_file(checkpoint)
    assert len(list(tmp_path.rglob("*.ckpt.unfinished"))) == (moment == "checkpoint")
    assert len(list(tmp_path.rglob("features-*"))) == keep

    resumed = train(tiny_root, tmp_path, cache, checkpoint=next(iter(checkpoints), None))
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name
    assert len(list(tmp_path.rglob("features-*.bin"))) == len(list(tmp_path.rglob("features-*"))) == keep


def test_a_full_disk_is_named_and_leaves_the_last_checkpoint(
    whole: dict[str, torch.Tensor], tiny_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        OSError, match=r"Cannot write the checkpoint '.*model.ckpt': File too large. The checkpoint tha"
    ):
        train(tiny_root, tmp_path, None, DiskFull())
    (checkpoint,) = tmp_path.rglob("*.ckpt*")
    resumed = train(tiny_root, tmp_path, None, checkpoint=checkpoint)
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name


class DiskFull(Callback):
    """Lets the system refuse large files from some epoch on: what a full disk does, without filling one."""

    def __init__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == KILLED_IN_EPOCH:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, self._limits[1]))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


@contextmanager
def largest_file(size: int) -> Generator[None, None, None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_checkpoint_that_is_not_written_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "weights" / "model.ckpt"
    with largest_file(100_000), pytest.raises(OSError, match=r"model\.ckpt': File too large\. Make room"):
        WholeCheckpointIO().save_checkpoint({"values": torch.zeros(100_000)}, path)
    assert not list(path.parent.iterdir())

    path.mkdir()
    with pytest.raises(OSError, match=r"model\.ckpt': Is a directory\. Make room"):
        WholeCheckpointIO().save_checkpoint({}, path)


def test_an_error_that_is_not_the_disks_stays(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="pickle"):
        WholeCheckpointIO().save_checkpoint({"function": lambda: None}, tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_leftover_is_overwritten_and_addresses_are_left_to_lightning(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.with_name("model.ckpt.unfinished").write_bytes(b"half of one")
    WholeCheckpointIO().save_checkpoint({"value": 1}, path)
    WholeCheckpointIO().save_checkpoint({"value": 2}, f"memory://{tmp_path.name}/model.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]
    assert WholeCheckpointIO().load_checkpoint(path) == {"value": 1}
    assert WholeCheckpointIO().load_checkpoint(f"memory://{tmp_path.name}/model.ckpt") == {"value": 2}


def test_a_way_of_writing_that_a_user_has_chosen_stays(tiny_root: Path, tmp_path: Path) -> None:
    chosen = AsyncCheckpointIO()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, plugins=[chosen], logger=False)
    engine.fit(narrow_crad(), datamodule=datamodule(tiny_root))
    assert engine.trainer.strategy.checkpoint_io is chosen
    assert len(list(tmp_path.rglob("model.ckpt"))) == 1
