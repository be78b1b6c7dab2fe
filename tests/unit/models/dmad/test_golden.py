# SPDX-License-Identifier: Apache-2.0

"""Every part of DMAD agrees with what the authors' release computed, before, during and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from recorded import assert_close, official_state_dict

from anomalib_crad.models.dmad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.dmad.loss import DMADLoss
from anomalib_crad.models.dmad.memory import greedy_coreset, nearest, select_patches
from anomalib_crad.models.dmad.official import convert_state_dict
from anomalib_crad.models.dmad.patches import PatchEmbedding
from anomalib_crad.models.dmad.torch_model import DMADHead, add_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    Recorded = Mapping[str, np.ndarray]

# Relative to the largest recorded value. The release trains biases whose gradient is rounding noise, which is why the
# numbers after training agree least.
PATCHES, DISTANCES, EVAL_INIT, LOSSES, GRADIENTS, EVAL_FINAL = 1e-5, 1e-4, 1e-4, 1e-4, 1e-3, 1e-2


@pytest.fixture
def recorded(golden: Callable[[str], Recorded]) -> Recorded:
    return golden("dmad")


def tensor(recorded: Recorded, name: str) -> torch.Tensor:
    return torch.from_numpy(recorded[name])


def build(recorded: Recorded) -> DMADHead:
    head = DMADHead(dim=24, hidden_dim=16)
    head.load_state_dict(convert_state_dict(official_state_dict(recorded)), strict=True)
    return head


def assert_evaluates_as(head: DMADHead, recorded: Recorded, when: str, tolerance: float) -> None:
    """The release scores in evaluation mode, but leaves the knowledge in training mode."""
    head.eval()
    head.knowledge.train()
    patches = tensor(recorded, "embed/patches").flatten(0, 1)
    banks = (tensor(recorded, "bank/normal"), tensor(recorded, "bank/abnormal"))
    normal, abnormal = (bank[nearest(patches, bank)[1]] for bank in banks)
    with torch.no_grad():
        representation = head.represent(patches, normal, abnormal)
        patch_scores = -head.score(representation).unflatten(0, (3, 8, 8))
    anomaly_map, image_score = AnomalyMapGenerator((64, 64))(patch_scores)
    assert_close(representation, recorded[f"{when}/representation"], tolerance)
    assert_close(patch_scores, recorded[f"{when}/patch_score"], tolerance)
    assert_close(anomaly_map, recorded[f"{when}/map"], tolerance)
    assert_close(image_score, recorded[f"{when}/image_score"], tolerance)


def test_patches_are_the_recorded_ones(recorded: Recorded) -> None:
    stages = [tensor(recorded, "embed/stage_1"), tensor(recorded, "embed/stage_2")]
    assert_close(PatchEmbedding(dim=24)(stages), recorded["embed/patches"], PATCHES)


def test_masks_mark_the_recorded_patches(recorded: Recorded) -> None:
    selected = select_patches(tensor(recorded, "filter/masks") > 0, (8, 8))
    assert np.array_equal(selected.numpy(), recorded["filter/selected"] > 0)


def test_the_coreset_is_the_recorded_one(recorded: Recorded) -> None:
    indices = greedy_coreset(tensor(recorded, "coreset/reduced"), 15, tensor(recorded, "coreset/start"))
    assert np.array_equal(indices.numpy(), recorded["coreset/indices"])
    chosen = recorded["coreset/features"][recorded["coreset/indices"]]
    assert np.array_equal(chosen, recorded["bank/normal"])


@pytest.mark.parametrize("bank", ["normal", "abnormal"])
def test_the_nearest_entries_are_the_recorded_ones(recorded: Recorded, bank: str) -> None:
    patches = tensor(recorded, "embed/patches").flatten(0, 1)
    squared, indices = nearest(patches, tensor(recorded, f"bank/{bank}"))
    assert np.array_equal(indices.numpy(), recorded[f"nearest/{bank}_index"])
    assert_close(squared, recorded[f"nearest/{bank}_squared_distance"], DISTANCES)


def test_training_follows_the_recording(recorded: Recorded) -> None:
    """Each optimizer as released; the release never steps the knowledge."""
    head = build(recorded)
    assert_evaluates_as(head, recorded, "eval_init", EVAL_INIT)
    groups = head.parameter_groups()
    optimizers = [
        torch.optim.Adam(groups["scorer"], lr=2e-3, weight_decay=1e-5),
        torch.optim.AdamW(groups["projection"], lr=1e-3, weight_decay=0.01),
    ]
    loss_function = DMADLoss()
    head.train()
    ends = recorded["train/counts"].cumsum()
    recorded_scores = np.split(recorded["train/scores"], (ends + 256 * np.arange(1, 7))[:-1])
    for step, (count, end) in enumerate(zip(recorded["train/counts"], ends, strict=True)):
        patches, normal, abnormal, noise = (
            tensor(recorded, f"train/{name}")[step] for name in ("patches", "normal", "abnormal", "noise")
        )
        annotated = [
            tensor(recorded, f"train/{name}")[end - count : end]
            for name in ("annotated", "annotated_normal", "annotated_abnormal")
        ]
        representation = head.represent(patches, normal, abnormal)
        together = torch.cat([representation, add_noise(representation, noise), head.residuals(*annotated)])
        scores = head.score(together)
        kinds = scores.split([128, 128, int(count)])
        loss = loss_function(*kinds)

        assert_close(scores.detach(), recorded_scores[step], EVAL_FINAL if step else LOSSES)
        terms = loss_function.terms(*kinds)
        actual = np.array([terms[name].item() for name in ("normal", "noisy", "annotated")]) / [1, 1, 10]
        assert_close(actual, recorded["train/terms"][step], LOSSES)
        assert loss.item() == pytest.approx(recorded["losses"][step], rel=LOSSES), f"step {step}"

        for optimizer in optimizers:
            optimizer.zero_grad()
        head.knowledge.zero_grad()
        loss.backward()
        if step == 0:
            assert_has_recorded_gradients(head, recorded)
        trained = [value.grad for name in ("projection", "scorer") for value in groups[name] if value.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in trained]).norm().item()
        assert norm == pytest.approx(recorded["grad_norms"][step], rel=GRADIENTS), f"step {step}"
        for optimizer in optimizers:
            optimizer.step()

    assert_evaluates_as(head, recorded, "eval_final", EVAL_FINAL)


def assert_has_recorded_gradients(head: DMADHead, recorded: Recorded) -> None:
    """Norms of the gradients; both of our batch norms together are the release's one."""
    parts: dict[str, list[nn.Module]] = {
        "pre_projection.layers.0fc": [head.projection],
        "knowledge_aug.cross_attn.v_linear": [head.knowledge.value],
        "knowledge_aug.norm": [head.knowledge.normal_norm, head.knowledge.abnormal_norm],
        "mlp.body.block1.0": [head.scorer[0]],
        "mlp.body.block1.1": [head.scorer[1]],
        "mlp.tail": [head.scorer[3]],
    }
    for part, modules in parts.items():
        for leaf in ("weight", "bias"):
            gradients = [value.grad for module in modules if (value := getattr(module, leaf, None)) is not None]
            if gradients:
                norm = sum(gradients, start=torch.zeros(())).norm().item()
                expected = float(recorded[f"grad/{part}.{leaf}"])
                # Biases before a batch norm have no gradient but rounding noise.
                assert norm == pytest.approx(expected, rel=GRADIENTS, abs=1e-4), f"{part}.{leaf}"


@pytest.mark.parametrize("name", ["backbone.conv.weight", "mlp.body.block2.0.weight", "weight"])
def test_names_of_another_model_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is not a tensor of the authors' DMAD head"):
        convert_state_dict({name: torch.zeros(1)})


def test_data_parallel_prefix_is_dropped() -> None:
    assert list(convert_state_dict({"module.mlp.tail.weight": torch.zeros(1)})) == ["scorer.3.weight"]
