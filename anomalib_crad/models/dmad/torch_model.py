# SPDX-License-Identifier: Apache-2.0

"""DMAD as a PyTorch model: stages -> patches -> nearest entries of two banks -> scores -> map.

:class:`DMADHead` is all that is trained; :class:`DmadModel` puts the frozen backbone and the banks before it and the
anomaly map behind it, and is what anomalib exports.

Axis letters: B batch, H x W patches of an image, N patches in all, D numbers a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_crad.models.components.torch_model import ReconstructionModel, TrainingOutput
from anomalib_crad.models.dmad.abnormal import NOISE_STD
from anomalib_crad.models.dmad.bank import MemoryBank
from anomalib_crad.models.dmad.knowledge import Knowledge
from anomalib_crad.models.dmad.patches import PATCH_DIM, PatchEmbedding

if TYPE_CHECKING:
    from anomalib_crad.models.components.features import MultiScaleFeatures
    from anomalib_crad.models.dmad.anomaly_map import AnomalyMapGenerator
    from anomalib_crad.models.dmad.loss import DMADLoss

HIDDEN_DIM = 1024
LEAKY_SLOPE = 0.2

#: Patches and their nearest entries in the normal and the abnormal bank, each N x D: what the head takes.
HeadInputs: TypeAlias = "tuple[torch.Tensor, torch.Tensor, torch.Tensor]"


class DMADHead(nn.Module):
    """Score patches by what they are and by how they differ from both banks.

    Args:
        dim: Numbers that describe a patch (D). Defaults to ``1536``.
        hidden_dim: Width of the scorer. Defaults to ``1024``.

    Raises:
        ValueError: If ``hidden_dim`` is smaller than 1.

    Example:
        >>> head = DMADHead(dim=24, hidden_dim=16)
        >>> patches, normal, abnormal = torch.rand(3, 10, 24)
        >>> head(patches, normal, abnormal).shape
        torch.Size([10])
    """

    def __init__(self, dim: int = PATCH_DIM, hidden_dim: int = HIDDEN_DIM) -> None:
        super().__init__()
        if hidden_dim < 1:
            msg = f"hidden_dim must be at least 1, got {hidden_dim}."
            raise ValueError(msg)
        self.projection = nn.Linear(dim, dim)
        self.knowledge = Knowledge(dim)
        self.scorer = nn.Sequential(
            nn.Linear(3 * dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Linear(hidden_dim, 1, bias=False),
        )
        self.apply(_initialise)

    def represent(self, patches: torch.Tensor, normal: torch.Tensor, abnormal: torch.Tensor) -> torch.Tensor:
        """Describe patches by themselves and by the knowledge of both banks.

        In training mode, patches whose scores are compared belong into one call: a batch norm that sees them apart
        removes what tells them apart.

        Args:
            patches: Patches x, N x D.
            normal: Nearest entry of the normal bank for each patch, N x D.
            abnormal: Nearest entry of the abnormal bank for each patch, N x D.

        Returns:
            Representations ``[P x, P k(x, normal), P k(x, abnormal)]``, N x 3 D.
        """
        return self._project(patches, *self.knowledge(patches, normal, abnormal))

    def residuals(self, patches: torch.Tensor, normal: torch.Tensor, abnormal: torch.Tensor) -> torch.Tensor:
        """Describe patches by plain differences, as the authors' release describes annotated ones.

        Args:
            patches: Patches x, N x D.
            normal: Nearest entry of the normal bank for each patch, N x D.
            abnormal: Nearest entry of the abnormal bank for each patch, N x D.

        Returns:
            Representations ``[P x, P (x - normal), P (x - abnormal)]``, N x 3 D.
        """
        return self._project(patches, patches - normal, patches - abnormal)

    def score(self, representation: torch.Tensor) -> torch.Tensor:
        """Score representations.

        Args:
            representation: N x 3 D.

        Returns:
            Scores, high is normal, ``(N,)``.
        """
        return self.scorer(representation).squeeze(-1)

    def forward(self, patches: torch.Tensor, normal: torch.Tensor, abnormal: torch.Tensor) -> torch.Tensor:
        """Represent patches and score them; arguments as of :meth:`represent`, result as of :meth:`score`."""
        return self.score(self.represent(patches, normal, abnormal))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning rate: ``projection``, ``knowledge`` and ``scorer``, every parameter once."""
        return {
            "projection": list(self.projection.parameters()),
            "knowledge": list(self.knowledge.parameters()),
            "scorer": list(self.scorer.parameters()),
        }

    def _project(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.projection(part) for part in parts], dim=-1)


