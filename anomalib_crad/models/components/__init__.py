# SPDX-License-Identifier: Apache-2.0

"""What models share: multi-scale features, weights that come with a package, training, scoring and exports."""

from .features import MultiScaleFeatures
from .reconstruction import FeatureReconstruction

__all__ = ["FeatureReconstruction", "MultiScaleFeatures"]
