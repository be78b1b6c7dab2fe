# SPDX-License-Identifier: Apache-2.0

"""Exported models whose scores are what the network gives, instead of numbers between 0 and 1.

Raw scores are distances between features. They suit whoever sets thresholds of their own, or compares models: squashed
scores near 1 hold few digits.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import nn


@contextmanager
def scores_left_raw(post_processor: nn.Module | None, raw: bool) -> Generator[None, None, None]:
    """Switch a post-processor's normalisation off for a while; labels and masks stay those of its thresholds.

    Args:
        post_processor: Of anomalib or of ours, or ``None``, which leaves scores raw anyway.
        raw: Whether to.
    """
    before = getattr(post_processor, "enable_normalization", None)
    if not raw or before is None:
        yield
        return
    post_processor.enable_normalization = False  # type: ignore[union-attr]  # a flag, as just found
    try:
        yield
    finally:
        post_processor.enable_normalization = before  # type: ignore[union-attr]
