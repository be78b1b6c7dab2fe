# SPDX-License-Identifier: Apache-2.0

"""Where cached features are: in the memory of one process, or in a file that processes share.

A file appears under its name only when it is complete, and the name holds a fingerprint of everything that the features
depend on. A file of another size than its name promises is not used. A file that is not kept loses its name as soon as
all processes have opened it, so that it is gone however the training ends. A kept file has a name of its own run until
it is complete; what a killed run has left under such a name is removed by the next one.

Axis letters: N images, B batch, C channels, H x W positions.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"


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
        """Release the memory."""
        self._features = torch.empty(0)


class FileStore(FeatureStore):
    """Features in a file that the processes of a machine share.

    Args:
        folder: Folder of the file, the same in all processes.
        key: Fingerprint of everything that the features depend on, or ``None`` for a file that is not kept.
        shape: N, C, H, W.
        dtype: Type of the stored numbers.
    """

    def __init__(self, folder: Path, key: str | None, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        super().__init__(shape, dtype)
        self.folder = folder
        self.keep = key is not None
        self._stem = f"features-{(key or 'of-a-run')[:32]}"
        self._file: BinaryIO | None = None
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
        self._file = path.open("rb")
        self._map()
        return True

    def fill(self, trainer: Trainer, features: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:
        """Write features, each process its own rows, and map the file."""
        run = trainer.strategy.broadcast(uuid.uuid4().hex[:8])
        unfinished = self._path(trainer).with_suffix(f".{run}{UNFINISHED}")
        try:
            self._open_together(trainer, unfinished)
            _together(trainer, lambda: self._write(features))
            if self.keep:
                self._give_name(trainer, unfinished)
        except BaseException:
            self.close()
            with suppress(OSError):  # another process has it open, on a system where that forbids it
                unfinished.unlink(missing_ok=True)
            raise
        self._map()

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the features of some images."""
        if self._numbers is None:
            msg = "The features have not been opened."
            raise RuntimeError(msg)
        return torch.from_numpy(self._numbers[list(rows)]).float()

    def close(self) -> None:
        """Release the file."""
        self._numbers = None
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _size(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def _path(self, trainer: Trainer) -> Path:
        # Machines may share the folder but each fills a file of its own.
        node = f"-node{trainer.node_rank}" if trainer.num_nodes > 1 else ""
        return self.folder / f"{self._stem}{node}.bin"

    def _open_together(self, trainer: Trainer, path: Path) -> None:
        """Open one file in all processes of a machine; unless it is kept, it has no name afterwards."""
        first = trainer.local_rank == 0
        _together(trainer, lambda: self._reserve(path) if first else None)
        _together(trainer, lambda: None if first else self._share(path))
        if first and not self.keep:
            _remove_name(path)

    def _give_name(self, trainer: Trainer, unfinished: Path) -> None:
        """Rename the complete file, which no process may have open meanwhile on some systems."""
        path = self._path(trainer)

        def rename() -> None:
            if trainer.local_rank == 0:
                unfinished.replace(path)

        _together(trainer, self.close)
        _together(trainer, rename)
        self._file = path.open("rb")

    def _reserve(self, path: Path) -> None:
        """Open a file of the full size, which nobody else writes or removes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(self.folder)
        free = shutil.disk_usage(self.folder).free
        if free < self._size:
            msg = f"they need {self._size / 2**30:.1f} GiB in '{self.folder}', which has {free / 2**30:.1f} GiB free"
            raise OSError(msg)
        self._file = path.open("w+b")
        # Another run may take the file for a leftover before it is locked, and remove it.
        while _lock(self._file) and not path.exists():
            self._file.close()
            self._file = path.open("w+b")
        self._file.truncate(self._size)

    def _share(self, path: Path) -> None:
        self._file = path.open("r+b")

    def _write(self, features: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:
        """Write rows at their places; through a memory map a full disk would kill the process."""
        file, width = self._opened(), self._size // self.shape[0]
        for rows, values in features:
            for row, value in zip(rows, self._to_stored(values).contiguous().numpy(), strict=True):
                file.seek(row * width)
                file.write(value.tobytes())
        file.flush()
        os.fsync(file.fileno())

    def _map(self) -> None:
        dtype = np.float16 if self.dtype == torch.float16 else np.float32
        self._numbers = np.memmap(self._opened(), dtype, mode="r", shape=self.shape)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            msg = "The features have not been opened."
            raise RuntimeError(msg)
        return self._file


def _together(trainer: Trainer, act: Callable[[], None]) -> None:
    """Act, wait until all processes have acted, and raise in every one if it fails in any."""
    error: Exception | None = None
    try:
        act()
    except Exception as failed:  # noqa: BLE001  # raised below; the other processes would wait for this one
        error = failed
    if trainer.strategy.reduce_boolean_decision(error is None):
        return
    of_disk = trainer.strategy.reduce_boolean_decision(error is None or isinstance(error, OSError))
    raise error or (OSError if of_disk else RuntimeError)("another process could not write them")


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; tell whether this was possible."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True


def _remove_leftovers(folder: Path) -> None:
    """Remove files of runs that were killed while they wrote; those of a run that goes on are locked."""
    for path in folder.glob(f"features-*{UNFINISHED}"):
        with suppress(OSError), path.open("r+b") as file:
            if _lock(file):
                path.unlink()


def _remove_name(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # Windows removes no file that is in use
        logger.warning("'%s' is in use and stays; remove it after the training.", path)
