# SPDX-License-Identifier: Apache-2.0

"""What is computed in single precision when a training computes in half precision.

Lightning's ``precision="bf16-mixed"`` and ``"16-mixed"`` run matrix products and convolutions in 16 bits. Three parts
of our models would become too inaccurate: coordinates, of which bfloat16 has 128 between 0.5 and 1; reads of a
memory, whose weights are differences of coordinates; and the difference of features and reconstruction, from which
scores come.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Generator


def at_least_single_precision(values: torch.Tensor) -> torch.Tensor:
    """Convert values of half precision to single precision and leave others alone; any shape.

    Scores come from the difference of reconstruction and features; half precision would round most of it away.
    """
    return values.float() if values.dtype in {torch.float16, torch.bfloat16} else values


@contextmanager
def no_mixed_precision(values: torch.Tensor) -> Generator[torch.Tensor, None, None]:
    """Compute a block in single precision, where mixed precision would compute it in half precision.

    A model whose weights have half precision (``"bf16-true"``) computes as before. An exported graph does not contain
    this.

    Args:
        values: Input of the block, any shape.

    Yields:
        The values, in at least single precision where mixed precision is on.
    """
    if not torch.is_autocast_enabled(values.device.type):
        yield values
        return
    with torch.autocast(values.device.type, enabled=False):
        yield at_least_single_precision(values)
