# SPDX-License-Identifier: Apache-2.0

"""CRAD: continuous memory representation for anomaly detection."""

from .lightning_model import Crad
from .torch_model import ContinuousMemoryReconstruction, CradModel

__all__ = ["ContinuousMemoryReconstruction", "Crad", "CradModel"]
