# SPDX-License-Identifier: Apache-2.0

"""CRAD: continuous memory representation for anomaly detection."""

from anomalib_crad.models.crad.lightning_model import Crad
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction, CradModel

__all__ = ["ContinuousMemoryReconstruction", "Crad", "CradModel"]
