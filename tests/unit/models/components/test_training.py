# SPDX-License-Identifier: Apache-2.0

"""The optimizer of our models: one pass where it can, whatever a checkpoint says."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from anomalib.engine import Engine
from made_up_models import datamodule, narrow_crad, narrow_uniad

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning.pytorch import Trainer

    from anomalib_crad import Crad, UniAD


def fitted(root: Path, folder: Path, model: Crad | UniAD, checkpoint: Path | None = None, **options: Any) -> Trainer:  # noqa: ANN401
    settings: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 0, "logger": False, **options}
    engine = Engine(default_root_dir=folder, accelerator="cpu", **settings)
    engine.fit(model, datamodule=datamodule(root), ckpt_path=None if checkpoint is None else str(checkpoint))
    return engine.trainer


@pytest.mark.parametrize("build", [narrow_crad, narrow_uniad])
def test_all_parameters_are_updated_in_one_pass(
    build: Callable[..., Crad | UniAD], tiny_root: Path, tmp_path: Path
) -> None:
    trainer = fitted(tiny_root, tmp_path, build())

    assert all(group["fused"] for group in trainer.optimizers[0].param_groups)


def test_mixed_precision_clips_and_goes_without(tiny_root: Path, tmp_path: Path) -> None:
    trainer = fitted(tiny_root, tmp_path, narrow_crad(), precision="bf16-mixed")

    assert not any(group["fused"] for group in trainer.optimizers[0].param_groups)


@pytest.mark.parametrize("build", [narrow_crad, narrow_uniad])
def test_a_checkpoint_of_the_plain_update_resumes_in_one_pass(
    build: Callable[..., Crad | UniAD], tiny_root: Path, tmp_path: Path
) -> None:
    trainer = fitted(tiny_root, tmp_path / "first", build(seed=1), max_epochs=1)
    path = tmp_path / "today.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=False)
    old = copy.deepcopy(checkpoint)
    for group in old["optimizer_states"][0]["param_groups"]:
        group["fused"] = None  # as releases wrote it that did not know of it
    torch.save(old, path)

    resumed = build(seed=1)
    trainer = fitted(tiny_root, tmp_path / "resumed", resumed, path, max_epochs=2)
    straight = build(seed=1)
    fitted(tiny_root, tmp_path / "straight", straight, max_epochs=2, callbacks=[])

    assert all(group["fused"] for group in trainer.optimizers[0].param_groups)
    first = checkpoint["state_dict"]
    assert any(not torch.equal(first[name], value) for name, value in resumed.state_dict().items())
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
