# SPDX-License-Identifier: Apache-2.0

"""The kinds of memory by name, each at the same size: R * R entries, R being the resolution of the grid.

``grid`` is the paper's memory; ``vector_quantization`` and ``attention`` are what it is compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from anomalib_crad.models.crad.attention import Attention
from anomalib_crad.models.crad.discrete_memory import (
    DiscreteEntries,
    DiscreteMemory,
    GlobalDiscreteMemory,
    LocalDiscreteMemory,
)
from anomalib_crad.models.crad.memory import GlobalMemory, LocalMemory
from anomalib_crad.models.crad.vector_quantization import VectorQuantization

if TYPE_CHECKING:
    from collections.abc import Mapping

MemoryKind: TypeAlias = Literal["grid", "vector_quantization", "attention"]

_DISCRETE: Mapping[str, type[DiscreteEntries]] = {"vector_quantization": VectorQuantization, "attention": Attention}


def build_local_memory(
    kind: MemoryKind, in_channels: int, resolution: int, jitter_std: float, jitter_probability: float
) -> LocalMemory | DiscreteMemory:
    """Build a memory of R * R features.

    Args:
        kind: Kind of memory.
        in_channels: Channels of the features (C).
        resolution: R.
        jitter_std: See :class:`.memory.CoordinateJitter`; discrete memories have no coordinates to jitter.
        jitter_probability: See ``jitter_std``.

    Returns:
        A module with shape B x C x H x W in and out.

    Raises:
        ValueError: If the kind is unknown or the resolution less than 1.
    """
    if _is_grid(kind):
        return LocalMemory(in_channels, resolution, jitter_std, jitter_probability)
    return LocalDiscreteMemory(_DISCRETE[kind](in_channels, _num_entries(resolution)))


def build_global_memory(
    kind: MemoryKind, in_channels: int, feature_size: tuple[int, int], resolution: int
) -> GlobalMemory | DiscreteMemory:
    """Build a memory of R * R whole feature maps.

    Args:
        kind: Kind of memory.
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features.
        resolution: R.

    Returns:
        A module with shape B x C x H x W in and out.

    Raises:
        ValueError: If the kind is unknown or the resolution less than 1.
    """
    if _is_grid(kind):
        return GlobalMemory(in_channels, feature_size, resolution)
    width = in_channels * feature_size[0] * feature_size[1]
    return GlobalDiscreteMemory(_DISCRETE[kind](width, _num_entries(resolution)))


def _is_grid(kind: str) -> bool:
    if kind not in get_args(MemoryKind):
        msg = f"memory must be one of {', '.join(get_args(MemoryKind))}, got '{kind}'."
        raise ValueError(msg)
    return kind == "grid"


def _num_entries(resolution: int) -> int:
    if resolution < 1:
        msg = f"The resolution of a memory must be at least 1, got {resolution}."
        raise ValueError(msg)
    return resolution**2
