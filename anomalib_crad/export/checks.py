# SPDX-License-Identifier: Apache-2.0

"""Checks before an export begins, with messages that tell a user what to do, and the choice of raw scores.

Raw scores are distances between features, without an upper bound. They suit users who set thresholds of their own or
compare models: squashed scores near 1 hold few digits.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from torch import nn


def fingerprint(module: nn.Module) -> str:
    """Compute a digest of the numbers that a module holds.

    Args:
        module: The module.

    Returns:
        Digest of all its parameters and buffers, the same on every device.
    """
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_is_trained(model_name: str, trained_module: nn.Module, initial: str | None) -> None:
    """Check that a model has been trained, in whatever way: its trained part has changed since it was built.

    Args:
        model_name: Class of the model.
        trained_module: The part that training changes.
        initial: :func:`fingerprint` of that part when it was built; ``None`` if nobody took it, which passes.

    Raises:
        ValueError: If nothing in the part has changed.
    """
    if initial is not None and fingerprint(trained_module) == initial:
        msg = (
            f"This {model_name} has not been trained, so its scores would mean nothing. Train it first, or pass the "
            f"checkpoint of a training (command line: --ckpt_path PATH; Python: "
            f"{model_name}.load_from_checkpoint(PATH))."
        )
        raise ValueError(msg)


def exportable_size(
    asked: Sequence[int] | None,
    trained: Sequence[int],
    resizes: bool,
) -> tuple[int, int] | None:
    """Return the input size of an exported graph.

    Args:
        asked: Height and width that the user asked for, or ``None``.
        trained: Height and width that the network was trained for.
        resizes: Whether the model's pre-processor resizes.

    Returns:
        Height and width, or ``None`` for a graph that takes any and resizes by itself.

    Raises:
        ValueError: If ``asked`` is not a size, or if it is not the trained one and nothing resizes.
    """
    if asked is not None and (len(asked) != 2 or any(side < 1 for side in asked)):
        msg = f"input_size must be height and width, got {list(asked)} (command line: --input_size '[224,224]')."
        raise ValueError(msg)
    size = None if asked is None else (asked[0], asked[1])
    if resizes:
        return size
    if size not in {None, tuple(trained)}:
        msg = (
            f"input_size={list(asked or ())}, but the model was trained for {list(trained)} (height x width) and its "
            f"pre-processor does not resize. Leave input_size out, or give the model a pre-processor that resizes."
        )
        raise ValueError(msg)
    return (trained[0], trained[1])


def take_raw_scores(raw_scores: bool, onnx_kwargs: Mapping[str, Any] | None = None) -> tuple[bool, dict[str, Any]]:
    """Take the choice of raw scores out of the exporter's options.

    anomalib's command line has no such option and passes ``--onnx_kwargs`` only.

    Args:
        raw_scores: The argument of the export.
        onnx_kwargs: Options of the exporter, which may hold ``raw_scores`` too. Defaults to ``None``: no options.

    Returns:
        Whether scores stay raw, and the options without ``raw_scores``.

    Raises:
        TypeError: If one of the two is neither true nor false.
        ValueError: If the two contradict each other.
    """
    options = dict(onnx_kwargs or {})
    passed = options.pop("raw_scores", raw_scores)
    for value in (raw_scores, passed):
        if not isinstance(value, bool):
            msg = f"raw_scores must be true or false, got {value!r} (command line: --onnx_kwargs.raw_scores true)."
            raise TypeError(msg)
    if raw_scores and not passed:
        msg = "raw_scores is True, but onnx_kwargs has raw_scores=False. Leave it out of onnx_kwargs."
        raise ValueError(msg)
    return bool(passed), options


@contextmanager
def scores_left_raw(post_processor: nn.Module | None, raw: bool) -> Generator[None, None, None]:
    """Switch the normalisation of a post-processor off during the block; thresholds still decide labels and masks.

    Args:
        post_processor: anomalib's or ours, or ``None``, which leaves scores raw anyway.
        raw: Whether to switch it off.
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
