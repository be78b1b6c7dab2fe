# SPDX-License-Identifier: Apache-2.0

"""Counting by score: exact for images, in narrow rows for pixels, whatever their range, sign and number of batches."""

import numpy as np
import pytest

from anomalib_crad.post_processing.score_table import PixelCounts, ScoreTable


def count(scores: np.ndarray, kinds: np.ndarray, batches: int = 1) -> PixelCounts:
    counts = PixelCounts()
    parts = zip(np.array_split(scores, batches), np.array_split(kinds, batches), strict=True)
    for part, kind in parts:
        counts.add(part, kind)
    return counts


def same(first: ScoreTable, second: ScoreTable) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_images_are_counted_one_distinct_score_a_row() -> None:
    table = ScoreTable.of(np.array([3, 1, 3, 2, 1], np.float32), np.array([True, False, False, True, False]))
    assert table.low.tolist() == table.high.tolist() == [1, 2, 3]
    assert table.normal.tolist() == [2, 0, 1]
    assert table.anomalous.tolist() == [0, 1, 1]
    assert (table.normals, table.anomalies) == (3, 2)


def test_scores_that_are_not_finite_are_left_out() -> None:
    scores = np.array([np.nan, 1, np.inf, -np.inf], np.float32)
    assert ScoreTable.of(scores, np.array([True, True, False, False])).low.tolist() == [1]
    assert count(scores, np.zeros(4, np.int32)).of_normal_images().normal.tolist() == [1]


@pytest.mark.parametrize("scale", [1e-30, 0.02, 1.0, 3e5])
def test_rows_of_pixels_are_narrow_disjoint_and_hold_what_they_say(scale: float) -> None:
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=4000) * scale).astype(np.float32)
    scores[:7] = [0.0, -0.0, 1e-45, -1e-45, scale, -scale, 1e30]
    table = count(scores, np.zeros(4000, np.int32)).of_normal_images()
    assert (table.low <= table.high).all()
    assert (table.high[:-1] < table.low[1:]).all()
    inside = [((scores >= low) & (scores <= high)).sum() for low, high in zip(table.low, table.high, strict=True)]
    assert inside == table.normal.tolist()
    width = (table.high.astype(float) - table.low) / np.maximum(np.abs(table.high), np.abs(table.low))
    assert width[np.abs(table.low) > 1e-37].max() <= 1 / 2048


def test_both_zeros_are_one_score() -> None:
    table = count(np.array([0.0, -0.0], np.float32), np.zeros(2, np.int32)).of_normal_images()
    assert table.normal.tolist() == [2]
    assert table.low[0] == 0


def test_batches_and_merging_count_the_same() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.normal(size=3000) * 10.0 ** rng.integers(-3, 4, 3000)).astype(np.float32)
    kinds = rng.integers(0, 3, 3000)
    whole, batched = count(scores, kinds), count(scores, kinds, batches=7)
    parts = [count(scores[:1000], kinds[:1000]), PixelCounts(), count(scores[1000:], kinds[1000:])]
    merged = PixelCounts.sum(parts)
    for other in (batched, merged):
        assert same(whole.labelled(), other.labelled())
        assert same(whole.of_normal_images(), other.of_normal_images())
    assert parts[0].labelled().normals + parts[0].labelled().anomalies == 1000, "a part must not be changed"


def test_kinds_are_kept_apart() -> None:
    kinds = np.array([PixelCounts.OF_NORMAL_IMAGES, PixelCounts.NORMAL, PixelCounts.ANOMALOUS])
    counts = count(np.array([1, 2, 3], np.float32), kinds)
    assert counts.of_normal_images().low.tolist() == [1]
    labelled = counts.labelled()
    assert labelled.normal.tolist() == [1, 1, 0]
    assert labelled.anomalous.tolist() == [0, 0, 1]


def test_memory_does_not_grow_with_pixels() -> None:
    counts, rng = PixelCounts(), np.random.default_rng(2)
    for _ in range(20):
        counts.add(rng.uniform(0.01, 4, (64, 64)).astype(np.float32), np.zeros((64, 64), np.int32))
    assert counts._counts.nbytes < 3 * 8 * 10 * 2048, "nine powers of two of 2048 rows each"
