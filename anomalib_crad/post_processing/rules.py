# SPDX-License-Identifier: Apache-2.0

"""The rules that find a threshold. An element is called anomalous if its score is *above* the threshold.

Pure functions from counts of scores to a threshold, the same for images and pixels. If the data cannot meet a target,
the result is the nearest threshold and a sentence that says so, never an exception: rules run at the end of a training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from anomalib_crad.post_processing.thresholds import Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_crad.post_processing.score_table import ScoreTable

ThresholdRule = Literal["best_f1", "false_alarm_rate", "recall", "precision"]

#: Target of a rule where the user gives none.
DEFAULT_TARGETS: dict[str, float] = {"false_alarm_rate": 0.01, "recall": 0.95, "precision": 0.95}

# In floating point 0.29 * 100 is a little less than 29.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """The result of a rule.

    Attributes:
        threshold: The threshold.
        problem: Why it does not meet the target, as the end of a sentence; empty if it does.
        detail: The number behind the problem.
    """

    threshold: Threshold
    problem: str = ""
    detail: str = ""


def check_rule(rule: str, target: float | None) -> None:
    """Reject an unknown rule, and a target that its rule cannot have.

    Args:
        rule: Name of a rule.
        target: The rule's target, or ``None`` for the default.

    Raises:
        ValueError: If either is invalid; names the argument and its value.
    """
    if rule not in get_args(ThresholdRule):
        msg = f"rule must be one of {', '.join(get_args(ThresholdRule))}, got {rule!r}."
        raise ValueError(msg)
    if target is None:
        return
    if rule == "best_f1":
        msg = f"rule 'best_f1' has no target, got target={target}. Leave it out or choose another rule."
        raise ValueError(msg)
    if rule == "false_alarm_rate":
        check_rate("target", target)
    elif not 0 < target <= 1:
        msg = f"target of rule {rule!r} must be above 0 and at most 1, got {target}."
        raise ValueError(msg)


def check_rate(name: str, rate: float) -> None:
    """Reject a value that is not a false-alarm rate.

    Args:
        name: Name of the argument.
        rate: Its value.

    Raises:
        ValueError: If it is out of range; names the argument and its value.
    """
    if not 0 <= rate < 1:
        msg = f"{name} is a false-alarm rate and must be at least 0 and below 1, got {rate}."
        raise ValueError(msg)


def find_threshold(table: ScoreTable, rule: str, target: float | None = None, unit: str = "images") -> Finding:
    """Find the threshold of a rule.

    - ``false_alarm_rate``: of N normal scores at most ``floor(target * N)`` lie above the threshold, which is the
      lowest normal score with that property. Anomalous scores play no part.
    - ``best_f1``: the highest F1 score; the higher recall where several thresholds share it.
    - ``recall``: the highest precision among thresholds with at least that recall.
    - ``precision``: the highest recall among thresholds with at least that precision.

    The last three put the threshold halfway between two neighbouring scores.

    Args:
        table: Counts of scores with at least one element; the last three rules need anomalous ones.
        rule: Name of the rule.
        target: The rule's target. Defaults to ``None``: see ``DEFAULT_TARGETS``.
        unit: Name of the elements, for messages. Defaults to ``"images"``.

    Returns:
        The threshold, and its problem if there is one.

    Raises:
        ValueError: If the table is empty, or the rule needs anomalous elements and there are none.
    """
    if not table.low.size:
        msg = f"A threshold needs scores, and there are none of {unit}."
        raise ValueError(msg)
    target = DEFAULT_TARGETS.get(rule, 0.0) if target is None else target
    if rule == "false_alarm_rate":
        return _at_false_alarm_rate(table, target, unit)
    if not table.anomalies:
        msg = f"rule {rule!r} needs anomalous {unit}, and there are none."
        raise ValueError(msg)
    curve = _Curve(table)
    if rule == "best_f1":
        return Finding(curve.threshold(_best(curve.f1, curve.recall)))
    if rule == "recall":
        fulfils = curve.recall >= target - _ROUNDING
        return Finding(curve.threshold(_best(np.where(fulfils, curve.precision, -1), curve.recall)))
    fulfils = curve.precision >= target - _ROUNDING
    if fulfils.any():
        return Finding(curve.threshold(_best(np.where(fulfils, curve.recall, -1), curve.precision)))
    nearest = _best(curve.precision, curve.recall)
    problem = f"a precision of {target:g} is out of reach for {unit}; the threshold has the highest there is"
    return Finding(curve.threshold(nearest), problem, f"{curve.precision[nearest]:.4f}")


def _at_false_alarm_rate(table: ScoreTable, rate: float, unit: str) -> Finding:
    """Find the lowest normal score above which no more than the stated share of normal ones lies."""
    if not table.normals:
        value = _below(table.low[0])
        problem = f"there are no normal {unit}; the threshold is just below the lowest anomalous score"
        return Finding(_scaled(table, value), problem)
    has_normal = table.normal > 0
    above = table.normals - np.cumsum(table.normal[has_normal])
    allowed = int(rate * table.normals + _ROUNDING)
    threshold = _scaled(table, float(table.high[has_normal][np.argmax(above <= allowed)]))
    if allowed or not rate:
        return Finding(threshold)
    needed = int(np.ceil(1 / rate - _ROUNDING))
    problem = (
        f"a false-alarm rate of {rate:g} takes at least {needed} normal {unit}; the threshold is the highest normal "
        "score, and of N + 1 new normal ones about one will be above it"
    )
    return Finding(threshold, problem, f"N = {table.normals}")


class _Curve:
    """Precision and recall of the K + 1 distinct thresholds: below all rows, between two rows, above all rows."""

    def __init__(self, table: ScoreTable) -> None:
        self._table = table
        false_alarms = _at_or_above(table.normal)
        found = _at_or_above(table.anomalous)
        self.recall = found / table.anomalies
        self.precision = found / np.maximum(found + false_alarms, 1)
        self.f1 = 2 * found / (found + false_alarms + table.anomalies)

    def threshold(self, index: int) -> Threshold:
        """Return a threshold by its index, counted from the lowest."""
        low, high = self._table.low, self._table.high
        if index == 0:
            return _scaled(self._table, _below(low[0]))
        if index == low.size:
            return _scaled(self._table, float(high[-1]))
        under, over = high[index - 1], low[index]
        middle = np.float32((float(under) + float(over)) / 2)
        # There is no float32 between two neighbours, and rounding may go up to the higher one.
        return _scaled(self._table, float(middle if middle < over else under))


def _at_or_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row the count of it and all rows above; the last entry is 0, for a threshold above all rows."""
    return np.append(np.cumsum(counts[::-1])[::-1], 0)


def _best(first: NDArray[np.floating], second: NDArray[np.floating]) -> int:
    """Return the index of the highest first value; among ties, the one with the highest second value."""
    ties = np.flatnonzero(first == first.max())
    return int(ties[np.argmax(second[ties])])


def _below(score: np.float32) -> float:
    """Return the next float32 below a score."""
    return float(np.nextafter(score, np.float32(-np.inf)))


def _scaled(table: ScoreTable, value: float) -> Threshold:
    """Add the scale: the median distance of normal scores from the threshold, or of all scores if none is normal."""
    counts = table.normal if table.normals else table.anomalous
    distances = np.abs((table.low.astype(np.float64) + table.high) / 2 - value)
    order = np.argsort(distances)
    seen = np.cumsum(counts[order])
    median = float(distances[order][np.searchsorted(seen, (seen[-1] + 1) // 2)])
    # The median is 0 if half of all scores equal the threshold. Any scale keeps their order then; the threshold's own
    # magnitude is a natural choice.
    scale = median or abs(value) or 1.0
    # Buffers hold threshold and scale as float32, and their sum must differ from the threshold.
    return Threshold(value, max(scale, 4 * float(np.spacing(np.float32(abs(value))))))
