# SPDX-License-Identifier: Apache-2.0

"""Half precision by Lightning's ``precision``: what stays in single precision, and how far results move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from anomalib.engine import Engine
from made_up_models import datamodule, narrow_crad, narrow_uniad
from made_up_processes import Losses

from anomalib_crad.models.components.precision import no_mixed_precision
from anomalib_crad.models.components.scoring import feature_distance
from anomalib_crad.models.crad.memory import ContinuousGrid
from anomalib_crad.models.crad.torch_model import ContinuousMemoryReconstruction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomalib_crad import Crad, UniAD

#: Half precisions and the tolerance of what they compute: bfloat16 keeps 8 bits, float16 11.
HALF = {torch.bfloat16: 2e-2, torch.float16: 3e-3}


def head(**arguments: Any) -> ContinuousMemoryReconstruction:  # noqa: ANN401
    torch.manual_seed(0)
    built = ContinuousMemoryReconstruction(6, (4, 4), num_blocks=1, hidden_channels=8, **arguments).eval()
    for name, value in built.named_parameters():  # far from their small initial values, so that coordinates vary
        if "coordinates" in name:
            torch.nn.init.normal_(value, std=0.5)
    return built


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("features_dtype", ["single", "half"])
def test_coordinates_and_reads_are_computed_in_single_precision(dtype: torch.dtype, features_dtype: str) -> None:
    model, features = head(), torch.rand(2, 6, 4, 4)
    if features_dtype == "half":  # as a backbone gives them in mixed precision
        features = features.to(dtype)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for grid in model.modules():
        if isinstance(grid, ContinuousGrid):
            grid.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.autocast("cpu", dtype=dtype):
        mixed = model(features)
    half, seen[:] = [*seen], []
    single = model(features.float())

    assert len(half) == len(seen) == 2
    for pair, expected in zip(half, seen, strict=True):
        for value, exact in zip(pair, expected, strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, exact)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, single), "the fusion computes in half precision"
    torch.testing.assert_close(mixed, single, rtol=HALF[dtype], atol=HALF[dtype])


@pytest.mark.parametrize("memory", ["vector_quantization", "attention"])
def test_discrete_memories_choose_in_single_precision(memory: Any) -> None:  # noqa: ANN401
    model, features = head(memory=memory), torch.rand(2, 6, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = model.read_and_rebuild(features)
    torch.testing.assert_close(mixed, model.read_and_rebuild(features)[0], rtol=2e-2, atol=2e-2)


def test_outside_of_mixed_precision_nothing_is_converted() -> None:
    values = torch.rand(3, dtype=torch.bfloat16)
    with no_mixed_precision(values) as same:
        assert same is values
    with torch.autocast("cpu", dtype=torch.bfloat16), no_mixed_precision(values) as converted:
        assert converted.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")


def test_distances_of_half_precision_features_are_not_rounded() -> None:
    features = torch.full((1, 2, 1, 1), 100.0, dtype=torch.bfloat16)
    reconstruction = torch.full((1, 2, 1, 1), 100.1)
    distance = feature_distance(features, reconstruction)
    assert distance.dtype == torch.float32
    assert distance.item() == pytest.approx(0.1 * 2**0.5, rel=1e-3)


@pytest.mark.parametrize("build", [narrow_crad, narrow_uniad])
def test_losses_and_scores_of_a_training_in_mixed_precision_are_close(
    tiny_root: Path, tmp_path: Path, build: Callable[..., Crad | UniAD]
) -> None:
    results = {}
    for precision in ("32-true", "bf16-mixed"):
        losses, model = Losses(), build(seed=5, jitter_probability=0.0)
        options: dict[str, Any] = {"precision": precision, "max_epochs": 2, "enable_progress_bar": False}
        engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[losses], **options)
        engine.fit(model, datamodule=datamodule(tiny_root))
        batches: Any = engine.predict(model, datamodule=datamodule(tiny_root))
        evaluated = torch.cat([batch.pred_score for batch in batches]).float()
        results[precision] = (losses.values, evaluated, float(model.post_processor.image_threshold), model)  # type: ignore[union-attr, arg-type]

    expected, scores, threshold, _ = results["32-true"]
    mixed_losses, mixed_scores, mixed_threshold, mixed = results["bf16-mixed"]
    assert mixed_losses != expected
    assert mixed_losses[0] == pytest.approx(expected[0], rel=1e-2)
    assert mixed_losses == pytest.approx(expected, rel=0.1), "AdamW enlarges what rounding does to small gradients"
    assert mixed_threshold == pytest.approx(threshold, rel=5e-2)
    torch.testing.assert_close(mixed_scores, scores, rtol=0, atol=5e-2)
    assert {value.dtype for value in mixed.parameters()} == {torch.float32}
