# SPDX-License-Identifier: Apache-2.0

"""UniAD as a PyTorch model: features -> encoder -> layer-wise query decoder -> map (UniAD, section 3).

:class:`UniADReconstruction` is the whole trainable head; :class:`UniADModel` puts the frozen backbone before it and
the anomaly map after it, and anomalib exports it.

Example:
    >>> head = UniADReconstruction(in_channels=8, feature_size=(4, 4), hidden_dim=16, neighbor_size=(3, 3))
    >>> head(torch.rand(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])

Axis letters: B batch, C channels, H x W positions, L = H * W tokens row by row, E width of the transformer.
"""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.torch_model import ReconstructionModel
from anomalib_crad.models.components.transformer import Attention, PositionEmbedding
from anomalib_crad.models.uniad.transformer import (
    JITTER_PROBABILITY,
    JITTER_SCALE,
    Decoder,
    Encoder,
    FeatureJitter,
    neighbor_mask,
)


class UniADReconstruction(nn.Module):
    """Rebuild features with a transformer that cannot copy them.

    Args:
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features; positions and queries are tied to it.
        hidden_dim: Width of the transformer (E). Defaults to ``256``.
        num_heads: Heads of each attention. Defaults to ``8``.
        num_encoder_layers: Layers of the encoder. Defaults to ``4``.
        num_decoder_layers: Layers of the decoder. Defaults to ``4``.
        feedforward_dim: Width inside the feed-forward networks. Defaults to ``1024``.
        neighbor_size: Height and width of the window around a token that it may not attend to, in positions; both odd.
            Defaults to ``(7, 7)``.
        dropout: Chance of dropout in training, in attention weights, feed-forward networks and residual updates.
            Defaults to ``0.1``.
        jitter_scale: Size of the noise on features in training, relative to their norm by channel.
            Defaults to ``20.0``.
        jitter_probability: Chance that a batch is jittered. Defaults to ``1.0``.

    Raises:
        ValueError: If an argument is out of range, naming it.
    """

    def __init__(
        self,
        in_channels: int,
        feature_size: tuple[int, int],
        hidden_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 4,
        num_decoder_layers: int = 4,
        feedforward_dim: int = 1024,
        neighbor_size: tuple[int, int] = (7, 7),
        dropout: float = 0.1,
        jitter_scale: float = JITTER_SCALE,
        jitter_probability: float = JITTER_PROBABILITY,
    ) -> None:
        super().__init__()
        _check_arguments(hidden_dim, num_heads, num_encoder_layers, num_decoder_layers, feedforward_dim, dropout)
        height, width = feature_size
        self.feature_shape = (in_channels, height, width)
        self.jitter = FeatureJitter(jitter_scale, jitter_probability)
        self.input_projection = nn.Linear(in_channels, hidden_dim)
        self.position = PositionEmbedding((height, width), hidden_dim)
        self.encoder = Encoder(num_encoder_layers, hidden_dim, num_heads, feedforward_dim, dropout)
        self.decoder = Decoder(num_decoder_layers, height * width, hidden_dim, num_heads, feedforward_dim, dropout)
        self.output_projection = nn.Linear(hidden_dim, in_channels)
        self.register_buffer("mask", neighbor_mask((height, width), neighbor_size), persistent=False)
        self.mask: torch.Tensor
        self.apply(_initialise)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Rebuild features.

        Args:
            features: B x C x H x W, of the channels and the size that the model was built for.

        Returns:
            Reconstruction, B x C x H x W.

        Raises:
            ValueError: If the features' shape is not the one that the model was built for.
        """
        if tuple(features.shape[1:]) != self.feature_shape:
            msg = (
                f"This model was built for features of {' x '.join(map(str, self.feature_shape))} (channels x height "
                f"x width), got {' x '.join(map(str, features.shape[1:]))}. Learned positions tie a model to its image "
                "size: resize images to it, or build and train a model with another image_size."
            )
            raise ValueError(msg)
        position = self.position()  # L x E
        tokens = self.jitter(features.flatten(2).transpose(1, 2))  # B x L x C
        encoded = self.encoder(self.input_projection(tokens), position, self.mask)  # B x L x E
        decoded = self.decoder(encoded, position, self.mask)
        reconstruction: torch.Tensor = self.output_projection(decoded)  # B x L x C
        return reconstruction.transpose(1, 2).unflatten(2, self.feature_shape[1:])


def _check_arguments(
    hidden_dim: int,
    num_heads: int,
    num_encoder_layers: int,
    num_decoder_layers: int,
    feedforward_dim: int,
    dropout: float,
) -> None:
    sizes = {
        "hidden_dim": hidden_dim,
        "num_heads": num_heads,
        "num_encoder_layers": num_encoder_layers,
        "num_decoder_layers": num_decoder_layers,
        "feedforward_dim": feedforward_dim,
    }
    for name, value in sizes.items():
        if value < 1:
            msg = f"{name} must be at least 1, got {value}."
            raise ValueError(msg)
    if hidden_dim % num_heads:
        msg = f"hidden_dim must be a multiple of num_heads, got {hidden_dim} and {num_heads}."
        raise ValueError(msg)
    if not 0 <= dropout < 1:
        msg = f"dropout must be at least 0 and less than 1, got {dropout}."
        raise ValueError(msg)


def _initialise(module: nn.Module) -> None:
    """Set Xavier-uniform weights and zero biases; positions and queries keep their own initial values."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, Attention):  # `apply` visits its layers first
        for layer in (module.query, module.key, module.value):
            # The authors' attention has them in one matrix, and Xavier counts all of its rows.
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)


class UniADModel(ReconstructionModel):
    """Images to anomaly maps and image scores, with :class:`UniADReconstruction` between."""
