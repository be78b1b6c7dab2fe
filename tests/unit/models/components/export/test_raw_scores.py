# SPDX-License-Identifier: Apache-2.0

"""Normalisation is off for as long as an export with raw scores lasts."""

from __future__ import annotations

import pytest
from anomalib.post_processing import PostProcessor
from torch import nn

from anomalib_crad.models.components.export.raw_scores import scores_left_raw
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
