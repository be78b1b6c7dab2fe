# SPDX-License-Identifier: Apache-2.0

"""The head agrees with what the authors' release computed, before, during and after training.

The category of each image chooses its expert here, as in the release. Nothing else in the package does that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from recorded import assert_close, official_state_dict
from torch.nn import functional

from anomalib_crad.models.hvq_trans.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.hvq_trans.official import convert_state_dict
from anomalib_crad.models.hvq_trans.torch_model import HVQTransOutput, HVQTransReconstruction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Golden = Callable[[str], Mapping[str, np.ndarray]]

# Relative to the largest recorded value.
TOLERANCE = {"eval_init": 1e-4, "losses": 1e-4, "gradients": 1e-3, "state": 1e-3, "eval_final": 1e-3, "cold": 1e-4}
COMMITMENT_WEIGHT = 0.25


@pytest.fixture
def recorded(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("hvq_trans")


@pytest.fixture
def head(recorded: Mapping[str, np.ndarray]) -> HVQTransReconstruction:
    head = HVQTransReconstruction(
        in_channels=24,
        feature_size=(6, 5),
        num_experts=3,
        hidden_dim=16,
        num_codes=8,
        num_heads=2,
        feedforward_dim=24,
        dropout=0.0,
    )
    head.load_state_dict(convert_state_dict(official_state_dict(recorded)), strict=True)
    return head


def losses_of(output: HVQTransOutput, features: torch.Tensor) -> torch.Tensor:
    """Total, mean squared error, commitment."""
    error = functional.mse_loss(output.reconstruction, features)
    return torch.stack([error + COMMITMENT_WEIGHT * output.commitment, error, output.commitment])


def watch_indices(head: HVQTransReconstruction) -> list[torch.Tensor]:
    """Collect from now on what each quantisation chooses; the deepest level comes first."""
    indices: list[torch.Tensor] = []
    for codebooks in head.codebooks_by_level():
        codebooks.register_forward_hook(lambda _module, _inputs, output: indices.append(output.indices))
    return indices


def by_level(indices: list[torch.Tensor]) -> torch.Tensor:
    """Indices of one forward pass, levels x B x L, from level 0 to the deepest."""
    return torch.stack([*indices[1:], indices[0]])


def recorded_state(recorded: Mapping[str, np.ndarray], when: str, names: str = "") -> dict[str, np.ndarray]:
    """Recorded tensors under our names."""
    keys = [key for key in recorded if key.startswith(when + names)]
    converted = convert_state_dict({key.removeprefix(when): torch.from_numpy(recorded[key]) for key in keys})
    return {name: tensor.numpy() for name, tensor in converted.items()}


def assert_evaluates_as(head: HVQTransReconstruction, recorded: Mapping[str, np.ndarray], when: str) -> None:
    features, experts = torch.from_numpy(recorded["test_input"]), torch.from_numpy(recorded["test_labels"])
    tolerance = TOLERANCE[when]
    indices = watch_indices(head.eval())
    generator = AnomalyMapGenerator((6 * 16, 5 * 16))
    with torch.no_grad():
        output = head(features, experts)
        anomaly_map, score = generator(features, output.reconstruction, output.transport)
        _, plain_score = generator(features, output.reconstruction, None)
        assert_close(torch.stack(head.levels(features)), recorded[f"{when}/levels"], tolerance)
        assert_close(head.quantization_errors(features), recorded[f"{when}/level4_error"], tolerance)
    assert np.array_equal(by_level(indices[:5]), recorded[f"{when}/ids"])
    assert output.transport is not None
    assert_close(output.reconstruction, recorded[f"{when}/feature_rec"], tolerance)
    assert_close(output.transport.squeeze(1), recorded[f"{when}/transport"], tolerance)
    assert_close(losses_of(output, features), recorded[f"{when}/loss"], tolerance)
    assert_close(anomaly_map, recorded[f"{when}/pred"], tolerance)
    assert_close(score, recorded[f"{when}/score"], tolerance)
    assert_close(plain_score, recorded[f"{when}/score_plain"], tolerance)


def gradient_norms(head: HVQTransReconstruction, recorded: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Norms of gradients under the authors' names: their projections of attention are one, their experts are apart."""
    for name, tensor in official_state_dict(recorded).items():
        if f"grad/{name}" not in recorded:
            continue
        if match := re.fullmatch(r"output_proj_list\.(\d+)\.(\w+)", name):
            stacked = head.get_parameter(f"output_projection.{match[2]}").grad
            assert stacked is not None
            yield name, stacked[int(match[1])].norm().item()
        else:
            gradients = [head.get_parameter(ours).grad for ours in convert_state_dict({name: tensor})]
            yield name, torch.cat([value.flatten() for value in gradients if value is not None]).norm().item()