def add_noise(representation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Add one draw of noise a patch alike to all three parts of its representation.

    Args:
        representation: N x 3 D.
        noise: N x D.

    Returns:
        Noisy representations, N x 3 D.
    """
    return representation + noise.repeat(1, 3)


def _initialise(module: nn.Module) -> None:
    """Xavier-normal weights; biases and batch norms keep the values of their own constructors."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)


class DmadModel(ReconstructionModel):
    """Images to anomaly maps and image scores, and in training to the terms of the loss.

    The banks are buffers: a checkpoint and an export carry them, and loading one takes over their sizes.

    Args:
        feature_extractor: Frozen stages of an image.
        embedding: Makes patches of stages.
        head: Scores patches.
        anomaly_map_generator: Makes a map and an image score of patch scores.
        loss: Compares the scores of normal, noisy and annotated patches.
        noise_std: Standard deviation of the noise that is added to representations in training.
            Defaults to ``0.015``.

    Attributes:
        reconstruction: The head, by the name that all models give to what is trained; DMAD's rebuilds nothing.
        normal_bank: Normal patches; empty until it is filled or loaded.
        abnormal_bank: Abnormal patches; empty until it is filled or loaded.
    """

    reconstruction: DMADHead
    anomaly_map_generator: AnomalyMapGenerator

    def __init__(
        self,
        feature_extractor: MultiScaleFeatures,
        embedding: PatchEmbedding,
        head: DMADHead,
        anomaly_map_generator: AnomalyMapGenerator,
        loss: DMADLoss,
        noise_std: float = NOISE_STD,
    ) -> None:
        super().__init__(feature_extractor, head, anomaly_map_generator)
        if not noise_std > 0:
            msg = f"noise_std must be greater than 0, or noisy patches would be normal ones, got {noise_std}."
            raise ValueError(msg)
        self.embedding = embedding
        self.normal_bank = MemoryBank(embedding.dim)
        self.abnormal_bank = MemoryBank(embedding.dim)
        self.loss = loss
        self.noise_std = noise_std

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Describe the patches of images; nothing before the head is trained.

        Args:
            images: Normalised images, B x 3 x height x width.

        Returns:
            Patches row by row, B x (H * W) x D.
        """
        return self.embedding(self.feature_extractor.stages(images))

    @torch.no_grad()
    def neighbours(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the nearest entries of patches.

        Args:
            patches: N x D.

        Returns:
            Nearest entry of the normal and of the abnormal bank for each patch, each N x D.

        Raises:
            ValueError: If a bank is empty.
        """
        banks = (self.normal_bank, self.abnormal_bank)
        normal, abnormal = (bank.entries.index_select(0, bank.nearest(patches)) for bank in banks)
        return normal, abnormal

    def forward(self, images: torch.Tensor) -> TrainingOutput | InferenceBatch:
        """Run the model.

        Args:
            images: Normalised images, B x 3 x height x width; in training mode normal ones only.

        Returns:
            :meth:`training_output` in training mode, :meth:`prediction` otherwise.
        """
        patches = self.embed(images)
        return self.training_output(patches) if self.training else self.prediction(patches)

    def training_output(self, features: torch.Tensor, annotated: HeadInputs | None = None) -> TrainingOutput:
        """Compute the terms of the loss.

        Normal and annotated patches go through the knowledge in one call, and all representations through the scorer in
        one: a batch norm that saw them apart would remove what tells them apart.

        Args:
            features: Patches of normal images, B x (H * W) x D.
            annotated: Annotated abnormal patches and their nearest entries in the normal and the abnormal bank, each
                N x D. Defaults to ``None``: there are none.

        Returns:
            The patches, no reconstruction, and the loss by its terms.
        """
        patches = features.flatten(0, 1)
        parts: HeadInputs = (patches, *self.neighbours(patches))
        if annotated is not None:
            parts = tuple(torch.cat(both) for both in zip(parts, annotated, strict=True))  # type: ignore[assignment]
        represented = self.reconstruction.represent(*parts)
        normal, abnormal = represented.split([len(patches), len(represented) - len(patches)])
        noise = self.noise_std * torch.randn(patches.shape, device=patches.device, dtype=patches.dtype)
        together = torch.cat([normal, add_noise(normal, noise), abnormal])
        scores = self.reconstruction.score(together).split([len(normal), len(normal), len(abnormal)])
        return TrainingOutput(features, None, self.loss.terms(*scores))

    def prediction(self, features: torch.Tensor) -> InferenceBatch:
        """Score images.

        Args:
            features: Patches, B x (H * W) x D.

        Returns:
            ``pred_score`` of shape ``(B,)`` and ``anomaly_map`` of B x 1 x height x width; high is abnormal.
        """
        patches = features.flatten(0, 1)
        patch_scores = -self.reconstruction(patches, *self.neighbours(patches))
        grid = patch_scores.unflatten(0, (-1, *self.feature_extractor.feature_size))
        anomaly_map, pred_score = self.anomaly_map_generator(grid)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map.unsqueeze(1))
