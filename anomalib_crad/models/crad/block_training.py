# SPDX-License-Identifier: Apache-2.0

"""The training pass of an inverted residual block on a CPU, with a backward pass of its own.

Between its convolutions a block is a chain of small operations on large buffers: batch norms, activations, a gate.
PyTorch runs them one by one, keeps each result for the backward pass and computes batch statistics slowly on a CPU.
Here statistics come from sums of whole rows, a norm and the gate after it are one multiplication and one addition, and
only the outputs of the convolutions are kept: the backward pass computes activations anew, which costs less than
reading and writing them would. The numbers are those of the plain modules up to rounding.

Axis letters: B batch, C channels, E expanded (hidden) channels, H x W positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

aten = torch.ops.aten


class BatchStatistics(NamedTuple):
    """Mean and biased variance of each channel over a batch, shape ``(channels,)`` each."""

    mean: Tensor
    variance: Tensor


class BlockWeights(NamedTuple):
    """Weights of a block, in the order of its layers.

    A norm is its scale and its shift, and no other layer has a bias.

    Attributes:
        expand: E x C x 1 x 1.
        expand_scale: E.
        expand_shift: E.
        depthwise: E x 1 x 3 x 3.
        depthwise_scale: E.
        depthwise_shift: E.
        squeeze: E / 4 x E x 1 x 1.
        excite: E x E / 4 x 1 x 1.
        project: C x E x 1 x 1.
        project_scale: C.
        project_shift: C.
    """

    expand: Tensor
    expand_scale: Tensor
    expand_shift: Tensor
    depthwise: Tensor
    depthwise_scale: Tensor
    depthwise_shift: Tensor
    squeeze: Tensor
    excite: Tensor
    project: Tensor
    project_scale: Tensor
    project_shift: Tensor


class InvertedResidualTraining(torch.autograd.Function):
    """Features B x C x H x W to features of the same shape, and the statistics of the three norms."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, eps: float, *weights: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        """Run the block in training mode.

        Args:
            ctx: PyTorch's context.
            features: B x C x H x W, contiguous.
            eps: Added to each variance.
            *weights: The fields of :class:`BlockWeights`.

        Returns:
            The block's output, then mean and biased variance of the three norms' inputs, without gradients.
        """
        block = BlockWeights(*weights)
        expanded = _pointwise(features, block.expand)  # B x E x H x W
        expand_statistics = batch_statistics(expanded)
        scale, shift = _norm_as_line(expand_statistics, block.expand_scale, block.expand_shift, eps)
        hidden = aten.hardswish_(_line(expanded, scale, shift))
        filtered = _depthwise(hidden, block.depthwise)
        filter_statistics = batch_statistics(filtered)
        scale, shift = _norm_as_line(filter_statistics, block.depthwise_scale, block.depthwise_shift, eps)
        means = scale * filtered.mean(dim=(2, 3)) + shift  # B x E
        squeezed, gate = _gate(means, block)  # B x E / 4, B x E
        hidden = aten.hardswish_(_line(filtered, scale * gate, shift * gate))
        projected = _pointwise(hidden, block.project)  # B x C x H x W
        project_statistics = batch_statistics(projected)
        scale, shift = _norm_as_line(project_statistics, block.project_scale, block.project_shift, eps)
        output = _line(projected, scale, shift).add_(features)

        statistics = (*expand_statistics, *filter_statistics, *project_statistics)
        ctx.save_for_backward(features, expanded, filtered, projected, means, squeezed, gate, *statistics, *weights)
        ctx.eps = eps
        ctx.mark_non_differentiable(*statistics)
        return output, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of features and weights."""
        features, expanded, filtered, projected, means, squeezed, gate, *rest = ctx.saved_tensors
        eps, block = ctx.eps, BlockWeights(*rest[6:])
        of_expand, of_filter, of_project = (BatchStatistics(*rest[start : start + 2]) for start in (0, 2, 4))
        gradient = gradient.contiguous()

        inner, project_scale, project_shift = _norm_backward(gradient, projected, block.project_scale, of_project, eps)
        scale, shift = _norm_as_line(of_filter, block.depthwise_scale, block.depthwise_shift, eps)
        gated = _line(filtered, scale * gate, shift * gate)
        inner, project = _pointwise_backward(inner, aten.hardswish(gated), block.project)
        inner = aten.hardswish_backward(inner, gated)
        del gated

        # The gate multiplies the norm's output, which is a line in what was filtered.
        total = inner.sum(dim=(2, 3))  # B x E
        of_gate = scale * torch.linalg.vecdot(inner.flatten(2), filtered.flatten(2)) + shift * total
        of_means, squeeze, excite = _gate_backward(of_gate, means, squeezed, gate, block)
        inner = _line(inner, gate, of_means / inner[0, 0].numel())
        inner, depthwise_scale, depthwise_shift = _norm_backward(inner, filtered, block.depthwise_scale, of_filter, eps)

        scale, shift = _norm_as_line(of_expand, block.expand_scale, block.expand_shift, eps)
        normalised = _line(expanded, scale, shift)
        inner, depthwise = _depthwise_backward(inner, aten.hardswish(normalised), block.depthwise)
        inner = aten.hardswish_backward(inner, normalised)
        del normalised
        inner, expand_scale, expand_shift = _norm_backward(inner, expanded, block.expand_scale, of_expand, eps)
        inner, expand = _pointwise_backward(inner, features, block.expand)
        weights = BlockWeights(
            expand, expand_scale, expand_shift, depthwise, depthwise_scale, depthwise_shift,
            squeeze, excite, project, project_scale, project_shift,
        )  # fmt: skip
        return inner.add_(gradient), None, *weights


