# SPDX-License-Identifier: Apache-2.0

"""What a memory of patches is made with: which patches a mask marks, which ones represent all, which one is nearest.

Pure functions, as DMAD's release and the PatchCore of Roth et al. (CVPR 2022) define them.
anomalib's ``KCenterGreedy`` is another algorithm: it projects sparsely, starts from a random entry that it keeps, and
has no mean distances.

Axis letters: B batch, N queries or patches, M entries of a bank, D numbers a patch, h x w patches of an image.
"""

from __future__ import annotations

import torch
from torch.nn import functional

#: Queries and entries whose distances are held at the same time: 128 MiB in single precision.
QUERY_CHUNK = 8192
BANK_CHUNK = 4096


def select_patches(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Find the patches that a mask marks: those where the mask, resized bilinearly to the patches, is not 0.

    Bilinear interpolation looks at the four pixels around a patch's centre and at no others, so a defect that misses
    them marks nothing; :func:`mark_patches` takes care of an image all of whose defects do.

    Args:
        masks: B x height x width, true where there is a defect.
        grid: Height and width in patches (h, w).

    Returns:
        B x h x w, true where a patch is marked.
    """
    resized = functional.interpolate(masks.unsqueeze(1).float(), size=grid, mode="bilinear", align_corners=False)
    return resized.squeeze(1) != 0


def mark_patches(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Find the patches that a mask marks, and where it marks none in an image, all that it touches.

    Args:
        masks: B x height x width, true where there is a defect.
        grid: Height and width in patches (h, w).

    Returns:
        B x h x w, true where a patch is marked; false throughout an image only where its mask is empty.
    """
    selected = select_patches(masks, grid)
    touched = functional.adaptive_max_pool2d(masks.unsqueeze(1).float(), grid).squeeze(1) != 0
    return torch.where(selected.flatten(1).any(dim=1)[:, None, None], selected, touched)


def greedy_coreset(features: torch.Tensor, count: int, start: torch.Tensor) -> torch.Tensor:
    """Choose patches that represent all: each next one is the farthest from those that were chosen.

    Until a patch has been chosen, a patch's distance is its mean distance to the starting patches, which are not chosen
    for it. Holds one distance a patch, never all pairs.

    Args:
        features: N x D, usually projected to fewer numbers.
        count: Patches to choose, at most N.
        start: Indices of the starting patches, ``(S,)``.

    Returns:
        Indices in the order of choice, ``(count,)``.

    Raises:
        ValueError: If ``count`` is not from 0 to N.
    """
    distances = torch.stack([_distances_to(features, features[index]) for index in start]).mean(dim=0)
    return farthest_first(features, count, distances)


def farthest_first(features: torch.Tensor, count: int, distances: torch.Tensor) -> torch.Tensor:
    """Choose again and again the patch with the largest distance, and lower all distances to those to the chosen one.

    Args:
        features: N x D.
        count: Patches to choose, at most N.
        distances: What the choice begins with, ``(N,)``: each patch's distance to what is covered already.

    Returns:
        Indices in the order of choice, ``(count,)``.

    Raises:
        ValueError: If ``count`` is not from 0 to N.
    """
    if not 0 <= count <= len(features):
        msg = f"count must be from 0 to the number of patches, {len(features)}, got {count}."
        raise ValueError(msg)
    distances = distances.clone()
    squared_norms = features.square().sum(dim=1)
    chosen = torch.empty(count, dtype=torch.long, device=features.device)
    for step in range(count):
        index = distances.argmax()  # stays on the device: nothing waits for it
        chosen[step] = index
        distances = torch.minimum(distances, _distances_to(features, features[index], squared_norms))
        distances[index] = -1  # rounding must not let it be chosen twice
    return chosen


def _distances_to(
    features: torch.Tensor,
    point: torch.Tensor,
    squared_norms: torch.Tensor | None = None,
) -> torch.Tensor:
    """Euclidean distances of N x D features to one point, by one matrix product."""
    if squared_norms is None:
        squared_norms = features.square().sum(dim=1)
    squared = squared_norms - 2 * (features @ point) + point.square().sum()
    return squared.clamp(min=0).sqrt()


def nearest(queries: torch.Tensor, bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest entry of a bank for each query by Euclidean distance, up to rounding in single precision.

    The search compares all pairs, by a matrix product. It holds at most 8192 x 4096 distances at the same time, however
    many queries and entries there are. An exported graph has one product for the whole bank and holds N x M distances:
    there the number of queries is open, and a runtime that folds constants would store a bank that is cut into parts
    twice.

    Half precision is searched in single precision, since distances differ little beside their size.

    Args:
        queries: N x D.
        bank: M x D, with at least one entry.

    Returns:
        Squared distances, ``(N,)``, of the differences and so without the cancellation of the matrix product, and the
        indices of the entries, ``(N,)``.

    Raises:
        ValueError: If the bank is empty.
    """
    if not len(bank):
        msg = "The memory bank is empty, so nothing is nearest. Train the model or load a checkpoint of a training."
        raise ValueError(msg)
    queries, bank = queries.float(), bank.float()
    if torch.compiler.is_exporting():
        index = _offsets(queries, bank).argmin(dim=1)
    else:
        with torch.autocast(queries.device.type, enabled=False):
            index = torch.cat([_nearest_in_parts(part, bank) for part in queries.split(QUERY_CHUNK)])
    return (queries - bank[index]).square().sum(dim=1), index


def _offsets(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """``|q - m|^2 - |q|^2`` of all pairs, N x M; what is left out does not depend on the entry."""
    return bank.square().sum(dim=1) - 2 * (queries @ bank.transpose(0, 1))


def _nearest_in_parts(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    parts = [_offsets(queries, part).min(dim=1) for part in bank.split(BANK_CHUNK)]
    winner = torch.stack([part.values for part in parts]).argmin(dim=0, keepdim=True)
    indices = torch.stack([part.indices + number * BANK_CHUNK for number, part in enumerate(parts)])
    return indices.gather(0, winner).squeeze(0)
