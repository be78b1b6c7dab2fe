# SPDX-License-Identifier: Apache-2.0

"""The training pass of an inverted residual block on a CPU, with a backward pass of its own.

Between its convolutions a block is a chain of small operations on large buffers: batch norms, activations, a gate.
PyTorch runs them one by one, keeps each result for the backward pass and computes batch statistics slowly on a CPU.
Here statistics come from sums of whole rows, a norm and the gate after it are one multiplication and one addition, and
only the outputs of the convolutions are kept: the backward pass computes activations anew, which costs less than
reading and writing them would. The numbers are those of the plain modules up to rounding.

A batch is worked on in parts of about one image for each thread. What one operation writes is then still in the
processor's cache when the next one reads it, and most intermediate results exist for one part at a time. The parts meet
where a norm needs the statistics of the whole batch.

Axis letters: B batch, C channels, E expanded (hidden) channels, H x W positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class RowSums(NamedTuple):
    """Sums over the positions of each image and channel, of shape B x C each, in double precision.

    Attributes:
        totals: Of a gradient.
        dots: Of a gradient times the values that it belongs to.
    """

    totals: Tensor
    dots: Tensor


class NormGradient(NamedTuple):
    """The gradient of a norm's input, as a line in the gradient of its output and in its input, and of its weights.

    Attributes:
        slope: Factor of the output's gradient, B x C.
        input_slope: Factor of the input, ``(C,)``.
        shift: What is added, B x C.
        scale_gradient: Gradient of the norm's scale, ``(C,)``.
        shift_gradient: Gradient of the norm's shift, ``(C,)``.
    """

    slope: Tensor
    input_slope: Tensor
    shift: Tensor
    scale_gradient: Tensor
    shift_gradient: Tensor

    def apply(self, gradient: Tensor, values: Tensor, images: slice) -> Tensor:
        """Gradient of the input of some images."""
        return _line(gradient, self.slope[images], self.shift[images]).addcmul_(
            values, self.input_slope.view(1, -1, 1, 1)
        )


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
        block, parts = BlockWeights(*weights), _parts(len(features))
        expanded = [torch.conv2d(features[part], block.expand) for part in parts]  # B x E x H x W in all
        of_expand, _ = _statistics(expanded)
        scale, shift = _norm_as_line(of_expand, block.expand_scale, block.expand_shift, eps)
        filtered = [_depthwise(aten.hardswish_(_line(values, scale, shift)), block.depthwise) for values in expanded]
        of_filter, row_means = _statistics(filtered)
        scale, shift = _norm_as_line(of_filter, block.depthwise_scale, block.depthwise_shift, eps)
        _, gate = _gate(scale * row_means + shift, block)  # B x E
        projected = []  # B x C x H x W in all
        for part, values in zip(parts, filtered, strict=True):
            hidden = aten.hardswish_(_line(values, scale * gate[part], shift * gate[part]))
            projected.append(torch.conv2d(hidden, block.project))
        of_project, _ = _statistics(projected)
        scale, shift = _norm_as_line(of_project, block.project_scale, block.project_shift, eps)
        output = torch.empty_like(features)
        for part, values in zip(parts, projected, strict=True):
            torch.add(_line(values, scale, shift), features[part], out=output[part])

        statistics = (*of_expand, *of_filter, *of_project)
        ctx.save_for_backward(features, row_means, *statistics, *weights, *expanded, *filtered, *projected)
        ctx.eps, ctx.parts = eps, parts
        ctx.mark_non_differentiable(*statistics)
        return output, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of features and weights."""
        features, row_means, *rest = ctx.saved_tensors
        of_expand, of_filter, of_project = (BatchStatistics(*rest[start : start + 2]) for start in (0, 2, 4))
        weights = len(BlockWeights._fields)
        block, buffers, eps = BlockWeights(*rest[6 : 6 + weights]), rest[6 + weights :], ctx.eps
        parts, gradient = ctx.parts, gradient.contiguous()
        expanded, filtered, projected = (buffers[len(parts) * n : len(parts) * (n + 1)] for n in range(3))
        count = features.numel() // features.shape[1]

        sums = _row_sums([gradient[part] for part in parts], projected)
        of_output = _norm_backward(sums, block.project_scale, of_project, eps, count)
        scale, shift = _norm_as_line(of_filter, block.depthwise_scale, block.depthwise_shift, eps)
        means = scale * row_means + shift
        squeezed, gate = _gate(means, block)
        inner, project = [], torch.zeros_like(block.project)
        for part, values, outputs in zip(parts, filtered, projected, strict=True):
            gated = _line(values, scale * gate[part], shift * gate[part])
            step = of_output.apply(gradient[part], outputs, part)
            project += conv2d_weight(aten.hardswish(gated), project.shape, step)
            inner.append(aten.hardswish_backward(conv2d_input(values.shape, block.project, step), gated))

        # The gate multiplies the norm's output, which is a line in what was filtered.
        sums = _row_sums(inner, filtered)
        of_gate = (scale * sums.dots + shift * sums.totals).to(scale.dtype)
        of_means, squeeze, excite = _gate_backward(of_gate, means, squeezed, gate, block)
        # The norm's output has the gradient ``gate * inner + of_means / positions``.
        positions = count // len(features)
        sums = RowSums(gate * sums.totals + of_means, gate * sums.dots + of_means * row_means)
        of_gated = _norm_backward(sums, block.depthwise_scale, of_filter, eps, count)
        of_gated = of_gated._replace(
            slope=of_gated.slope * gate, shift=of_gated.shift + of_gated.slope * of_means / positions
        )

        scale, shift = _norm_as_line(of_expand, block.expand_scale, block.expand_shift, eps)
        depthwise, options = torch.zeros_like(block.depthwise), {"padding": 1, "groups": len(block.depthwise)}
        for number, (part, values) in enumerate(zip(parts, expanded, strict=True)):
            normalised = _line(values, scale, shift)
            step = of_gated.apply(inner[number], filtered[number], part)
            depthwise += conv2d_weight(aten.hardswish(normalised), depthwise.shape, step, **options)
            step = conv2d_input(values.shape, block.depthwise, step, **options)
            inner[number] = aten.hardswish_backward(step, normalised)
        of_expanded = _norm_backward(_row_sums(inner, expanded), block.expand_scale, of_expand, eps, count)
        result, expand = torch.empty_like(features), torch.zeros_like(block.expand)
        for number, (part, values) in enumerate(zip(parts, expanded, strict=True)):
            step = of_expanded.apply(inner[number], values, part)
            expand += conv2d_weight(features[part], expand.shape, step)
            step = conv2d_input(features[part].shape, block.expand, step)
            torch.add(step, gradient[part], out=result[part])
        of_weights = BlockWeights(
            expand, of_expanded.scale_gradient, of_expanded.shift_gradient,
            depthwise, of_gated.scale_gradient, of_gated.shift_gradient,
            squeeze, excite,
            project, of_output.scale_gradient, of_output.shift_gradient,
        )  # fmt: skip
        return result, None, *of_weights


