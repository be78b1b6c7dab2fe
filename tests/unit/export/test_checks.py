# SPDX-License-Identifier: Apache-2.0

"""What a user is told before an export that cannot succeed, and how scores stay raw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anomalib.post_processing import PostProcessor
from torch import nn

from anomalib_crad.export.checks import (
    check_is_trained,
    exportable_size,
    fingerprint,
    scores_left_raw,
    take_raw_scores,
)
from anomalib_crad.post_processing import CategoryPostProcessor


def test_a_head_that_holds_what_it_was_built_with_is_untrained() -> None:
    head = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    initial = fingerprint(head)
    with pytest.raises(ValueError, match=r"This Detector has not been trained.*--ckpt_path.*Detector\.load_from_check"):
        check_is_trained("Detector", head, initial)
    head(torch.rand(4, 2))  # the batch norm has seen a batch
    check_is_trained("Detector", head, initial)


def test_a_head_that_nobody_looked_at_as_it_was_built_passes() -> None:
    check_is_trained("Detector", nn.Linear(2, 2), None)


def test_a_fingerprint_is_of_the_numbers_and_not_of_where_they_lie() -> None:
    layer = nn.Conv2d(3, 4, 2)
    before = fingerprint(layer)
    assert fingerprint(layer.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        layer.weight[3, 2, 1, 1] += 1e-3
    assert fingerprint(layer) != before


@pytest.mark.parametrize(
    ("asked", "resizes", "expected"),
    [(None, True, None), ((100, 80), True, (100, 80)), (None, False, (64, 32)), ((64, 32), False, (64, 32))],
)
def test_input_size(asked: tuple[int, int] | None, resizes: bool, expected: tuple[int, int] | None) -> None:
    assert exportable_size(asked, [64, 32], resizes=resizes) == expected


def test_a_size_that_nothing_resizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"input_size=\[32, 64\], but the model was trained for \[64, 32\]"):
        exportable_size((32, 64), [64, 32], resizes=False)


@pytest.mark.parametrize("asked", [(64,), (0, 64)])
def test_no_size_is_refused(asked: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input_size must be height and width.*--input_size"):
        exportable_size(asked, [64, 32], resizes=True)


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
    others = {name: value for name, value in (passed or {}).items() if name != "raw_scores"}
    assert take_raw_scores(argument, passed) == (expected, others)


@pytest.mark.parametrize(("argument", "passed"), [("no", None), (False, {"raw_scores": "no"}), (1, None)])
def test_only_true_and_false_are_an_answer(argument: Any, passed: dict[str, Any] | None) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match=r"raw_scores must be true or false, got .*--onnx_kwargs\.raw_scores true"):
        take_raw_scores(argument, passed)


def test_a_contradiction_is_refused() -> None:
    with pytest.raises(ValueError, match="raw_scores is True, but onnx_kwargs has raw_scores=False"):
        take_raw_scores(True, {"raw_scores": False})  # noqa: FBT003
