# SPDX-License-Identifier: Apache-2.0

"""Image scores that are pooled in the same way for all models, beside each model's own.

Models pool their maps into image scores in different ways (a maximum, a mean of the largest values, a weighted
neighbour), and part of a difference between two models is only that. The evaluator here measures both: the model's own
score, and the largest mean of its raw map over a square window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from anomalib_crad.metrics.default_metrics import DEFAULT_METRICS, IMAGE_METRICS
from anomalib_crad.metrics.evaluation import Evaluation
from anomalib_crad.metrics.evaluator import CategoryEvaluator
from anomalib_crad.models.components.scoring import image_score

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from anomalib_crad.metrics.category_report import CategoryReport
    from anomalib_crad.metrics.metric import CategoryMetric
    from anomalib_crad.recording.records import ImageRecord


class CommonScoreEvaluator(CategoryEvaluator):
    """Measure each category by the model's own image scores and by scores that are pooled the same for all models.

    Args:
        score_window: Side of the window in pixels, cut to the map where the map is smaller.

    Attributes:
        common_report (CategoryReport | None): Image metrics of the last test by the common scores.
    """

    def __init__(self, score_window: int) -> None:
        super().__init__(validation=False)
        self.score_window = score_window
        self.common_report: CategoryReport | None = None

    def new_evaluation(self, metrics: Sequence[CategoryMetric]) -> Evaluation:
        """Begin an evaluation that measures both scores.

        Args:
            metrics: The metrics by the model's own scores.

        Returns:
            The evaluation.
        """
        return _TwofoldEvaluation(self, metrics)


class _TwofoldEvaluation(Evaluation):
    """An evaluation that passes the common scores of each category to a second one."""

    def __init__(self, evaluator: CommonScoreEvaluator, metrics: Sequence[CategoryMetric] = DEFAULT_METRICS) -> None:
        super().__init__(metrics)
        self._evaluator = evaluator
        self._common = Evaluation([metric for metric in DEFAULT_METRICS if metric.name in IMAGE_METRICS])

    def add(self, category: str, images: Sequence[ImageRecord]) -> None:
        super().add(category, images)
        window = self._evaluator.score_window
        self._common.add(category, [replace(image, score=_score(image.anomaly_map, window)) for image in images])

    def report(self, expected: Collection[str] = ()) -> CategoryReport:  # type: ignore[override]  # narrower: both reports read it
        self._evaluator.common_report = self._common.report(expected)
        return super().report(expected)


def _score(anomaly_map: NDArray[np.float32] | None, window: int) -> float | None:
    return None if anomaly_map is None else largest_window_mean(anomaly_map, window)


def largest_window_mean(anomaly_map: NDArray[np.float32], window: int) -> float:
    """Return the largest mean of a map over all square windows inside it.

    Args:
        anomaly_map: Height x width.
        window: Side of the window in pixels, cut to the map where the map is smaller.

    Returns:
        The mean.
    """
    # In double precision, so that maps of any scale keep their digits.
    return image_score(torch.from_numpy(anomaly_map)[None, None].double(), window).item()
