# SPDX-License-Identifier: Apache-2.0

"""UniAD: a unified model for multi-class anomaly detection."""

from anomalib_crad.models.uniad.lightning_model import UniAD
from anomalib_crad.models.uniad.torch_model import UniADModel, UniADReconstruction

__all__ = ["UniAD", "UniADModel", "UniADReconstruction"]
