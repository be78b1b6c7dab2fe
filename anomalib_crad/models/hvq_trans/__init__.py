# SPDX-License-Identifier: Apache-2.0

"""HVQ-Trans: a hierarchical vector quantized transformer for multi-class anomaly detection."""

from anomalib_crad.models.hvq_trans.lightning_model import HVQTrans
from anomalib_crad.models.hvq_trans.torch_model import HVQTransModel, HVQTransReconstruction

__all__ = ["HVQTrans", "HVQTransModel", "HVQTransReconstruction"]
