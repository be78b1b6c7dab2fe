# SPDX-License-Identifier: Apache-2.0

"""Normalisation is off for as long as an export with raw scores lasts."""

from __future__ import annotations

from typing import Any

import pytest
from anomalib.post_processing import PostProcessor
from torch import nn

from anomalib_crad.export.raw_scores import asks_for_raw_scores, scores_left_raw
from anomalib_crad.post_processing import CategoryPostProcessor


@pytest.mark.parametrize("post_processor", [PostProcessor(), CategoryPostProcessor()], ids=["anomalib's", "ours"])
@pytest.mark.parametrize("raw", [True, False])
def test_scores_are_raw_meanwhile(post_processor: PostProcessor, raw: bool) -> None:
    with scores_left_raw(post_processor, raw):
        assert post_processor.enable_normalization is not raw
    assert post_processor.enable_normalization


def test_a_break_switches_it_on_again() -> None:
    post_processor = CategoryPostProcessor()
    with pytest.raises(KeyboardInterrupt), scores_left_raw(post_processor, raw=True):
        raise KeyboardInterrupt
    assert post_processor.enable_normalization


@pytest.mark.parametrize("post_processor", [None, nn.Identity()])
def test_without_normalisation_scores_are_raw_anyway(post_processor: nn.Module | None) -> None:
    with scores_left_raw(post_processor, raw=True):
        pass
    assert not hasattr(post_processor, "enable_normalization")


@pytest.mark.parametrize(
    ("argument", "passed", "expected"),
    [
        (False, None, False),
        (True, None, True),
        (False, {"verify": True}, False),
        (False, {"raw_scores": True}, True),
        (True, {"raw_scores": True}, True),
        (False, {"raw_scores": False}, False),
    ],
)
def test_raw_scores_are_asked_for_in_two_ways(argument: bool, passed: dict[str, Any] | None, expected: bool) -> None:
    assert asks_for_raw_scores(argument, passed) is expected


@pytest.mark.parametrize(("argument", "passed"), [("no", None), (False, {"raw_scores": "no"}), (1, None)])
def test_only_true_and_false_are_an_answer(argument: Any, passed: dict[str, Any] | None) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match=r"raw_scores must be true or false, got .*--onnx_kwargs\.raw_scores true"):
        asks_for_raw_scores(argument, passed)


def test_a_contradiction_is_refused() -> None:
    with pytest.raises(ValueError, match="raw_scores is True, but onnx_kwargs has raw_scores=False"):
        asks_for_raw_scores(True, {"raw_scores": False})  # noqa: FBT003
