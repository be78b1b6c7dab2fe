# SPDX-License-Identifier: Apache-2.0

"""Where cached features are: in the memory of one process, or in a file that processes share.

A file appears under its name only when it is complete, and the name holds a fingerprint of everything that the features
depend on. A file of another size than its name promises is not used. A file that is not kept has no name as soon as
everybody has opened it, so that it is gone however the training ends.

Axis letters: N images, B batch, C channels, H x W positions.
"""

from __future__ import annotations

import logging
import os
import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)


class FeatureStore(ABC):
    """Features of N images.

    Args:
        shape: N, C, H, W.
        dtype: Type of the stored numbers; they are read as single precision.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype

    def rows(self, trainer: Trainer) -> list[int]:
        """Images whose features this process computes.

        Args:
            trainer: The trainer of the run.
        """
        return list(range(self.shape[0]))[trainer.local_rank % self._processes(trainer) :: self._processes(trainer)]

    @abstractmethod
    def open(self, trainer: Trainer) -> bool:
        """Use features that exist already.

        Args:
            trainer: The trainer of the run.

        Returns:
            Whether there are any.
        """

    @abstractmethod
    def fill(self, trainer: Trainer, features: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:
        """Store features; every process calls it with its own.

        Args:
            trainer: The trainer of the run.
            features: Rows and their features, B x C x H x W.

        Raises:
            OSError: If there is no room for them, in any of the processes.
        """

    @abstractmethod
    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the features of some images, B x C x H x W, in single precision.

        Args:
            rows: The images.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the features."""

    @staticmethod
    def _processes(trainer: Trainer) -> int:
        return max(trainer.world_size // trainer.num_nodes, 1)

    def _to_stored(self, features: torch.Tensor) -> torch.Tensor:
        stored = features.detach().to("cpu", self.dtype)
        if self.dtype == torch.float16 and not bool(torch.isfinite(stored).all()):
            msg = "Features are too large for 16 bits. Leave out half_precision."
            raise ValueError(msg)
        return stored


class MemoryStore(FeatureStore):
    """Features in the memory of one process."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        super().__init__(shape, dtype)
        self._features = torch.empty(0)

    def __str__(self) -> str:
        """Where the features are, for the log."""
        return "in memory"

    def open(self, trainer: Trainer) -> bool:  # noqa: ARG002
        """Return that there are none yet."""
        return False

    def fill(self, trainer: Trainer, features: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:  # noqa: ARG002
        """Store features."""
        self._features = torch.empty(self.shape, dtype=self.dtype)
        for rows, values in features:
            self._features[list(rows)] = self._to_stored(values)

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the features of some images."""
        return self._features[list(rows)].float()

    def close(self) -> None:
        """Free the memory."""
        self._features = torch.empty(0)


class FileStore(FeatureStore):
    """Features in a file that the processes of a machine share.

    Args:
        folder: Folder of the file.
        key: Fingerprint of everything that the features depend on.
        shape: N, C, H, W.
        dtype: Type of the stored numbers.
        keep: Whether the file stays when the training is over.
    """

    def __init__(
        self, folder: Path, key: str, shape: tuple[int, int, int, int], dtype: torch.dtype, keep: bool
    ) -> None:
        super().__init__(shape, dtype)
        self.folder = folder
        self.keep = keep
        self._stem = f"features-{key[:32]}"
        self._numbers: np.memmap | None = None

    def __str__(self) -> str:
        """Where the features are, for the log."""
        return f"in {self.folder}"

    def open(self, trainer: Trainer) -> bool:
        """Map a complete file of this name; processes decide together."""
        path = self._path(trainer)
        found = self.keep and path.is_file() and path.stat().st_size == self._size
        if self.keep and path.is_file() and not found:
            logger.warning("'%s' is not complete and is written again.", path)
        if not trainer.strategy.reduce_boolean_decision(found):
            return False
        self._map(path)
        return True

    def fill(self, trainer: Trainer, features: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:
        """Write features, each process its own rows, and map the file."""
        path = self._path(trainer)
        unfinished = path.with_suffix(".unfinished")
        self._together(trainer, lambda: self._reserve(unfinished) if trainer.local_rank == 0 else None)
        try:
            self._together(trainer, lambda: self._write(unfinished, features))
            if trainer.local_rank == 0:
                unfinished.replace(path)
            trainer.strategy.barrier("features written")
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._map(path)
        trainer.strategy.barrier("features mapped")
        if not self.keep and trainer.local_rank == 0:
            try:
                path.unlink()
            except OSError:  # Windows removes no file that is in use
                logger.warning("'%s' is in use and stays; remove it after the training.", path)

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the features of some images."""
        if self._numbers is None:
            msg = "The features have not been opened."
            raise RuntimeError(msg)
        return torch.from_numpy(self._numbers[list(rows)]).float()

    def close(self) -> None:
        """Unmap the file."""
        self._numbers = None

    @property
    def _size(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def _path(self, trainer: Trainer) -> Path:
        # Machines may share the folder but each fills a file of its own.
        node = f"-node{trainer.node_rank}" if trainer.num_nodes > 1 else ""
        return self.folder / f"{self._stem}{node}.bin"

    def _map(self, path: Path) -> None:
        dtype = np.float16 if self.dtype == torch.float16 else np.float32
        self._numbers = np.memmap(path, dtype, mode="r", shape=self.shape)

    def _reserve(self, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < self._size:
            msg = f"they need {self._size / 2**30:.1f} GiB in '{self.folder}', which has {free / 2**30:.1f} GiB free"
            raise OSError(msg)
        with path.open("wb") as file:
            file.truncate(self._size)

    def _write(self, path: Path, features: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:
        """Write rows at their places; through a memory map a full disk would kill the process."""
        width = self._size // self.shape[0]
        with path.open("r+b") as file:
            for rows, values in features:
                for row, value in zip(rows, self._to_stored(values).contiguous().numpy(), strict=True):
                    file.seek(row * width)
                    file.write(value.tobytes())
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _together(trainer: Trainer, act: Callable[[], None]) -> None:
        """Act, and raise in every process if it fails in any."""
        error: OSError | None = None
        try:
            act()
        except OSError as failed:
            error = failed
        if not trainer.strategy.reduce_boolean_decision(error is None):
            raise error or OSError("another process could not write them")
