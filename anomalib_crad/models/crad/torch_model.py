# SPDX-License-Identifier: Apache-2.0

"""CRAD as a PyTorch model: features -> memory -> fusion -> refinement -> map (CRAD, section 3).

:class:`ContinuousMemoryReconstruction` is the whole trainable head; :class:`CradModel` puts the frozen backbone
before it and the anomaly map behind it, and is what anomalib exports.

Example:
    >>> head = ContinuousMemoryReconstruction(in_channels=8, feature_size=(4, 4), num_blocks=1, hidden_channels=16)
    >>> head(torch.rand(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.torch_model import ReconstructionModel
from anomalib_crad.models.crad.discrete_memory import DiscreteEntries, DiscreteMemory
from anomalib_crad.models.crad.fusion import Fusion
from anomalib_crad.models.crad.memory import JITTER_PROBABILITY, JITTER_STD, ContinuousGrid
from anomalib_crad.models.crad.memory_kinds import MemoryKind, build_global_memory, build_local_memory
from anomalib_crad.models.crad.refinement import at_least_single_precision, refine

INITIAL_WEIGHT_STD = 0.01


class ContinuousMemoryReconstruction(nn.Module):
    """Rebuild features from continuous memories of normal ones.

    The last five arguments take the method apart, as the paper's ablation and its comparison of memories do. With one
    memory left out, the other one's features fill both inputs of the fusion: the fusion keeps its width and its
    parameters, and what changes is the memory alone.

    Args:
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features; the global memory is tied to it.
        local_resolution: Cells along each side of the local grid. Defaults to ``8``.
        global_resolution: Cells along each side of the global grid. Defaults to ``4``.
        num_blocks: Inverted residual blocks of the fusion. Defaults to ``11``.
        hidden_channels: Width inside these blocks. Defaults to ``864``.
        jitter_std: Standard deviation of the noise on local coordinates in training. Defaults to ``0.05``.
        jitter_probability: Chance that a batch is jittered. Defaults to ``0.5``.
        memory: Kind of both memories: ``"grid"``, or at the same number of entries ``"vector_quantization"`` or
            ``"attention"``. Defaults to ``"grid"``.
        local_memory: Read the local memory. Defaults to ``True``.
        global_memory: Read the global memory. Defaults to ``True``.
        refinement: Refine what the fusion rebuilds. Without it the fusion's output is x_hat. Defaults to ``True``.
        jitter: Jitter coordinates in training. Only a local grid has coordinates that are jittered: with another kind,
            or without the local memory, it has no effect. Defaults to ``True``.

    Raises:
        ValueError: If both memories are left out, or the kind of memory is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        feature_size: tuple[int, int],
        local_resolution: int = 8,
        global_resolution: int = 4,
        num_blocks: int = 11,
        hidden_channels: int = 864,
        jitter_std: float = JITTER_STD,
        jitter_probability: float = JITTER_PROBABILITY,
        memory: MemoryKind = "grid",
        local_memory: bool = True,
        global_memory: bool = True,
        refinement: bool = True,
        jitter: bool = True,
    ) -> None:
        super().__init__()
        if not local_memory and not global_memory:
            msg = "local_memory and global_memory are both False: a model without memory has nothing to rebuild from."
            raise ValueError(msg)
        self.feature_shape = (in_channels, feature_size[0], feature_size[1])
        self.refinement = refinement
        self.local_memory = (
            build_local_memory(memory, in_channels, local_resolution, jitter_std, jitter_probability if jitter else 0.0)
            if local_memory
            else None
        )
        self.global_memory = (
            build_global_memory(memory, in_channels, self.feature_shape[1:], global_resolution)
            if global_memory
            else None
        )
        self.fusion = Fusion(in_channels, num_blocks, hidden_channels)
        self.apply(_initialise)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Rebuild and refine features.

        Args:
            features: B x C x H x W, of the channels and the size that the model was built for.

        Returns:
            Refined features x_hat, B x C x H x W, in at least single precision.

        Raises:
            ValueError: If the features' shape is not the one that the model was built for.
        """
        if tuple(features.shape[1:]) != self.feature_shape:
            reason = "" if self.global_memory is None else "The global memory ties a model to its image size. "
            msg = (
                f"This model was built for features of {' x '.join(map(str, self.feature_shape))} (channels x height "
                f"x width), got {' x '.join(map(str, features.shape[1:]))}. {reason}Resize images to the size that it "
                "was built for, or build and train a model with another image_size."
            )
            raise ValueError(msg)
        reads = [memory(features) for memory in (self.global_memory, self.local_memory) if memory is not None]
        reconstruction = self.fusion(reads[0], reads[-1])
        if self.refinement:
            return refine(reconstruction, features)
        return at_least_single_precision(reconstruction)

    def memory_loss(self, features: torch.Tensor) -> torch.Tensor:
        """What the memories themselves add to the training loss.

        Args:
            features: The features that are rebuilt, B x C x H x W.

        Returns:
            A scalar: the codebook losses of vector quantisation, 0 for the other kinds of memory.
        """
        loss = features.new_zeros(())
        for memory in (self.global_memory, self.local_memory):
            if isinstance(memory, DiscreteMemory):
                loss = loss + memory.loss(features)
        return loss

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning rate: ``grids`` (what memories of any kind store) and ``networks`` (all others)."""
        grids = [part.values for part in self.modules() if isinstance(part, ContinuousGrid | DiscreteEntries)]
        known = {id(grid) for grid in grids}
        return {"grids": grids, "networks": [value for value in self.parameters() if id(value) not in known]}


def _initialise(module: nn.Module) -> None:
    """Small normal weights and no biases; grids and batch norms keep the values of their own constructors."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=INITIAL_WEIGHT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class CradModel(ReconstructionModel):
    """Images to anomaly maps and image scores, with :class:`ContinuousMemoryReconstruction` between."""

    reconstruction: ContinuousMemoryReconstruction
