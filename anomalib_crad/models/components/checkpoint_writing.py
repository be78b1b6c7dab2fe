# SPDX-License-Identifier: Apache-2.0

"""Write checkpoints whole or not at all.

Lightning writes a checkpoint to the folder for temporary files and moves it. Where that folder is on another disk,
moving is copying: a training that is killed meanwhile, or a full disk, leaves half a file in place of the last good
checkpoint. Here a checkpoint is written beside its place, forced to the disk and then renamed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback

if TYPE_CHECKING:
    from lightning.fabric.utilities.types import _PATH
    from lightning.pytorch import Trainer

UNFINISHED = ".unfinished"


class WholeCheckpointIO(AnomalibCheckpointIO):
    """Reads checkpoints as anomalib does, and writes them whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:  # noqa: ANN401  # Lightning's
        """Write a checkpoint.

        What an earlier run left unfinished under the same name is overwritten.

        Args:
            checkpoint: What Lightning saves.
            path: File to write; its folder is made. An address in the network (``s3://...``) is left to Lightning.
            storage_options: Left to Lightning, which refuses them.

        Raises:
            OSError: If the file cannot be written, for lack of room or of permission.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, unfinished)
            unfinished.replace(path)
        except BaseException as error:
            unfinished.unlink(missing_ok=True)
            reason = _reason(error)
            if reason is None:
                raise
            raise _explained(reason, path) from error


class WholeCheckpoints(Callback):
    """Lets a trainer write its checkpoints whole or not at all; a ``CheckpointIO`` that a user has chosen stays."""

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Replace the strategy's way to write."""
        current = trainer.strategy.checkpoint_io
        if type(current) in {TorchCheckpointIO, AnomalibCheckpointIO}:
            safe_globals = getattr(current, "extra_safe_globals", ())
            trainer.strategy.checkpoint_io = WholeCheckpointIO(safe_globals)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())  # else a power failure may leave the name without the content


def _reason(error: BaseException) -> OSError | None:
    """The ``OSError`` that caused an error of ``torch.save``, whose own message speaks of file positions."""
    if isinstance(error, OSError):
        return error
    return error.__context__ if isinstance(error.__context__, OSError) else None


def _explained(reason: OSError, path: Path) -> OSError:
    kept = " The checkpoint that was written there before is whole." if path.is_file() else ""
    msg = (
        f"Cannot write the checkpoint '{path}': {reason.strerror or reason}.{kept} Make room or mend the permissions, "
        "and resume from the last checkpoint (--ckpt_path)."
    )
    return OSError(msg) if reason.errno is None else OSError(reason.errno, msg)
