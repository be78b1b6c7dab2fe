# SPDX-License-Identifier: Apache-2.0

"""The head as a whole: sizes, gradients, initial values, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_crad.models.components import MultiScaleFeatures
from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.uniad.torch_model import UniADModel, UniADReconstruction

OPTIONS: dict[str, Any] = {
    "hidden_dim": 8,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "feedforward_dim": 12,
    "neighbor_size": (3, 3),
}


def narrow(**arguments: object) -> UniADReconstruction:
    torch.manual_seed(0)
    return UniADReconstruction(6, (4, 5), **{**OPTIONS, **arguments})


def test_every_parameter_gets_a_gradient() -> None:
    head = narrow()
    features = torch.randn(3, 6, 4, 5)
    (head(features) - features).square().mean().backward()
    without = [name for name, value in head.named_parameters() if value.grad is None or not value.grad.any()]
    # A key's bias adds the same to all logits of a query, which softmax takes away again.
    assert [name for name in without if not name.endswith("key.bias")] == []


def test_initial_values() -> None:
    head = UniADReconstruction(64, (8, 8), hidden_dim=128, feedforward_dim=256, num_encoder_layers=1)
    values = head.state_dict()
    layer = "encoder.layers.0"
    assert values[f"{layer}.feed_forward.0.weight"].abs().max() == pytest.approx((6 / 384) ** 0.5, rel=0.01)
    assert values[f"{layer}.attention.output.weight"].abs().max() == pytest.approx((6 / 256) ** 0.5, rel=0.01)
    for name in ("query", "key", "value"):  # one matrix of 3 * 128 rows to Xavier
        bound = (6 / (4 * 128)) ** 0.5
        assert values[f"{layer}.attention.{name}.weight"].abs().max() == pytest.approx(bound, rel=0.01)
    assert not any(values[name].any() for name in values if name.endswith("bias"))
    for name in ("position.rows", "position.columns"):
        assert 0 <= values[name].min() < 0.02
        assert 0.98 < values[name].max() < 1
    assert values["decoder.layers.0.queries"].std() == pytest.approx(1, rel=0.05)


def test_the_mask_is_no_part_of_a_checkpoint() -> None:
    head = narrow()
    assert "mask" in dict(head.named_buffers())
    assert "mask" not in head.state_dict()


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_dim": 4},
        {"num_heads": 4},
        {"num_encoder_layers": 1},
        {"num_decoder_layers": 1},
        {"feedforward_dim": 4},
        {"neighbor_size": (1, 3)},
        {"dropout": 0.5},
        {"jitter_scale": 5.0},
        {"jitter_probability": 0.0},
    ],
    ids=str,
)
def test_every_option_changes_the_output(changed: dict[str, object]) -> None:
    features = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(1))
    outputs = []
    for options in ({}, changed):
        head = narrow(**{"dropout": 0.0, **options})
        torch.manual_seed(2)
        outputs.append(head(features))
    assert not torch.allclose(*outputs)


def test_dropout_and_jitter_rest_in_evaluation() -> None:
    head, features = narrow().eval(), torch.randn(2, 6, 4, 5)
    assert torch.equal(head(features), head(features))


def test_images_of_a_batch_do_not_see_each_other() -> None:
    head, features = narrow().eval(), torch.randn(3, 6, 4, 5)
    torch.testing.assert_close(head(features)[1:2], head(features[1:2]))


def test_features_of_another_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"built for features of 6 x 4 x 5 .* got 6 x 8 x 8.*image_size"):
        narrow()(torch.rand(1, 6, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": 3}, "hidden_dim must be a multiple of num_heads, got 8 and 3"),
        ({"hidden_dim": 9, "num_heads": 3}, "hidden_dim must be even, .* got 9"),
        ({"num_encoder_layers": 0}, "num_encoder_layers must be at least 1, got 0"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be at least 1, got 0"),
        ({"feedforward_dim": 0}, "feedforward_dim must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        ({"jitter_scale": -1.0}, "jitter_scale must be >= 0"),
    ],
    ids=str,
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow(**arguments)


def test_the_model_trains_on_features_and_scores_images() -> None:
    extractor = MultiScaleFeatures("resnet18", [1, 2], (32, 48), pre_trained=False, resize_to="coarsest")
    head = UniADReconstruction(extractor.out_channels, extractor.feature_size, **OPTIONS)
    model = UniADModel(extractor, head, AnomalyMapGenerator((32, 48)))
    images = torch.rand(2, 3, 32, 48)

    features, reconstruction, losses = model.train()(images)
    assert list(losses) == ["reconstruction"]
    assert reconstruction.shape == features.shape == (2, 64 + 128, 4, 6)
    assert reconstruction.requires_grad
    assert not features.requires_grad

    prediction = model.eval()(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.pred_score is not None
    assert prediction.anomaly_map is not None
    assert prediction.pred_score.shape == (2,)
    assert prediction.anomaly_map.shape == (2, 1, 32, 48)
