# SPDX-License-Identifier: Apache-2.0

"""One pass over the predictions of an epoch: categories of images, repetitions, raw records, several processes.

``PredictionRecorder`` is the callback that evaluator and post-processor share; ``ImageRecord`` is what they read.
"""

from anomalib_crad.recording.categories import ONLY_CATEGORY, CategoryLookup, image_categories
from anomalib_crad.recording.recorder import PredictionRecorder
from anomalib_crad.recording.records import ImageRecord, split_batch

__all__ = [
    "ONLY_CATEGORY",
    "CategoryLookup",
    "ImageRecord",
    "PredictionRecorder",
    "image_categories",
    "split_batch",
]
