# SPDX-License-Identifier: Apache-2.0

"""What can be known to be wrong before an export begins, said so that a user knows what to do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


def fingerprint(module: nn.Module) -> str:
    """Tell the numbers that a module holds from any others.

    Args:
        module: The module.

    Returns:
        A digest of all its parameters and buffers, the same on every device.
    """
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_is_trained(model_name: str, head: nn.Module, initial: str | None) -> None:
    """See that a model has learnt something, in whatever way: its head no longer holds what it was built with.

    Args:
        model_name: Class of the model.
        head: The part that is trained.
        initial: :func:`fingerprint` of the head as it was built; ``None`` if nobody took it, which passes.

    Raises:
        ValueError: If nothing in the head has changed.
    """
    if initial is not None and fingerprint(head) == initial:
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
    """Find the input size of an exported graph.

    Args:
        asked: Height and width that the user asked for, or ``None``.
        trained: Height and width that the network was trained for.
        resizes: Whether the model's pre-processor resizes.

    Returns:
        Height and width, or ``None`` for a graph that takes any and resizes by itself.

    Raises:
        ValueError: If it is no size, or one that the network cannot take and nothing resizes.
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
