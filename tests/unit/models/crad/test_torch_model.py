# SPDX-License-Identifier: Apache-2.0

"""The head as a whole: sizes, parameters, gradients and the counts of the paper."""

from __future__ import annotations

import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_crad.models.components import MultiScaleFeatures
from anomalib_crad.models.crad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction, CradModel


def narrow(**arguments: object) -> ContinuousMemoryReconstruction:
    torch.manual_seed(0)
    return ContinuousMemoryReconstruction(6, (4, 5), **{"num_blocks": 2, "hidden_channels": 8, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(("hidden_channels", "millions"), [(864, 15.36), (216, 5.26)])
def test_parameters_are_as_many_as_published(hidden_channels: int, millions: float) -> None:
    with torch.device("meta"):
        head = ContinuousMemoryReconstruction(216, (28, 28), hidden_channels=hidden_channels)
    assert sum(value.numel() for value in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_parameter_groups_hold_every_parameter_once() -> None:
    head = narrow()
    groups = head.parameter_groups()
    assert set(groups) == {"grids", "networks"}
    assert [value.shape[-2:] for value in groups["grids"]] == [(8, 8), (4, 4)]
    grouped = [id(value) for group in groups.values() for value in group]
    assert sorted(grouped) == sorted(id(value) for value in head.parameters())


def test_every_parameter_gets_a_gradient() -> None:
    head = narrow()
    features = torch.randn(3, 6, 4, 5)
    (head(features) - features).square().mean().backward()
    without = [name for name, value in head.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_initial_values() -> None:
    head = ContinuousMemoryReconstruction(64, (4, 4), num_blocks=1, hidden_channels=64)
    assert head.fusion.recover.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.state_dict()["local_memory.coordinates.0.bias"].any()
    # Xavier: sqrt(2 / (64 * 64 + 1 * 64)), with fans of a 1 x 64 x 8 x 8 tensor.
    assert head.get_parameter("local_memory.grid.values").std().item() == pytest.approx(
        (2 / (64 * 64 + 64)) ** 0.5, rel=0.05
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"local_resolution": 2},
        {"global_resolution": 2},
        {"num_blocks": 1},
        {"hidden_channels": 4},
        {"jitter_std": 0.5},
        {"jitter_probability": 0.0},
    ],
    ids=str,
)
def test_every_option_changes_the_output(changed: dict[str, float]) -> None:
    features = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(1)) * 10
    outputs = []
    for options in ({}, changed):
        head = narrow(**{"jitter_probability": 1.0, **options})
        # Coordinates that tell positions apart.
        torch.nn.init.normal_(head.get_parameter("local_memory.coordinates.2.weight"))
        torch.manual_seed(2)
        outputs.append(head(features))
    assert not torch.equal(*outputs)


def test_features_of_another_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"built for features of 6 x 4 x 5 .* got 6 x 8 x 8.*image_size"):
        narrow()(torch.rand(1, 6, 8, 8))


@pytest.mark.parametrize(("num_blocks", "hidden_channels"), [(-1, 8), (1, 0)])
def test_fusion_arguments_are_checked(num_blocks: int, hidden_channels: int) -> None:
    with pytest.raises(ValueError, match="num_blocks must be >= 0 and hidden_channels >= 1"):
        narrow(num_blocks=num_blocks, hidden_channels=hidden_channels)


def test_the_model_trains_on_features_and_scores_images() -> None:
    extractor = MultiScaleFeatures("resnet18", ["layer1", "layer2"], (32, 48), pre_trained=False)
    head = ContinuousMemoryReconstruction(extractor.out_channels, extractor.feature_size, 4, 2, 1, 8)
    model = CradModel(extractor, head, AnomalyMapGenerator((32, 48)))
    images = torch.rand(2, 3, 32, 48)

    reconstruction, features = model.train()(images)
    assert reconstruction.shape == features.shape == (2, 64 + 128, 8, 12)
    assert reconstruction.requires_grad
    assert not features.requires_grad

    prediction = model.eval()(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.pred_score is not None
    assert prediction.anomaly_map is not None
    assert prediction.pred_score.shape == (2,)
    assert prediction.anomaly_map.shape == (2, 1, 32, 48)
