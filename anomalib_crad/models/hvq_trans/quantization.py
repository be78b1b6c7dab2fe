# SPDX-License-Identifier: Apache-2.0

"""Vector quantisation by codebooks of each expert, which follow what they replace as moving averages (HVQ-Trans).

Each token is replaced by the nearest code of its image's expert. Codes are no parameters: a code moves towards the mean
of the tokens that chose it, one image at a time, so that an image meets the codes that the images before it in the
batch have moved. That is how the authors train; one update for the whole batch gives other numbers.

It differs from the authors' release where several processes train together. There, statistics of one expert can reach
another's codebooks, and all but the first process's codebooks are lost. Here every process learns from the tokens of
all of them, as one process does from their batches put together.

Axis letters: B batch, L tokens, X experts, K codes of a codebook, D numbers of a code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.nn import functional

CODEBOOK_DECAY = 0.99
CODEBOOK_EPSILON = 1e-5


class Quantized(NamedTuple):
    """Tokens after quantisation.

    Attributes:
        values: The nearest codes, B x L x D; in training with the gradient of the tokens (straight-through).
        indices: Which codes they are, B x L.
    """

    values: torch.Tensor
    indices: torch.Tensor


def nearest_codes(tokens: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Find the codes at the smallest Euclidean distance.

    Args:
        tokens: ``(..., L, D)``.
        codes: ``(..., K, D)``.

    Returns:
        Indices of codes, ``(..., L)``; the first of several at the same distance.
    """
    # Half the squared distance without the token's own square, which is the same for all codes.
    halves = codes.square().sum(dim=-1).unsqueeze(-2) / 2  # (..., 1, K)
    return (halves - tokens @ codes.transpose(-2, -1)).argmin(dim=-1)


