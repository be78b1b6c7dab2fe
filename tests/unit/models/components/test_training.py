# SPDX-License-Identifier: Apache-2.0

"""The optimizer of our models: one pass where it can, whatever a checkpoint says."""

from __future__ import annotations

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
    path = tmp_path / "new.ckpt"
    trainer.save_checkpoint(path)
    old = torch.load(path, weights_only=False)
    for group in old["optimizer_states"][0]["param_groups"]:
        group["fused"] = None  # as releases wrote it that did not know of it
    torch.save(old, tmp_path / "old.ckpt")

    of_old, of_new = build(seed=1), build(seed=1)
    resumed = fitted(tiny_root, tmp_path / "of_old", of_old, tmp_path / "old.ckpt", max_epochs=2)
    fitted(tiny_root, tmp_path / "of_new", of_new, path, max_epochs=2)

    assert all(group["fused"] for group in resumed.optimizers[0].param_groups)
    for name, value in of_new.model.state_dict().items():
        torch.testing.assert_close(of_old.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert any(
        not torch.equal(old["state_dict"][f"model.{name}"], value) for name, value in of_old.model.state_dict().items()
    )