def batch_statistics(values: Tensor) -> BatchStatistics:
    """Mean and biased variance of each channel, from sums over rows, which a CPU computes fast.

    Args:
        values: B x C x H x W, contiguous.

    Returns:
        Both of shape ``(C,)``.
    """
    rows = values.flatten(2)
    size = rows.shape[2]
    means = rows.mean(dim=2).double()  # B x C
    squares = torch.linalg.vector_norm(rows, dim=2).double().square() / size
    mean = means.mean(dim=0)
    # Within each image, then between the images: less is lost than in one difference of large numbers.
    variance = (squares - means.square()).clamp(min=0).mean(dim=0) + (means - mean).square().mean(dim=0)
    return BatchStatistics(mean.to(values.dtype), variance.to(values.dtype))


def _norm_as_line(statistics: BatchStatistics, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A batch norm as scale and shift of each channel."""
    scale = scale * torch.rsqrt(statistics.variance + eps)
    return scale, shift - scale * statistics.mean


def _line(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * values + shift`` by channel, or by image and channel, in one pass over B x C x H x W values."""
    batch, channels = values.shape[:2]
    scale, shift = (number.expand(batch, channels).reshape(-1) for number in (scale, shift))
    flat = values.reshape(1, batch * channels, *values.shape[2:])
    # In evaluation mode and with these statistics a batch norm is that line.
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    return aten.native_batch_norm(flat, scale, shift, zeros, ones, False, 0.0, 0.0)[0].view_as(values)  # noqa: FBT003


def _norm_backward(
    gradient: Tensor, values: Tensor, scale: Tensor, statistics: BatchStatistics, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a norm's input, scale and shift."""
    deviation = torch.rsqrt(statistics.variance + eps)
    training, wanted = True, [True, True, True]
    return aten.native_batch_norm_backward(
        gradient, values, scale, None, None, statistics.mean, deviation, training, eps, wanted
    )


def _pointwise(values: Tensor, weight: Tensor) -> Tensor:
    return torch.conv2d(values, weight)


def _pointwise_backward(gradient: Tensor, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _convolution_backward(gradient, values, weight, padding=0, groups=1)


def _depthwise(values: Tensor, weight: Tensor) -> Tensor:
    return torch.conv2d(values, weight, padding=1, groups=len(weight))


def _depthwise_backward(gradient: Tensor, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _convolution_backward(gradient, values, weight, padding=1, groups=len(weight))


def _convolution_backward(
    gradient: Tensor, values: Tensor, weight: Tensor, padding: int, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and the weight of a convolution with stride 1 and without bias."""
    options = {"padding": padding, "groups": groups}
    return (
        conv2d_input(values.shape, weight, gradient, **options),
        conv2d_weight(values, weight.shape, gradient, **options),
    )


def _gate(means: Tensor, block: BlockWeights) -> tuple[Tensor, Tensor]:
    """Squeeze and excite: B x E means of channels to what was squeezed, B x E / 4, and the gate, B x E."""
    squeezed = torch.relu(means @ block.squeeze.flatten(1).T)
    return squeezed, aten.hardsigmoid(squeezed @ block.excite.flatten(1).T)


def _gate_backward(
    gradient: Tensor, means: Tensor, squeezed: Tensor, gate: Tensor, block: BlockWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the means that the gate is computed from, and of its two layers."""
    # Hard sigmoid is a line of slope 1 / 6 between 0 and 1.
    gradient = torch.where((gate > 0) & (gate < 1), gradient / 6, 0.0)
    excite = gradient.T @ squeezed
    gradient = (gradient @ block.excite.flatten(1)) * (squeezed > 0)
    squeeze = gradient.T @ means
    return gradient @ block.squeeze.flatten(1), squeeze.view_as(block.squeeze), excite.view_as(block.excite)
