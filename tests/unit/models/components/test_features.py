# SPDX-License-Identifier: Apache-2.0

"""Features of many kinds of backbone: shapes, order of stages, freezing, and what bad arguments get."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import functional

from anomalib_crad.models.components import MultiScaleFeatures


def extractor(**arguments: object) -> MultiScaleFeatures:
    torch.manual_seed(0)
    defaults = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "image_size": (32, 64), "pre_trained": False}
    return MultiScaleFeatures(**{**defaults, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backbone", "layers", "channels", "size"),
    [
        ("resnet18", ["layer1", "layer2"], 64 + 128, (16, 24)),
        ("resnet18", [3, 1], 256 + 64, (16, 24)),
        ("tf_efficientnet_lite0", [2, 3], 40 + 112, (8, 12)),
        ("tf_efficientnet_b4.aa_in1k", [2, 3], 56 + 160, (8, 12)),
        ("mobilenetv3_small_050", [-2], 24, (4, 6)),
        ("convnext_atto", [0, 1], 40 + 80, (16, 24)),
        ("swin_tiny_patch4_window7_224", [0, 1], 96 + 192, (16, 24)),
        ("vit_tiny_patch16_224", [3, "blocks.5"], 2 * 192, (4, 6)),
    ],
)
def test_any_timm_backbone_with_feature_maps(
    backbone: str, layers: list[int | str], channels: int, size: tuple[int, int]
) -> None:
    features = extractor(backbone=backbone, layers=layers, image_size=(64, 96))
    assert (features.out_channels, features.feature_size) == (channels, size)
    assert features(torch.rand(2, 3, 64, 96)).shape == (2, channels, *size)


def test_stages_are_enlarged_with_aligned_corners_and_keep_the_order_asked_for() -> None:
    features = extractor(layers=["layer2", "layer1"])
    images = torch.rand(1, 3, 32, 64)
    fine, coarse = features.backbone(images)
    enlarged = functional.interpolate(coarse, size=(8, 16), mode="bilinear", align_corners=True)
    torch.testing.assert_close(features(images), torch.cat([enlarged, fine], dim=1))


def test_stages_are_shrunk_with_aligned_corners_where_the_coarsest_is_asked_for() -> None:
    features = extractor(layers=[1, 2, 3], resize_to="coarsest")
    images = torch.rand(1, 3, 32, 64)
    stages = features.backbone(images)
    assert features.feature_size == (2, 4) == tuple(stages[-1].shape[-2:])
    shrunk = [functional.interpolate(stage, size=(2, 4), mode="bilinear", align_corners=True) for stage in stages]
    torch.testing.assert_close(features(images), torch.cat(shrunk, dim=1))


def test_another_size_to_resize_to_is_an_error() -> None:
    with pytest.raises(ValueError, match="resize_to must be 'finest' or 'coarsest', got 'middle'"):
        extractor(resize_to="middle")


def test_the_backbone_stays_frozen_and_in_evaluation_mode() -> None:
    features = extractor().train()
    images = torch.rand(2, 3, 32, 64)
    assert not features.backbone.training
    assert not any(value.requires_grad for value in features.parameters())
    assert torch.equal(features(images)[:1], features(images[:1]))  # no batch statistics


def test_random_features_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        extractor()
    assert "features of 'resnet18' are random" in caplog.text


def test_unknown_backbone_suggests_near_names() -> None:
    with pytest.raises(ValueError, match=r"backbone='resnet81' is not a timm model\. Did you mean .*resnet18"):
        extractor(backbone="resnet81")


def test_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'resnet18\.nope' names unknown pretrained weights.*resnet18\.a1_in1k"):
        extractor(backbone="resnet18.nope")


@pytest.mark.parametrize("layer", ["layer9", 7, -9, 1.5])
def test_unknown_stage_lists_the_known_ones(layer: object) -> None:
    with pytest.raises(ValueError, match=r"has no stage .*It has: 0 \(act1, stride 2\), 1 \(layer1, stride 4\)"):
        extractor(layers=[layer])


@pytest.mark.parametrize(("layers", "message"), [([], "layers is empty"), ([1, "layer1"], "names a stage twice")])
def test_no_stage_and_the_same_stage_twice_are_errors(layers: list[int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extractor(layers=layers)


@pytest.mark.parametrize("image_size", [(36, 64), (64, 7), (0, 8)])
def test_image_size_that_strides_do_not_divide_says_which_would(image_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"does not fit: .* strides 4, 8, .*The nearest that fits is"):
        extractor(image_size=image_size)


def test_weights_without_pre_trained_contradict_each_other() -> None:
    with pytest.raises(ValueError, match=r"weights='x\.pth' is given but pre_trained is False"):
        extractor(weights="x.pth")


def test_a_state_dict_replaces_the_pretrained_weights() -> None:
    """Loading a checkpoint must not reach for a hub: here there is none, and the features work all the same."""
    trained = extractor()
    loaded = extractor(pre_trained=True)
    loaded.load_state_dict(trained.state_dict())
    images = torch.rand(1, 3, 32, 64)
    torch.testing.assert_close(loaded(images), trained(images))


def test_a_state_dict_without_the_backbone_does_not_count_as_its_weights() -> None:
    features = extractor(pre_trained=True)
    features.load_state_dict({}, strict=False)
    assert not features.has_weights
