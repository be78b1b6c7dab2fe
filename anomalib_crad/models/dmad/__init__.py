# SPDX-License-Identifier: Apache-2.0

"""DMAD: dual memory banks for anomaly detection with few annotated defects, or with none."""

from anomalib_crad.models.dmad.lightning_model import Dmad
from anomalib_crad.models.dmad.torch_model import DMADHead, DmadModel

__all__ = ["DMADHead", "Dmad", "DmadModel"]
