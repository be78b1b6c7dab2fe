# SPDX-License-Identifier: Apache-2.0

"""The head as a whole: sizes, parameters, gradients and the counts of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_crad.models.components import MultiScaleFeatures
from anomalib_crad.models.crad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction, CradModel

if TYPE_CHECKING:
    from torch import nn

#: All models that the paper's two tables ask for, and each kind in both places at once.
TAKEN_APART = pytest.mark.parametrize(
    "options",
    [
        {"memory": kind, **left_out}
        for kind in ("grid", "vector_quantization", "attention")
        for left_out in ({}, {"local_memory": False}, {"global_memory": False}, {"refinement": False})
    ],
    ids=str,
)


def narrow(**arguments: object) -> ContinuousMemoryReconstruction:
    torch.manual_seed(0)
    return ContinuousMemoryReconstruction(6, (4, 5), **{"num_blocks": 2, "hidden_channels": 8, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(("hidden_channels", "millions"), [(864, 15.36), (216, 5.26)])
def test_parameters_are_as_many_as_published(hidden_channels: int, millions: float) -> None:
    with torch.device("meta"):
        head = ContinuousMemoryReconstruction(216, (28, 28), hidden_channels=hidden_channels)
    assert sum(value.numel() for value in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@TAKEN_APART
def test_parameter_groups_hold_every_parameter_once(options: dict[str, object]) -> None:
    head = narrow(**options)
    groups = head.parameter_groups()
    assert set(groups) == {"grids", "networks"}
    sizes = {"local_memory": 6 * 64, "global_memory": 6 * 4 * 5 * 16}
    expected = [size for name, size in sizes.items() if options.get(name, True)]
    assert [value.numel() for value in groups["grids"]] == expected
    grouped = [id(value) for group in groups.values() for value in group]
    assert sorted(grouped) == sorted(id(value) for value in head.parameters())


def test_grids_are_the_cells_of_both_memories() -> None:
    assert [value.shape[-2:] for value in narrow().parameter_groups()["grids"]] == [(8, 8), (4, 4)]


@TAKEN_APART
def test_every_parameter_gets_a_gradient(options: dict[str, object]) -> None:
    head = narrow(**options)
    features = torch.randn(3, 6, 4, 5)
    (head(features) - features).square().mean().backward()
    without = [name for name, value in head.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


@TAKEN_APART
def test_models_taken_apart_learn(options: dict[str, object]) -> None:
    head = narrow(**options)
    groups = head.parameter_groups()
    optimizer = torch.optim.AdamW(
        [{"params": groups["grids"], "lr": 0.1}, {"params": groups["networks"], "lr": 0.01}], weight_decay=0.01
    )
    features = torch.randn(1, 6, 1, 1) + 0.3 * torch.randn(8, 6, 4, 5)
    losses = []
    for _ in range(40):
        refined, added = head.read_and_rebuild(features)
        assert refined.shape == features.shape
        loss = (refined - features).square().mean()
        optimizer.zero_grad()
        (loss if added is None else loss + added).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("memory", ["grid", "attention"])
def test_only_vector_quantisation_adds_to_the_loss(memory: str) -> None:
    features = torch.randn(3, 6, 4, 5)
    assert narrow(memory=memory).read_and_rebuild(features)[1] is None


def test_each_vector_quantised_memory_adds_its_codebook_loss() -> None:
    features = torch.randn(3, 6, 4, 5)
    head = narrow(memory="vector_quantization")
    expected = torch.zeros(())
    for memory in (head.global_memory, head.local_memory):
        assert memory is not None
        expected += (memory(features) - features).square().mean()
    rebuilt, added = head.read_and_rebuild(features)
    torch.testing.assert_close(added, expected)
    assert torch.equal(rebuilt, head(features))


def test_a_memory_that_is_left_out_leaves_the_fusion_as_large() -> None:
    def size(module: nn.Module) -> int:
        return sum(value.numel() for value in module.parameters())

    whole = narrow()
    for left_out in ("local_memory", "global_memory"):
        head = narrow(**{left_out: False})
        assert size(head.fusion) == size(whole.fusion)
        assert not [name for name in head.state_dict() if name.startswith(left_out)]


def test_one_memory_fills_both_inputs_of_the_fusion() -> None:
    head = narrow(global_memory=False, refinement=False).eval()
    features = torch.randn(2, 6, 4, 5)
    assert head.local_memory is not None
    read = head.local_memory(features)
    torch.testing.assert_close(head(features), head.fusion(read, read))


def test_a_model_without_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="local_memory and global_memory are both False"):
        narrow(local_memory=False, global_memory=False)


def test_without_jitter_training_reads_as_evaluation_does() -> None:
    features = torch.randn(2, 6, 4, 5)
    with pytest.warns(FutureWarning, match="jitter=False is deprecated.*Write jitter_probability=0"):
        head = narrow(jitter=False, jitter_probability=1.0)
    memory = head.local_memory
    assert memory is not None
    assert torch.equal(memory(features), memory.eval()(features))


@pytest.mark.parametrize(
    "options", [{"memory": "vector_quantization"}, {"memory": "attention"}, {"local_memory": False}]
)
def test_jitter_has_no_effect_where_no_coordinate_is_jittered(options: dict[str, object]) -> None:
    features = torch.randn(2, 6, 4, 5)
    outputs = [narrow(jitter_probability=probability, **options)(features) for probability in (1.0, 0.0)]
    assert torch.equal(*outputs)


def test_without_refinement_half_precision_ends_in_single_precision() -> None:
    head = narrow(refinement=False).bfloat16()
    assert head(torch.randn(2, 6, 4, 5).bfloat16()).dtype == torch.float32


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
        {"memory": "vector_quantization"},
        {"memory": "attention"},
        {"local_memory": False},
        {"global_memory": False},
        {"refinement": False},
        pytest.param({"jitter": False}, marks=pytest.mark.filterwarnings("ignore:jitter=False")),
    ],
    ids=str,
)
def test_every_option_changes_the_output(changed: dict[str, object]) -> None:
    features = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(1)) * 10
    outputs = []
    for options in ({}, changed):
        head = narrow(**{"jitter_probability": 1.0, **options})
        # Coordinates that tell positions apart.
        for name, value in head.named_parameters():
            if name == "local_memory.coordinates.2.weight":
                torch.nn.init.normal_(value)
        torch.manual_seed(2)
        outputs.append(head(features))
    assert not torch.equal(*outputs)


def test_features_of_another_size_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"built for features of 6 x 4 x 5 .* got 6 x 8 x 8.*global memory.*image_size"
    ):
        narrow()(torch.rand(1, 6, 8, 8))
    with pytest.raises(ValueError, match=r"got 6 x 8 x 8.*image_size") as raised:
        narrow(global_memory=False)(torch.rand(1, 6, 8, 8))
    assert "global memory" not in str(raised.value)


@pytest.mark.parametrize(("num_blocks", "hidden_channels"), [(-1, 8), (1, 0)])
def test_fusion_arguments_are_checked(num_blocks: int, hidden_channels: int) -> None:
    with pytest.raises(ValueError, match="num_blocks must be >= 0 and hidden_channels >= 1"):
        narrow(num_blocks=num_blocks, hidden_channels=hidden_channels)


def test_the_model_trains_on_features_and_scores_images() -> None:
    extractor = MultiScaleFeatures("resnet18", ["layer1", "layer2"], (32, 48), pre_trained=False)
    head = ContinuousMemoryReconstruction(extractor.out_channels, extractor.feature_size, 4, 2, 1, 8)
    model = CradModel(extractor, head, AnomalyMapGenerator((32, 48)))
    images = torch.rand(2, 3, 32, 48)

    features, reconstruction, losses = model.train()(images)
    assert list(losses) == ["reconstruction"]
    assert reconstruction.shape == features.shape == (2, 64 + 128, 8, 12)
    assert reconstruction.requires_grad
    assert not features.requires_grad

    prediction = model.eval()(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.pred_score is not None
    assert prediction.anomaly_map is not None
    assert prediction.pred_score.shape == (2,)
    assert prediction.anomaly_map.shape == (2, 1, 32, 48)
