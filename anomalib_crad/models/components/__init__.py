# SPDX-License-Identifier: Apache-2.0

"""What models share: multi-scale features, weights that come with a package, training, scoring and exports.

Importing it makes the packaged backbones known to timm, as timm's own are by its import.
"""

from . import packaged_backbones  # noqa: F401
from .features import MultiScaleFeatures
from .reconstruction import FeatureReconstruction

__all__ = ["FeatureReconstruction", "MultiScaleFeatures"]
