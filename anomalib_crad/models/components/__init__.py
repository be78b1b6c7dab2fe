# SPDX-License-Identifier: Apache-2.0

"""What models share: multi-scale features, their weights, the PyTorch frame, the Lightning base, transformers, scores.

Importing it makes the packaged backbones known to timm, as timm's own are by its import.
"""

from anomalib_crad.models.components import packaged_backbones  # noqa: F401
from anomalib_crad.models.components.features import MultiScaleFeatures
from anomalib_crad.models.components.lightning_model import FeatureReconstruction
from anomalib_crad.models.components.torch_model import ReconstructionModel, TrainingOutput

__all__ = ["FeatureReconstruction", "MultiScaleFeatures", "ReconstructionModel", "TrainingOutput"]