def transport_cost(tokens: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Measure how far tokens are from all codes of their codebook together, by optimal transport.

    The cost of moving a token to a code is one minus their cosine. It is moved to all codes, in shares by a softmax.
    The division by the number of codes is the authors' and makes the shares nearly flat: the result is close to the
    mean cost over all codes, whether or not these are in use.

    It is finite for codes of any length: a code of length 0 has cosine 0, and the softmax does not overflow, as it
    does in the authors' release for codes that are as long as theirs are at the start.

    Args:
        tokens: Tokens before quantisation, B x L x D.
        codes: Each image's codebook, B x K x D.

    Returns:
        Costs from 0 to 2, B x L.
    """
    weights = (tokens @ codes.transpose(-2, -1) / codes.shape[-2]).softmax(dim=-1)  # B x L x K
    cosines = functional.normalize(tokens, dim=-1) @ functional.normalize(codes, dim=-1).transpose(-2, -1)
    return (weights * (1 - cosines)).sum(dim=-1)


class Codebooks(nn.Module):
    """One codebook for each expert; usable alone.

    Codes start as random numbers that nothing has chosen, as in the authors' release; :meth:`start` replaces them by
    tokens. A code that nothing chooses any more keeps its place at first; after about 1,150 images of its expert it
    shrinks to zero, where only tokens near zero could choose it again.

    Args:
        num_experts: Codebooks (X).
        num_codes: Codes of each (K).
        dim: Numbers of a code (D).
        decay: Share of the past in the moving averages. Defaults to ``0.99``.
        epsilon: Added to the number of tokens that chose a code, so that none is divided by 0. Defaults to ``1e-5``.

    Attributes:
        codes: X x K x D.
        sizes: Moving average of how many tokens of an image choose a code, X x K.
        sums: Moving average of the sum of these tokens, X x K x D.
        chosen: Whether a code was chosen since :meth:`forget_choices`, X x K; not part of the state dict.

    Example:
        >>> codebooks = Codebooks(num_experts=2, num_codes=16, dim=8).eval()
        >>> codebooks(torch.rand(3, 10, 8), experts=torch.tensor([0, 1, 0])).values.shape
        torch.Size([3, 10, 8])
    """

    codes: torch.Tensor
    sizes: torch.Tensor
    sums: torch.Tensor
    chosen: torch.Tensor

    def __init__(
        self,
        num_experts: int,
        num_codes: int,
        dim: int,
        decay: float = CODEBOOK_DECAY,
        epsilon: float = CODEBOOK_EPSILON,
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.decay = decay
        self.epsilon = epsilon
        codes = torch.randn(num_experts, num_codes, dim)
        self.register_buffer("codes", codes)
        self.register_buffer("sizes", torch.zeros(num_experts, num_codes))
        self.register_buffer("sums", codes.clone())
        self.register_buffer("chosen", torch.zeros(num_experts, num_codes, dtype=torch.bool), persistent=False)

    def forward(self, tokens: torch.Tensor, experts: torch.Tensor) -> Quantized:
        """Replace each token by its nearest code; in training, move the codes afterwards.

        Args:
            tokens: B x L x D.
            experts: Number of each image's expert, shape ``(B,)``.

        Returns:
            Values and indices.
        """
        if not self.training:
            indices = nearest_codes(tokens, self.codes[experts])
            rows = experts.unsqueeze(1) * self.num_codes + indices
            return Quantized(functional.embedding(rows, self.codes.flatten(0, 1)), indices)
        with torch.autocast(tokens.device.type, enabled=False):
            values, indices = self._learn(tokens.detach().to(self.codes.dtype), experts)
        return Quantized(tokens + (values - tokens).detach(), indices)

    def start(self, expert: int, codes: torch.Tensor) -> None:
        """Let a codebook start from given codes, each as if one token of every image had chosen it.

        Args:
            expert: Number of the expert.
            codes: K x D.
        """
        self.codes[expert] = codes
        self.sums[expert] = codes
        self.sizes[expert] = 1.0

    def started(self) -> torch.Tensor:
        """Tell which experts' codebooks hold anything but random codes, shape ``(X,)``."""
        return self.sizes.any(dim=1)

    def forget_choices(self) -> None:
        """Count codes in use anew."""
        self.chosen.zero_()

    def codes_in_use(self) -> torch.Tensor:
        """Count for each expert the codes that were chosen since :meth:`forget_choices`, shape ``(X,)``."""
        return self.chosen.sum(dim=1)

    @torch.no_grad()
    def _learn(self, tokens: torch.Tensor, experts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise the images of all processes in turn, moving codes after each; return what this process asked for."""
        own = slice(None)
        if distributed.is_available() and distributed.is_initialized():
            start = distributed.get_rank() * len(tokens)
            own = slice(start, start + len(tokens))
            tokens, experts = _gather(tokens), _gather(experts)
        values, indices = [], []
        for image, expert in zip(tokens, experts.unsqueeze(1), strict=True):  # L x D, 1
            codes = self.codes[expert].squeeze(0)  # K x D
            index = nearest_codes(image, codes)
            values.append(codes[index])
            indices.append(index)
            self._follow(image, index, expert)
        return torch.stack(values[own]), torch.stack(indices[own])

    def _follow(self, tokens: torch.Tensor, indices: torch.Tensor, expert: torch.Tensor) -> None:
        """Move one expert's codes towards the tokens of an image, L x D, that chose them."""
        choices = functional.one_hot(indices, self.num_codes).to(tokens.dtype)  # L x K
        counts = choices.sum(dim=0)
        sizes = self.decay * self.sizes[expert] + (1 - self.decay) * counts  # 1 x K
        sums = self.decay * self.sums[expert] + (1 - self.decay) * (choices.T @ tokens)  # 1 x K x D
        total = sizes.sum()
        smoothed = (sizes + self.epsilon) / (total + self.num_codes * self.epsilon) * total
        self.sizes[expert] = sizes
        self.sums[expert] = sums
        self.codes[expert] = sums / smoothed.unsqueeze(-1)
        self.chosen[expert] |= counts > 0


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    """Put the equally long tensors of all processes one after another."""
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
