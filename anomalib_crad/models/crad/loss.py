# SPDX-License-Identifier: Apache-2.0

"""Training loss of CRAD: how far the refined features are from the features themselves (CRAD, section 3.6)."""

from anomalib_crad.models.components.loss import FeatureLoss


class CradLoss(FeatureLoss):
    """Mean squared error between refined features x_hat and extracted features x."""
