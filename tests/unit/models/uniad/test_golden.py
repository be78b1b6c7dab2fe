# SPDX-License-Identifier: Apache-2.0

"""The head agrees with what the authors' release computed, before, during and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from recorded import TOLERANCE, assert_close, official_state_dict

from anomalib_crad.models.components.torch_model import reconstruction_loss
from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.uniad.official import convert_state_dict
from anomalib_crad.models.uniad.torch_model import UniADReconstruction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np


def assert_evaluates_as(head: UniADReconstruction, recorded: Mapping[str, np.ndarray], when: str) -> None:
    features = torch.from_numpy(recorded["test_input"])
    with torch.no_grad():
        reconstruction = head.eval()(features)
        anomaly_map, _ = AnomalyMapGenerator((5 * 16, 6 * 16))(features, reconstruction)
    assert_close(reconstruction, recorded[f"{when}/feature_rec"], TOLERANCE[when])
    assert_close(anomaly_map, recorded[f"{when}/pred"], TOLERANCE[when])


def test_training_follows_the_recording(golden: Callable[[str], Mapping[str, np.ndarray]]) -> None:
    recorded = golden("uniad")
    head = UniADReconstruction(
        in_channels=24,
        feature_size=(5, 6),
        hidden_dim=32,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        feedforward_dim=48,
        neighbor_size=(3, 3),
        dropout=0.0,
        jitter_probability=0.0,
    )
    head.load_state_dict(convert_state_dict(official_state_dict(recorded)), strict=True)
    assert_evaluates_as(head, recorded, "eval_init")

    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4, weight_decay=1e-4)
    head.train()
    losses = []
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


@pytest.mark.parametrize(
    "name",
    [
        "backbone.conv.weight",
        "transformer.encoder.layers.0.multihead_attn.out_proj.weight",
        "transformer.encoder.norm.weight",
    ],
)
def test_names_of_another_model_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is not a tensor of the authors' UniAD head"):
        convert_state_dict({name: torch.zeros(1)})


def test_data_parallel_prefix_is_dropped() -> None:
    assert list(convert_state_dict({"module.input_proj.weight": torch.zeros(1)})) == ["input_projection.weight"]
