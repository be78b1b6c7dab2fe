# SPDX-License-Identifier: Apache-2.0

"""Exported models whose scores are what the network gives, instead of numbers between 0 and 1.

Raw scores are distances between features. They suit whoever sets thresholds of their own, or compares models: squashed
scores near 1 hold few digits.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import nn


def asks_for_raw_scores(raw_scores: bool, onnx_kwargs: Mapping[str, Any] | None = None) -> bool:
    """Tell whether scores shall stay raw, from the argument and from the only one that anomalib's command line passes.

    Args:
        raw_scores: The argument.
        onnx_kwargs: May hold ``raw_scores`` too. Defaults to ``None``.

    Returns:
        Whether one of them says so.

    Raises:
        TypeError: If it is neither true nor false.
        ValueError: If the two differ.
    """
    passed = (onnx_kwargs or {}).get("raw_scores", raw_scores)
    for value in (raw_scores, passed):
        if not isinstance(value, bool):
            msg = f"raw_scores must be true or false, got {value!r} (command line: --onnx_kwargs.raw_scores true)."
            raise TypeError(msg)
    if raw_scores and not passed:
        msg = "raw_scores is True, but onnx_kwargs has raw_scores=False. Leave it out of onnx_kwargs."
        raise ValueError(msg)
    return bool(passed)


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
