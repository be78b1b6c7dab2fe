# SPDX-License-Identifier: Apache-2.0

"""Streams keep their order, skip what is broken, and neither run ahead nor lag behind."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_up_packages import make_package, pixels, save_image

from anomalib_crad.deploy import EdgeModel, stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60
"""Seconds after which a test that waits for another thread fails."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EdgeModel:
    return EdgeModel(make_package(tmp_path_factory.mktemp("packages") / "package"), throughput=True)


def test_results_are_those_of_one_after_another_in_order(model: EdgeModel) -> None:
    # The first ones take longest, so that later ones finish before them.
    frames = [pixels(i % 256, height=400 if i < 5 else 8 + i) for i in range(60)]
    results = list(stream(model, frames))
    assert [result.index for result in results] == list(range(60))
    assert results[7].name == "frame 7"
    for frame, result in zip(frames, results, strict=True):
        expected = model.predict(frame)
        assert result.prediction is not None
        assert result.prediction.score == expected.score
        assert result.prediction.label == expected.label
        np.testing.assert_array_equal(result.prediction.anomaly_map, expected.anomaly_map)
        np.testing.assert_array_equal(result.image, frame)


def test_broken_files_are_skipped_and_the_rest_goes_on(model: EdgeModel, tmp_path: Path) -> None:
    good = [save_image(tmp_path / f"{i}.png", 10 * i) for i in range(4)]
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    results = list(stream(model, [good[0], broken, good[1], tmp_path / "missing.png", *good[2:]]))
    assert [result.error is None for result in results] == [True, False, True, False, True, True]
    assert results[1].name == str(broken)
    assert "Cannot read the image" in (results[1].error or "")
    assert [round(r.prediction.score * 255) for r in results if r.prediction is not None] == [0, 10, 20, 30]


def test_an_inference_that_fails_ends_the_stream_and_names_the_image(tmp_path: Path) -> None:
    """Even the last one, after which no other image would bring the failure to light."""
    model = EdgeModel(make_package(tmp_path / "package", fails_on_others=True), throughput=True)
    results = stream(model, [pixels(50), pixels(50), pixels(50, height=9)])
    assert [next(results).index, next(results).index] == [0, 1]
    with pytest.raises(RuntimeError, match=r"OpenVINO failed on 'frame 2' \(9 x 12\)"):
        next(results)


def test_a_result_does_not_wait_for_the_next_image(model: EdgeModel) -> None:
    arrived = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield pixels(10)
        assert arrived.wait(PATIENCE), "the first result did not come before the second image"
        yield pixels(20)

    for _ in stream(model, camera()):
        arrived.set()


def test_reading_waits_for_a_slow_caller(model: EdgeModel) -> None:
    taken = 0
    ahead = []

    def camera() -> Iterator[np.ndarray]:
        for i in range(100):
            ahead.append(i - taken)
            yield pixels(i)

    for result in stream(model, camera()):
        taken = result.index
    assert taken == 99
    requests = 2 * model.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    assert max(ahead) <= requests + 2


def test_a_camera_may_use_its_memory_again(model: EdgeModel) -> None:
    def camera() -> Iterator[np.ndarray]:
        memory = pixels(0)
        for i in range(30):
            memory[:] = i
            yield memory

    for result in stream(model, camera()):
        assert result.image is not None
        assert (result.image == result.index).all()


def test_an_error_of_the_camera_is_the_callers(model: EdgeModel) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield pixels(1)
        msg = "cable"
        raise ConnectionError(msg)

    results = stream(model, camera())
    assert next(results).prediction is not None
    with pytest.raises(ConnectionError, match="cable"):
        next(results)


def test_leaving_early_stops_the_reading(model: EdgeModel) -> None:
    closed = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        try:
            for i in itertools.count():
                yield pixels(i % 256)
        finally:
            closed.set()

    results = stream(model, camera())
    next(results)
    results.close()  # type: ignore[attr-defined] # a generator
    assert closed.wait(PATIENCE)


def test_an_empty_stream(model: EdgeModel) -> None:
    assert not list(stream(model, []))
