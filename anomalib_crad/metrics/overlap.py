# SPDX-License-Identifier: Apache-2.0

"""AUPRO: how well maps cover each defect, large or small, at low false-positive rates.

The per-region overlap (PRO) of a threshold is the share of a connected defect region above it, averaged over regions,
so that a scratch weighs as much as a broken corner. AUPRO is the area under PRO against the false-positive rate of all
normal pixels, up to a limit, divided by that limit (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021).
It agrees with ``anomalib.metrics.AUPRO``, but is computed in double precision and reuses the sort of the other pixel
metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from skimage.measure import label
from sklearn.metrics import auc

from anomalib_crad.metrics.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FPR_LIMIT = 0.3  # of the paper, and anomalib's default
EIGHT_NEIGHBOURS = 2  # pixels that touch at a corner are one region, as for anomalib


def aupro(
    anomaly_maps: Sequence[NDArray[np.floating]],
    masks: Sequence[NDArray[np.bool_]],
    fpr_limit: float = FPR_LIMIT,
) -> float:
    """Return the exact normalised area under the per-region overlap curve.

    Args:
        anomaly_maps: Finite raw maps, one H x W an image; images may differ in size.
        masks: True where a pixel is anomalous, of the maps' shapes.
        fpr_limit: False-positive rate up to which the area counts, above 0 and at most 1. Defaults to ``0.3``.

    Returns:
        The area, between 0 and 1.

    Raises:
        ValueError: If the limit is out of range, the sizes differ, a map is not finite, or one class has no pixel.

    Example:
        >>> mask = np.eye(4, dtype=bool)
        >>> aupro([mask * 2.5], [mask])
        1.0
    """
    values = np.concatenate([anomaly_map.ravel() for anomaly_map in anomaly_maps])
    labels = np.concatenate([mask.ravel() for mask in masks])
    return area_under_overlap(Ranking.of(values, labels), region_shares(masks), fpr_limit)


def region_shares(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Return how much each anomalous pixel adds to the overlap averaged over regions.

    Args:
        masks: True where a pixel is anomalous, one H x W an image. At least one pixel is.

    Returns:
        One value an anomalous pixel, in the order of the flattened and concatenated masks; they sum to 1.
    """
    shares: list[NDArray[np.float64]] = []
    regions = 0
    for mask in masks:
        if not mask.any():
            continue
        region_of_pixel = label(mask, connectivity=EIGHT_NEIGHBOURS)[mask]
        sizes = np.bincount(region_of_pixel)
        shares.append(1 / sizes[region_of_pixel])
        regions += len(sizes) - 1  # the label 0 is the background
    return np.concatenate(shares) / regions


def area_under_overlap(ranking: Ranking, shares: NDArray[np.float64], fpr_limit: float = FPR_LIMIT) -> float:
    """Return the normalised area under the per-region overlap curve of ranked pixels.

    Args:
        ranking: Ranking of all pixels.
        shares: What :func:`region_shares` returns for their masks.
        fpr_limit: False-positive rate up to which the area counts, above 0 and at most 1. Defaults to ``0.3``.

    Returns:
        The area, between 0 and 1.

    Raises:
        ValueError: If the limit is out of range.
    """
    if not 0 < fpr_limit <= 1:
        msg = f"fpr_limit must lie above 0 and be at most 1, got {fpr_limit}."
        raise ValueError(msg)
    after = np.cumsum(shares[ranking.order])[ranking.found - 1]
    before = np.append(0.0, after[:-1])
    # Each score gives two points, without and with its pixels. Normal pixels of the same score make the line between
    # them a slope; normal pixels of scores in between only shift the curve to the right.
    rates = np.column_stack([ranking.false_alarms_above, ranking.false_alarms]).ravel() / ranking.normal
    rates = np.concatenate([[0.0], rates, [1.0]])
    overlaps = np.concatenate([[0.0], np.column_stack([before, after]).ravel(), [1.0]])

    inside = np.count_nonzero(rates <= fpr_limit)
    if inside < rates.size:
        part = (fpr_limit - rates[inside - 1]) / (rates[inside] - rates[inside - 1])
        at_limit = overlaps[inside - 1] + part * (overlaps[inside] - overlaps[inside - 1])
        rates = np.append(rates[:inside], fpr_limit)
        overlaps = np.append(overlaps[:inside], at_limit)
    return float(auc(rates, overlaps) / fpr_limit)