def _parts(batch: int) -> list[slice]:
    """Images that are worked on together: as many as there are threads.

    At least two, because PyTorch convolves a single image on a single thread without oneDNN, which is slower.
    """
    size = max(torch.get_num_threads(), 2)
    return [slice(start, start + size) for start in range(0, batch, size)]


def batch_statistics(values: Tensor) -> BatchStatistics:
    """Mean and biased variance of each channel, from sums over rows, which a CPU computes fast.

    Args:
        values: B x C x H x W, contiguous.

    Returns:
        Both of shape ``(C,)``.
    """
    return _statistics([values])[0]


def _statistics(parts: Sequence[Tensor]) -> tuple[BatchStatistics, Tensor]:
    """Statistics of a batch in parts, and the mean of each image and channel, B x C."""
    rows = [part.flatten(2) for part in parts]
    means = torch.cat([row.mean(dim=2) for row in rows])  # B x C
    squares = torch.cat([torch.linalg.vector_norm(row, dim=2) for row in rows]).double().square() / rows[0].shape[2]
    exact = means.double()
    mean = exact.mean(dim=0)
    # Within each image, then between the images: less is lost than in one difference of large numbers.
    variance = (squares - exact.square()).clamp(min=0).mean(dim=0) + (exact - mean).square().mean(dim=0)
    return BatchStatistics(mean.to(means.dtype), variance.to(means.dtype)), means


def _row_sums(gradients: Sequence[Tensor], values: Sequence[Tensor]) -> RowSums:
    pairs = [(part.flatten(2), of.flatten(2)) for part, of in zip(gradients, values, strict=True)]
    totals = torch.cat([part.sum(dim=2) for part, _ in pairs])
    dots = torch.cat([torch.linalg.vecdot(part, of) for part, of in pairs])
    return RowSums(totals.double(), dots.double())


def _norm_as_line(statistics: BatchStatistics, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A batch norm as scale and shift of each channel."""
    scale = scale * torch.rsqrt(statistics.variance + eps)
    return scale, shift - scale * statistics.mean


def _norm_backward(sums: RowSums, scale: Tensor, statistics: BatchStatistics, eps: float, count: int) -> NormGradient:
    """Gradients of a norm over ``count`` values by channel, from sums of its output's gradient."""
    deviation, mean = torch.rsqrt(statistics.variance.double() + eps), statistics.mean.double()
    total = sums.totals.sum(dim=0)
    of_scale = deviation * (sums.dots.sum(dim=0) - mean * total)
    slope = scale * deviation
    input_slope = -slope * deviation * of_scale / count
    shift = -slope * total / count - input_slope * mean
    numbers = (slope.expand_as(sums.totals), input_slope, shift.expand_as(sums.totals), of_scale, total)
    return NormGradient(*(number.to(scale.dtype) for number in numbers))


def _line(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * values + shift`` by channel, or by image and channel, in one pass over B x C x H x W values."""
    batch, channels = values.shape[:2]
    scale, shift = (number.expand(batch, channels).reshape(-1) for number in (scale, shift))
    flat = values.reshape(1, batch * channels, *values.shape[2:])
    # In evaluation mode and with these statistics a batch norm is that line.
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    return aten.native_batch_norm(flat, scale, shift, zeros, ones, False, 0.0, 0.0)[0].view_as(values)  # noqa: FBT003


def _depthwise(values: Tensor, weight: Tensor) -> Tensor:
    return torch.conv2d(values, weight, padding=1, groups=len(weight))


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
