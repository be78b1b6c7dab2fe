# SPDX-License-Identifier: Apache-2.0

"""What models share: multi-scale features and the weights that come with a package."""

from .features import MultiScaleFeatures

__all__ = ["MultiScaleFeatures"]
