# SPDX-License-Identifier: Apache-2.0

"""The head agrees with what the authors' release computed, before, during and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from recorded import TOLERANCE, assert_close, official_state_dict
from torch.nn import functional

from anomalib_crad.models.components.scoring import feature_distance
from anomalib_crad.models.components.torch_model import reconstruction_loss
from anomalib_crad.models.crad.official import convert_state_dict
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RECORDINGS = {"crad_head": 0.0, "crad_head_jitter": 0.5}


def build(recorded: Mapping[str, np.ndarray], jitter_probability: float) -> ContinuousMemoryReconstruction:
    head = ContinuousMemoryReconstruction(
        in_channels=216,
        feature_size=(4, 4),
        num_blocks=2,
        hidden_channels=16,
        jitter_probability=jitter_probability,
    )
    head.load_state_dict(convert_state_dict(official_state_dict(recorded)), strict=True)
    return head


def assert_evaluates_as(head: ContinuousMemoryReconstruction, recorded: Mapping[str, np.ndarray], when: str) -> None:
    features = torch.from_numpy(recorded["test_input"])
    with torch.no_grad():
        refined = head.eval()(features)
    distance = feature_distance(features, refined)
    enlarged = functional.interpolate(distance, scale_factor=8, mode="bilinear", align_corners=True)
    assert_close(refined, recorded[f"{when}/feature_rec"], TOLERANCE[when])
    assert_close(enlarged, recorded[f"{when}/pred"], TOLERANCE[when])


@pytest.mark.parametrize(("name", "jitter_probability"), RECORDINGS.items())
def test_training_follows_the_recording(
    golden: Callable[[str], Mapping[str, np.ndarray]],
    name: str,
    jitter_probability: float,
) -> None:
    recorded = golden(name)
    head = build(recorded, jitter_probability)
    assert_evaluates_as(head, recorded, "eval_init")

    groups = head.parameter_groups()
    optimizer = torch.optim.AdamW(
        [{"params": groups["networks"], "lr": 1e-3}, {"params": groups["grids"], "lr": 0.1}],
        weight_decay=0.01,
    )
    head.train()
    losses = []
    torch.manual_seed(6)
    for features in torch.from_numpy(recorded["train_inputs"]):
        loss = reconstruction_loss(head(features), features)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())

    for step, (actual, expected) in enumerate(zip(losses, recorded["losses"], strict=True)):
        assert actual == pytest.approx(expected, rel=TOLERANCE["losses"]), f"step {step}"
    assert_evaluates_as(head, recorded, "eval_final")
    # A cell that is hardly read moves by the sign of a tiny gradient, at a learning rate of 0.1.
    assert_close(head.get_parameter("local_memory.grid.values").detach(), recorded["final/query.0"], 1e-2)
    weight = head.state_dict()["local_memory.coordinates.0.weight"]
    assert_close(weight, recorded["final/coord.0.weight"], TOLERANCE["eval_final"])


def test_jitter_changes_the_recording(golden: Callable[[str], Mapping[str, np.ndarray]]) -> None:
    """The two recordings differ, so that agreement with the second proves the jitter."""
    assert not np.allclose(golden("crad_head")["losses"], golden("crad_head_jitter")["losses"], rtol=1e-3)


def test_names_of_another_model_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"'encoder\.weight' is not a tensor of the authors' CRAD head"):
        convert_state_dict({"encoder.weight": torch.zeros(1)})


def test_data_parallel_prefix_is_dropped() -> None:
    assert list(convert_state_dict({"module.recover.weight": torch.zeros(1)})) == ["fusion.recover.weight"]
