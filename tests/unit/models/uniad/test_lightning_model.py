# SPDX-License-Identifier: Apache-2.0

"""What is UniAD's own in training: epochs, learning rate, clipping, checkpoints of other networks, bad arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from anomalib.engine import Engine
from made_up_models import datamodule, fit, narrow_uniad

if TYPE_CHECKING:
    from pathlib import Path


def test_a_thousand_epochs_when_nobody_says_otherwise_and_a_drop_after_four_fifths(
    tiny_root: Path, tmp_path: Path
) -> None:
    assert narrow_uniad().hparams["max_epochs"] == 1000
    model = narrow_uniad(max_epochs=5)
    _, recorder = fit(tiny_root, model, tmp_path, limit_train_batches=1, limit_val_batches=0)
    assert [rate["networks"] for rate in recorder.rates] == pytest.approx([1e-4] * 4 + [1e-5])


def test_gradients_are_clipped_at_a_tenth(tiny_root: Path, tmp_path: Path) -> None:
    _, recorder = fit(tiny_root, narrow_uniad(), tmp_path, max_epochs=1, limit_val_batches=0)
    assert max(recorder.norms) == pytest.approx(0.1, rel=1e-3)


def test_the_optimizer_decays_everything_and_moves_only_the_head(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_uniad(weight_decay=0.5, learning_rate=0.25)
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    (group,) = engine.trainer.optimizers[0].param_groups
    assert (group["weight_decay"], group["initial_lr"]) == (0.5, 0.25)
    assert {id(value) for value in group["params"]} == {id(value) for value in model.model.reconstruction.parameters()}


def test_features_are_of_the_coarsest_stage() -> None:
    assert narrow_uniad(image_size=(32, 48)).model.reconstruction.feature_shape == (64 + 128, 4, 6)


def test_a_checkpoint_of_another_network_is_refused_even_where_all_shapes_are_the_same(
    tiny_root: Path, tmp_path: Path
) -> None:
    engine, _ = fit(tiny_root, narrow_uniad(), tmp_path, max_epochs=1, limit_val_batches=0)
    other = narrow_uniad(num_heads=4, neighbor_size=(1, 3))
    message = (
        r"other num_heads, neighbor_size\..*--model\.num_heads=2 --model\.neighbor_size=\[3,3\].*"
        r"UniAD\.load_from_checkpoint"
    )
    with pytest.raises(ValueError, match=message):
        Engine(default_root_dir=tmp_path, accelerator="cpu").test(
            other, datamodule=datamodule(tiny_root), ckpt_path=engine.best_model_path
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"image_size": (33, 32)}, "image_size 33 x 32 .* does not fit"),
        ({"layers": ["layer9"]}, "has no stage 'layer9'"),
        ({"neighbor_size": 3}, "neighbor_size must be height and width, two odd numbers of positions, got 3"),
        ({"neighbor_size": [3]}, r"neighbor_size must be height and width, .* got \[3\]"),
        ({"neighbor_size": (7, 7)}, "neighbor_size 7 x 7 hides all 4 x 4 positions"),
        ({"num_heads": 3}, "hidden_dim must be a multiple of num_heads, got 8 and 3"),
    ],
    ids=str,
)
def test_bad_arguments_are_early_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow_uniad(**arguments)
