# SPDX-License-Identifier: Apache-2.0

"""How closely a head must agree with numbers that were recorded from its authors' release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

# Relative to the largest recorded value.
TOLERANCE = {"eval_init": 1e-4, "losses": 1e-3, "eval_final": 5e-3}


def official_state_dict(recorded: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Initial tensors under the authors' names."""
    return {key.removeprefix("init/"): torch.from_numpy(recorded[key]) for key in recorded if key.startswith("init/")}


def assert_close(actual: torch.Tensor | np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    difference = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert difference <= tolerance
