# SPDX-License-Identifier: Apache-2.0

"""CRAD as a PyTorch model: features -> memory -> fusion -> refinement -> map (CRAD, section 3).

:class:`ContinuousMemoryReconstruction` is the whole trainable head; :class:`CradModel` puts the frozen backbone
before it and the anomaly map after it, and anomalib exports it.

Example:
    >>> head = ContinuousMemoryReconstruction(in_channels=8, feature_size=(4, 4), num_blocks=1, hidden_channels=16)
    >>> head(torch.rand(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from anomalib_crad.models.components.checkpoints import DeprecatedArgumentWarning
from anomalib_crad.models.components.precision import at_least_single_precision, no_mixed_precision
from anomalib_crad.models.components.torch_model import ReconstructionModel, TrainingOutput, reconstruction_loss
from anomalib_crad.models.crad.discrete_memory import (
    DiscreteEntries,
    MemoryKind,
    build_global_memory,
    build_local_memory,
)
from anomalib_crad.models.crad.fusion import Fusion
from anomalib_crad.models.crad.memory import JITTER_PROBABILITY, JITTER_STD, ContinuousGrid, FeatureMemory
from anomalib_crad.models.crad.refinement import refine

INITIAL_WEIGHT_STD = 0.01
JITTER_IS_DEPRECATED = (
    "jitter=False is deprecated and will be removed in the next release. Write jitter_probability=0 instead, which "
    "does the same (command line: --model.jitter_probability=0)."
)


class ContinuousMemoryReconstruction(nn.Module):
    """Rebuild features from continuous memories of normal ones.

    The arguments from ``memory`` to ``refinement`` take the method apart, as the paper's ablation and its comparison of
    memories do. If one memory is left out, the other one's features fill both inputs of the fusion: the fusion keeps
    its width and its parameters, and only the memory changes.

    Args:
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features; the global memory is tied to it.
        local_resolution: Cells along each side of the local grid. Defaults to ``8``.
        global_resolution: Cells along each side of the global grid. Defaults to ``4``.
        num_blocks: Inverted residual blocks of the fusion. Defaults to ``11``.
        hidden_channels: Width inside these blocks. Defaults to ``864``.
        jitter_std: Standard deviation of the noise on local coordinates in training. Defaults to ``0.05``.
        jitter_probability: Chance that a batch is jittered. Only a local grid has coordinates to jitter: with another
            kind of memory, or without the local memory, it has no effect. Defaults to ``0.5``.
        memory: Kind of both memories: ``"grid"``, or at the same number of entries ``"vector_quantization"`` or
            ``"attention"``. Defaults to ``"grid"``.
        local_memory: Read the local memory. Defaults to ``True``.
        global_memory: Read the global memory. Defaults to ``True``.
        refinement: Refine what the fusion rebuilds. Without it the fusion's output is x_hat. Defaults to ``True``.
        jitter: Deprecated; ``False`` is the same as ``jitter_probability=0``. Defaults to ``True``.

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
        if not jitter:
            warnings.warn(JITTER_IS_DEPRECATED, DeprecatedArgumentWarning, stacklevel=2)
            jitter_probability = 0.0
        self.feature_shape = (in_channels, feature_size[0], feature_size[1])
        self.refinement = refinement
        self.local_memory = (
            build_local_memory(memory, in_channels, local_resolution, jitter_std, jitter_probability)
            if local_memory
            else None
        )
        self.global_memory = (
            build_global_memory(memory, in_channels, feature_size, global_resolution) if global_memory else None
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
        self._check_shape(features)
        with no_mixed_precision(features) as values:
            reads = [memory(values) for memory in self._memories()]
        return self._rebuild(reads, features)

    def read_and_rebuild(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rebuild and refine features in training.

        Args:
            features: As in :meth:`forward`.

        Returns:
            What :meth:`forward` returns, and the sum of the losses that memories add to the training loss, a scalar:
            the codebook losses of vector quantisation, ``None`` for the other kinds of memory.

        Raises:
            ValueError: As :meth:`forward`.
        """
        self._check_shape(features)
        with no_mixed_precision(features) as values:
            reads = [memory.read(values) for memory in self._memories()]
        losses = [loss for _, loss in reads if loss is not None]
        rebuilt = self._rebuild([values for values, _ in reads], features)
        return rebuilt, torch.stack(losses).sum() if losses else None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning rate: ``grids`` (what memories of any kind store) and ``networks`` (all others)."""
        grids = [part.values for part in self.modules() if isinstance(part, ContinuousGrid | DiscreteEntries)]
        known = {id(grid) for grid in grids}
        return {"grids": grids, "networks": [value for value in self.parameters() if id(value) not in known]}

    def _memories(self) -> list[FeatureMemory]:
        return [memory for memory in (self.global_memory, self.local_memory) if memory is not None]

    def _rebuild(self, reads: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        """From the features of one or two memories, the global one first, to x_hat."""
        reconstruction = self.fusion(reads[0], reads[-1])
        if self.refinement:
            return refine(reconstruction, features)
        return at_least_single_precision(reconstruction)

    def _check_shape(self, features: torch.Tensor) -> None:
        if tuple(features.shape[1:]) != self.feature_shape:
            reason = "" if self.global_memory is None else "The global memory ties a model to its image size. "
            msg = (
                f"This model was built for features of {' x '.join(map(str, self.feature_shape))} (channels x height "
                f"x width), got {' x '.join(map(str, features.shape[1:]))}. {reason}Resize images to the size that it "
                "was built for, or build and train a model with another image_size."
            )
            raise ValueError(msg)


def _initialise(module: nn.Module) -> None:
    """Set small normal weights and zero biases; grids and batch norms keep their own initial values."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=INITIAL_WEIGHT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class CradModel(ReconstructionModel):
    """Images to anomaly maps and image scores, with :class:`ContinuousMemoryReconstruction` between."""

    reconstruction: ContinuousMemoryReconstruction

    def training_output(self, features: torch.Tensor) -> TrainingOutput:
        """Rebuild features.

        Args:
            features: B x C x H x W, as the feature extractor gives them.

        Returns:
            Features, their reconstruction, and the losses ``reconstruction`` (CRAD, section 3.6) and, with vector
            quantisation, ``codebook``.
        """
        reconstruction, codebook_loss = self.reconstruction.read_and_rebuild(features)
        losses = {"reconstruction": reconstruction_loss(reconstruction, features)}
        if codebook_loss is not None:
            losses["codebook"] = codebook_loss
        return TrainingOutput(features, reconstruction, losses)
