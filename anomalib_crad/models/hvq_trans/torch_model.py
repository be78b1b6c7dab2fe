# SPDX-License-Identifier: Apache-2.0

"""HVQ-Trans as a PyTorch model: features -> expert -> encoder -> quantisation -> decoder -> map (HVQ-Trans).

A transformer that rebuilds features learns to copy them, anomalies included. Here every level of the encoder is
replaced by the nearest of a limited set of codes of normal features before the decoder sees it. Codebooks and output
layer are those of an expert; which one an image meets is chosen outside of the head.

Example:
    >>> head = HVQTransReconstruction(in_channels=8, feature_size=(4, 4), hidden_dim=16, num_codes=32).eval()
    >>> head(torch.rand(2, 8, 4, 4)).reconstruction.shape
    torch.Size([2, 8, 4, 4])

Axis letters: B batch, C channels, H x W positions, L = H * W tokens row by row, E width of the encoder, X experts,
K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional

from anomalib_crad.models.components.torch_model import ReconstructionModel, TrainingOutput, reconstruction_loss
from anomalib_crad.models.components.transformer import Attention, EncoderLayer, PositionEmbedding
from anomalib_crad.models.hvq_trans.decoder import Decoder, ExpertLinear
from anomalib_crad.models.hvq_trans.experts import NearestCentre
from anomalib_crad.models.hvq_trans.quantization import (
    CODEBOOK_DECAY,
    CODEBOOK_EPSILON,
    Codebooks,
    nearest_codes,
    transport_cost,
)

if TYPE_CHECKING:
    from anomalib_crad.models.components.features import MultiScaleFeatures
    from anomalib_crad.models.hvq_trans.anomaly_map import AnomalyMapGenerator

COMMITMENT_WEIGHT = 0.25


class HVQTransOutput(NamedTuple):
    """What the head gives.

    Attributes:
        reconstruction: B x C x H x W.
        commitment: How far levels are from their codes: mean squared difference, summed over levels; a scalar.
        transport: Cost of moving the shallowest level to its codes, B x 1 x H x W; ``None`` in training.
    """

    reconstruction: torch.Tensor
    commitment: torch.Tensor
    transport: torch.Tensor | None


class HVQTransReconstruction(nn.Module):
    """Rebuild features from quantised levels of a transformer.

    Args:
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features; positions are tied to it.
        num_experts: Sets of codebooks, each with an output layer (X). Defaults to ``1``.
        hidden_dim: Width of the encoder (E), even and a multiple of ``num_heads``; the decoder is twice as wide.
            Defaults to ``256``.
        num_codes: Codes of a codebook (K). Defaults to ``512``.
        num_heads: Heads of each attention. Defaults to ``8``.
        num_layers: Layers of the encoder, and as many of the decoder; there is one level more. Defaults to ``4``.
        feedforward_dim: Width inside the feed-forward networks. Defaults to ``1024``.
        dropout: Chance of dropout in training, in attention weights, feed-forward networks and residual updates.
            Defaults to ``0.1``.
        codebook_decay: Share of the past in the moving averages that codes are made of. Defaults to ``0.99``.
        codebook_epsilon: Keeps a code that nothing has chosen from a division by 0. Defaults to ``1e-5``.

    Raises:
        ValueError: If an argument is out of range, naming it.
    """

    def __init__(
        self,
        in_channels: int,
        feature_size: tuple[int, int],
        num_experts: int = 1,
        hidden_dim: int = 256,
        num_codes: int = 512,
        num_heads: int = 8,
        num_layers: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        codebook_decay: float = CODEBOOK_DECAY,
        codebook_epsilon: float = CODEBOOK_EPSILON,
    ) -> None:
        super().__init__()
        _check_arguments(
            {
                "num_experts": num_experts,
                "hidden_dim": hidden_dim,
                "num_codes": num_codes,
                "num_heads": num_heads,
                "num_layers": num_layers,
                "feedforward_dim": feedforward_dim,
            },
            dropout,
            codebook_decay,
            codebook_epsilon,
        )
        height, width = feature_size
        self.feature_shape = (in_channels, height, width)
        self.num_experts = num_experts
        self.input_projection = nn.Linear(in_channels, hidden_dim)
        self.position = PositionEmbedding((height, width), hidden_dim)
        self.encoder = nn.ModuleList(
            EncoderLayer(hidden_dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        widths = [2 * hidden_dim] * num_layers + [hidden_dim]
        self.codebooks = nn.ModuleList(
            Codebooks(num_experts, num_codes, dim, codebook_decay, codebook_epsilon) for dim in widths
        )
        self.decoder = Decoder(num_layers, 2 * hidden_dim, num_heads, feedforward_dim, dropout)
        self.output_projection = ExpertLinear(num_experts, 2 * hidden_dim, in_channels)
        self.apply(_initialise)

    def forward(self, features: torch.Tensor, experts: torch.Tensor | None = None) -> HVQTransOutput:
        """Rebuild features.

        Args:
            features: B x C x H x W, of the channels and the size that the model was built for.
            experts: Number of each image's expert, shape ``(B,)``; may be left out where there is only one.

        Returns:
            Reconstruction, commitment and transport cost.

        Raises:
            ValueError: If the features' shape is not the one that the model was built for, or ``experts`` does not say
                one for each image.
        """
        self._check_features(features)
        experts = self._check_experts(experts, features)
        *codebooks, deepest_codebooks = self.codebooks_by_level()
        levels = self.levels(features)
        deepest = deepest_codebooks(levels[-1], experts).values  # B x L x E
        tokens = conditioned(levels, deepest)  # B x L x 2E each
        quantized = [books(level, experts).values for books, level in zip(codebooks, tokens, strict=True)]
        commitment = _commitment(levels[-1], deepest)
        for level, values in zip(tokens, quantized, strict=True):
            commitment = commitment + _commitment(level, values)
        position = self.position().repeat(1, 2)  # L x 2E
        decoded = self.decoder(quantized, position)
        reconstruction = self._to_map(self.output_projection(decoded, experts))
        if self.training:
            return HVQTransOutput(reconstruction, commitment, None)
        cost = transport_cost(tokens[0], codebooks[0].codes[experts])  # B x L
        return HVQTransOutput(reconstruction, commitment, self._to_map(cost.unsqueeze(-1)))

    def levels(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Encode features.

        Args:
            features: B x C x H x W.

        Returns:
            Input and output of each of the encoder's layers, from level 0 to the deepest, B x L x E each.
        """
        position = self.position()  # L x E
        levels = [self.input_projection(features.flatten(2).transpose(1, 2))]  # B x L x E
        for layer in self.encoder:
            levels.append(layer(levels[-1], position))
        return levels

    def codebooks_by_level(self) -> list[Codebooks]:
        """Return the codebooks of each level, the deepest last."""
        return cast("list[Codebooks]", list(self.codebooks))

    def quantization_errors(self, features: torch.Tensor) -> torch.Tensor:
        """Measure how well each expert's codes stand for the deepest level, as a way to choose an expert.

        Args:
            features: B x C x H x W.

        Returns:
            Mean squared difference of the level and its nearest codes under each expert, B x X.
        """
        self._check_features(features)
        deepest = self.levels(features)[-1]
        experts = self.codebooks_by_level()[-1].codes  # X x K x E
        errors = [(deepest - codes[nearest_codes(deepest, codes)]).square().mean(dim=(1, 2)) for codes in experts]
        return torch.stack(errors, dim=1)

    def _to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """Lay tokens out as positions: B x L x N to B x N x H x W."""
        return tokens.transpose(1, 2).unflatten(2, self.feature_shape[1:])

    def _check_features(self, features: torch.Tensor) -> None:
        if tuple(features.shape[1:]) != self.feature_shape:
            msg = (
                f"This model was built for features of {' x '.join(map(str, self.feature_shape))} (channels x height "
                f"x width), got {' x '.join(map(str, features.shape[1:]))}. Learned positions tie a model to its image "
                "size: resize images to it, or build and train a model with another image_size."
            )
            raise ValueError(msg)

    def _check_experts(self, experts: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
        if experts is None:
            if self.num_experts > 1:
                msg = f"experts must say which of the {self.num_experts} experts each image belongs to, got None."
                raise ValueError(msg)
            return torch.zeros(features.shape[0], dtype=torch.long, device=features.device)
        if experts.ndim != 1 or experts.shape[0] != features.shape[0]:
            msg = f"experts must be one number for each of {len(features)} images, got shape {tuple(experts.shape)}."
            raise ValueError(msg)
        return experts


def conditioned(levels: list[torch.Tensor], deepest: torch.Tensor) -> list[torch.Tensor]:
    """Attach the quantised deepest level to each of the levels above it.

    Args:
        levels: All levels, B x L x E each.
        deepest: The last of them after quantisation, B x L x E.

    Returns:
        One tensor for each level but the deepest, B x L x 2E.
    """
    return [torch.cat((level, deepest), dim=-1) for level in levels[:-1]]


def _commitment(tokens: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of tokens and their codes, with a gradient to the tokens only."""
    return functional.mse_loss(tokens, codes.detach())


def _check_arguments(sizes: dict[str, int], dropout: float, decay: float, epsilon: float) -> None:
    for name, value in sizes.items():
        if value < 1:
            msg = f"{name} must be at least 1, got {value}."
            raise ValueError(msg)
    if sizes["hidden_dim"] % sizes["num_heads"]:
        msg = f"hidden_dim must be a multiple of num_heads, got {sizes['hidden_dim']} and {sizes['num_heads']}."
        raise ValueError(msg)
    for name, share in {"dropout": dropout, "codebook_decay": decay}.items():
        if not 0 <= share < 1:
            msg = f"{name} must be at least 0 and less than 1, got {share}."
            raise ValueError(msg)
    if not epsilon > 0:
        msg = f"codebook_epsilon must be greater than 0, got {epsilon}."
        raise ValueError(msg)


def _initialise(module: nn.Module) -> None:
    """Give attention the initial values of PyTorch's own; all other modules keep what they have from PyTorch."""
    if isinstance(module, Attention):
        for layer in (module.query, module.key, module.value):
            # The three are one matrix to Xavier, whose fans count all of its rows.
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(module.output.bias)


class HVQTransModel(ReconstructionModel):
    """Images to anomaly maps and image scores, with :class:`HVQTransReconstruction` between.

    Args:
        feature_extractor: Frozen features of an image.
        reconstruction: The head.
        anomaly_map_generator: Compares features and reconstruction, and adds the transport cost.

    Attributes:
        experts: Chooses the expert of each image by its features.
    """

    reconstruction: HVQTransReconstruction
    anomaly_map_generator: AnomalyMapGenerator

    def __init__(
        self,
        feature_extractor: MultiScaleFeatures,
        reconstruction: HVQTransReconstruction,
        anomaly_map_generator: AnomalyMapGenerator,
    ) -> None:
        super().__init__(feature_extractor, reconstruction, anomaly_map_generator)
        self.experts = NearestCentre(reconstruction.num_experts, reconstruction.feature_shape[0])

    def rebuild(self, features: torch.Tensor) -> HVQTransOutput:
        """Rebuild features, B x C x H x W, by the expert of each image."""
        return self.reconstruction(features, self.experts(features))

    def training_output(self, features: torch.Tensor) -> TrainingOutput:
        """Rebuild features and keep levels close to their codes; see :meth:`.ReconstructionModel.training_output`."""
        output = self.rebuild(features)
        losses = {
            "reconstruction": reconstruction_loss(output.reconstruction, features),
            "commitment": COMMITMENT_WEIGHT * output.commitment,
        }
        return TrainingOutput(features, output.reconstruction, losses)

    def prediction(self, features: torch.Tensor) -> InferenceBatch:
        """Score images by reconstruction and transport cost; see :meth:`.ReconstructionModel.prediction`."""
        return self.score(features, self.rebuild(features))

    def score(self, features: torch.Tensor, output: HVQTransOutput) -> InferenceBatch:
        """Score images.

        Args:
            features: B x C x H x W.
            output: What the head made of them.

        Returns:
            ``pred_score`` of shape ``(B,)`` and ``anomaly_map`` of B x 1 x height x width.
        """
        anomaly_map, pred_score = self.anomaly_map_generator(features, output.reconstruction, output.transport)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)