def test_evaluation_before_training(head: HVQTransReconstruction, recorded: Mapping[str, np.ndarray]) -> None:
    assert_evaluates_as(head, recorded, "eval_init")


def test_training_follows_the_recording(head: HVQTransReconstruction, recorded: Mapping[str, np.ndarray]) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    head.train()
    indices = watch_indices(head)
    steps = zip(recorded["train_inputs"], recorded["train_labels"], strict=True)
    for step, (images, labels) in enumerate(steps):
        features = torch.from_numpy(images)
        output = head(features, torch.from_numpy(labels))
        assert output.transport is None
        losses = losses_of(output, features)
        optimizer.zero_grad()
        losses[0].backward()
        if step == 0:
            largest = max(recorded[key].item() for key in recorded if key.startswith("grad/"))
            norms = dict(gradient_norms(head, recorded))
            assert len(norms) == sum(key.startswith("grad/") for key in recorded)
            for name, gradient in norms.items():
                expected = recorded[f"grad/{name}"].item()
                assert gradient == pytest.approx(expected, rel=TOLERANCE["gradients"], abs=1e-6 * largest), name
        norm = torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
        optimizer.step()
        assert_close(losses.detach(), recorded["losses"][step], TOLERANCE["losses"])
        assert norm.item() == pytest.approx(recorded["grad_norms"][step], rel=TOLERANCE["gradients"])
        assert np.array_equal(by_level(indices[-5:]), recorded["train_ids"][step]), step

    for name, expected in recorded_state(recorded, "final/").items():
        # The bias of keys changes nothing, and Adam makes steps of the rounding errors in its gradient.
        if not name.endswith("attention.key.bias"):
            assert_close(head.state_dict()[name], expected, TOLERANCE["state"])
    assert_evaluates_as(head, recorded, "eval_final")


def test_cold_codebooks_follow_the_recording_and_the_map_is_finite(
    head: HVQTransReconstruction, recorded: Mapping[str, np.ndarray]
) -> None:
    for codebooks in head.codebooks_by_level():
        codebooks.sizes.zero_()
        codebooks.sums.copy_(codebooks.codes)
    head.train()
    for step, expected in enumerate(recorded["cold/losses"]):
        features = torch.from_numpy(recorded["train_inputs"][step])
        output = head(features, torch.from_numpy(recorded["train_labels"][step]))
        assert_close(losses_of(output, features).detach(), expected, TOLERANCE["cold"])
    for name, expected in recorded_state(recorded, "cold/", "quantize_list").items():
        assert_close(head.state_dict()[name], expected, TOLERANCE["cold"])

    features, experts = torch.from_numpy(recorded["test_input"]), torch.from_numpy(recorded["test_labels"])
    output = head.eval()(features, experts)
    anomaly_map, score = AnomalyMapGenerator((96, 80))(features, output.reconstruction, output.transport)
    assert recorded["cold/pred_is_nan"].all()
    assert anomaly_map.isfinite().all()
    assert score.isfinite().all()


@pytest.mark.parametrize(
    "name",
    ["backbone.conv.weight", "encoder.layers.0.multihead_attn.out_proj.weight", "quantize_list_1.0.codes"],
)
def test_names_of_another_model_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is not a tensor of the authors' HVQ-Trans"):
        convert_state_dict({name: torch.zeros(1)})


def test_a_missing_expert_is_an_error() -> None:
    parts = {f"output_proj_list.{number}.bias": torch.zeros(3) for number in (0, 2)}
    with pytest.raises(ValueError, match=r"'output_projection\.bias' needs an expert of each number .* \[0, 2\]"):
        convert_state_dict(parts)


def test_prefix_backbone_and_what_is_unused_are_dropped() -> None:
    names = ["module.decoder.norm.bias", "module.enc.conv.weight", "module.input_proj.weight"]
    assert list(convert_state_dict({name: torch.zeros(1) for name in names})) == ["decoder.norm.bias"]
