# SPDX-License-Identifier: Apache-2.0

"""A bank of patches, and how it is chosen from a stream of patches in bounded memory.

DMAD's release holds all patches of all training images at once: 23 GB on MVTec AD. Here patches are chosen chunk by
chunk, each chunk's after those chosen before. Where everything fits into one chunk, it is the release's choice.

Axis letters: N patches, M entries, D numbers a patch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anomalib_crad.models.dmad.memory import farthest_first, greedy_coreset, nearest

CORESET_RATIO = 0.02
#: Patches that wait for the next choice: 128 images of 32 x 32 patches.
CHUNK_SIZE = 2**17
#: Numbers of a patch that the choice looks at.
PROJECTED_DIM = 128
STARTING_PATCHES = 10
#: Marks an entry that belongs to no annotated image.
NO_IMAGE = -1


class MemoryBank(nn.Module):
    """Patches that were chosen once and are searched, never trained.

    Args:
        dim: Numbers that describe a patch (D).

    Attributes:
        entries: The patches, M x D; M is 0 until the bank is filled or loaded.
        images: Number of the image that each entry shows a defect of, ``(M,)``; -1 for others.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.empty(0, dim))
        self.register_buffer("images", torch.empty(0, dtype=torch.long))
        self.entries: torch.Tensor
        self.images: torch.Tensor

    def __len__(self) -> int:
        """Entries (M)."""
        return len(self.entries)

    def fill(self, entries: torch.Tensor, images: torch.Tensor | None = None) -> None:
        """Replace the entries.

        Args:
            entries: M x D.
            images: Number of the image that each entry shows a defect of, ``(M,)``. Defaults to ``None``: of none.
        """
        if images is None:
            images = torch.full((len(entries),), NO_IMAGE)
        self.entries = entries.detach().to(self.entries)
        self.images = images.to(self.images)

    def nearest(self, patches: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        """Find the nearest entry of each patch.

        Args:
            patches: N x D.
            images: Number of the image that each patch shows a defect of, ``(N,)``; entries of the same image are not
                its neighbours, unless there are no others. Defaults to ``None``: all entries may be.

        Returns:
            Indices of entries, ``(N,)``.

        Raises:
            ValueError: If the bank is empty.
        """
        if images is None:
            return nearest(patches, self.entries)[1]
        indices = torch.empty_like(images)
        for image in images.unique():
            own, others = images == image, (self.images != image).nonzero().squeeze(1)
            if len(others):
                indices[own] = others[nearest(patches[own], self.entries[others])[1]]
            else:
                indices[own] = nearest(patches[own], self.entries)[1]
        return indices

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # torch's signature
        # A trained bank has as many entries as its training chose, whatever this one holds.
        for name in ("entries", "images"):
            loaded, own = state_dict.get(prefix + name), getattr(self, name)
            if loaded is not None and loaded.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class StreamingCoreset:
    """Choose a share of the patches of a stream so that they represent all.

    Patches wait until a chunk of them is full. Of a chunk its share is chosen greedily, each next one the farthest from
    all that were chosen before, in this chunk or in earlier ones.

    Bound:
        Memory does not depend on the number of images: ``chunk_size`` patches and the entries chosen so far, each of
        D + 128 numbers, and 128 MiB for a search. With D = 1536 and the default chunk that is 0.9 GB beside the bank.
        Time grows with the number of patches, times ``ratio * chunk_size``.

    Args:
        expected: Number of patches in the stream, or an upper bound; it spreads ``max_entries`` evenly.
        ratio: Share of the patches to choose. Defaults to ``0.02``.
        max_entries: Largest number to choose. Defaults to ``None``: no limit but the ratio.
        chunk_size: Patches that wait at the same time. Defaults to ``131072``.

    Raises:
        ValueError: If ``ratio`` is not in (0, 1], or another number is smaller than 1.
    """

    def __init__(
        self,
        expected: int,
        ratio: float = CORESET_RATIO,
        max_entries: int | None = None,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        check_bank_arguments(ratio, max_entries)
        if expected < 1 or chunk_size < 1:
            msg = f"expected and chunk_size must be at least 1, got {expected} and {chunk_size}."
            raise ValueError(msg)
        self.share = ratio if max_entries is None else min(ratio, max_entries / expected)
        self.max_entries = max_entries
        self.chunk_size = min(chunk_size, expected)
        self._chunk = torch.empty(0)
        self._waiting = 0
        self._seen = 0
        self._project: RandomProjection | None = None
        self._entries: list[torch.Tensor] = []
        self._projected: list[torch.Tensor] = []

    def add(self, patches: torch.Tensor) -> None:
        """Take patches of the stream.

        Args:
            patches: N x D, on the device on which they are chosen.
        """
        if self._project is None:
            self._project = RandomProjection(patches)
            self._chunk = patches.new_empty(self.chunk_size, patches.shape[1])
        while len(patches):
            taken = patches[: self.chunk_size - self._waiting]
            self._chunk[self._waiting : self._waiting + len(taken)] = taken
            self._waiting += len(taken)
            patches = patches[len(taken) :]
            if self._waiting == self.chunk_size:
                self._choose()

    def finish(self) -> torch.Tensor:
        """Choose from what still waits.

        Returns:
            The chosen patches, M x D, at least one.

        Raises:
            ValueError: If the stream had no patch.
        """
        if self._waiting:
            self._choose()
        if not self._entries:
            msg = "There is no patch to choose from: the training images gave none."
            raise ValueError(msg)
        self._chunk = torch.empty(0)
        return torch.cat(self._entries)

    def _choose(self) -> None:
        chunk, self._waiting = self._chunk[: self._waiting], 0
        self._seen += len(chunk)
        target = max(int(self.share * self._seen), 1)  # one entry is better than none
        if self.max_entries is not None:
            target = min(target, self.max_entries)
        count = min(target - sum(map(len, self._entries)), len(chunk))
        if not count or self._project is None:
            return
        projected = self._project(chunk)
        if self._entries:
            squared, _ = nearest(projected, torch.cat(self._projected))
            indices = farthest_first(projected, count, squared.sqrt())
        else:
            indices = greedy_coreset(projected, count, starting_patches(chunk))
        self._entries.append(chunk[indices])
        self._projected.append(projected[indices])


class RandomProjection:
    """Patches to fewer numbers by one random matrix, PyTorch's initial weight of a linear layer; or as they are.

    Args:
        like: Patches of the width and the device of those to come.
    """

    def __init__(self, like: torch.Tensor) -> None:
        dim = like.shape[1]
        self._weight = (
            nn.Linear(dim, PROJECTED_DIM, bias=False).weight.detach().to(like) if dim > PROJECTED_DIM else None
        )

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Project patches, N x D to N x 128."""
        return patches if self._weight is None else patches @ self._weight.transpose(0, 1)


def representative(patches: torch.Tensor, count: int) -> torch.Tensor:
    """Choose patches that represent all of a set that is held anyway.

    Args:
        patches: N x D.
        count: Patches to choose.

    Returns:
        Indices, ``(count,)``; all of them, in order, where there are not more than ``count``.
    """
    if count >= len(patches):
        return torch.arange(len(patches), device=patches.device)
    return greedy_coreset(RandomProjection(patches)(patches), count, starting_patches(patches))


def starting_patches(patches: torch.Tensor) -> torch.Tensor:
    """Draw the ten patches whose mean distance begins a choice.

    Args:
        patches: N x D.

    Returns:
        Indices, ``(10,)``, or fewer where there are fewer patches.
    """
    return torch.randperm(len(patches))[:STARTING_PATCHES].to(patches.device)


def check_bank_arguments(ratio: float, max_entries: int | None) -> None:
    """Reject sizes that no bank can have.

    Args:
        ratio: Share of patches to choose.
        max_entries: Largest number to choose, or ``None``.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if not 0 < ratio <= 1:
        msg = f"coreset_ratio must be greater than 0 and at most 1, got {ratio}."
        raise ValueError(msg)
    if max_entries is not None and max_entries < 1:
        msg = f"bank_size must be at least 1 entry, or None for no limit, got {max_entries}."
        raise ValueError(msg)
