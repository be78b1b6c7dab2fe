# SPDX-License-Identifier: Apache-2.0

"""Training loss of UniAD: how far the reconstruction is from the features before jitter (UniAD, section 3.1)."""

from anomalib_crad.models.components.loss import FeatureLoss


class UniADLoss(FeatureLoss):
    """Mean squared error between reconstruction and extracted features."""
