# SPDX-License-Identifier: Apache-2.0

"""Raw scores to scores for display: 0.5 is the threshold, everything lies in (0, 1), and no ranking changes.

anomalib cuts at 0 and 1, so what lies beyond becomes one and the same score. Here the line is squashed instead, by a
rational function that every runtime has, that keeps the distance between scores near the threshold, where people look,
and that can be undone.

With threshold ``t``, scale ``s > 0`` and ``u = (x - t) / s``::

    y = 1/2 * (1 + u / (1 + |u|))           x = t + s * v / (1 - |v|)   with   v = 2 * y - 1

The scale is the usual distance of a normal score from the threshold, so the numbers mean something:

==============  ======  ==========================================================
u               y       meaning
==============  ======  ==========================================================
-1              0.25    as far below the threshold as a usual normal image
0               0.5     the threshold
1               0.75    as far above it
9               0.95    nine times as far above it
==============  ======  ==========================================================

For scores that are never negative, twice the threshold is at least 0.75 as long as most normal scores lie below it.
Order is kept in float32 too, where each step is rounded but none turns an order round. A score just above the threshold
never rounds down to 0.5, so "above 0.5" always says the same as "above the threshold".
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The float32 after 0.5.
JUST_ABOVE_HALF = 0.5 + 2.0**-24


def squash(scores: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """Bring raw scores to (0, 1) with the threshold at 0.5.

    Args:
        scores: Raw scores, of any shape. NaN stays NaN; infinite ones become 0 and 1.
        threshold: Threshold, of a shape that broadcasts with the scores. Where it is NaN, scores are returned raw.
        scale: Distance from the threshold that is shown as 0.25 and 0.75; above 0, of the threshold's shape.

    Returns:
        Scores for display, of the shape of ``scores``.
    """
    # The part beyond the score, on its own side: computed directly, since a difference from 1/2 would lose digits.
    tail = 0.5 / (1 + ((scores - threshold) / scale).abs())
    squashed = torch.where(scores > threshold, (1 - tail).clamp(min=JUST_ABOVE_HALF), tail)
    return torch.where(torch.isnan(threshold), scores, squashed)


def unsquash(squashed: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """Undo :func:`squash`, up to rounding: near 1, float32 holds few digits of a high score.

    Args:
        squashed: Scores for display, in [0, 1], of any shape.
        threshold: As given to :func:`squash`.
        scale: As given to :func:`squash`.

    Returns:
        Raw scores, of the shape of ``squashed``; minus infinity for 0 and infinity for 1.
    """
    # Starting from the tail instead of 2 * y - 1 keeps the digits of small values.
    distance = scale * (0.5 / torch.where(squashed > 0.5, 1 - squashed, squashed) - 1)
    raw = threshold + torch.where(squashed > 0.5, distance, -distance)
    return torch.where(torch.isnan(threshold), squashed, raw)
