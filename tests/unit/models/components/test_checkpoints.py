# SPDX-License-Identifier: Apache-2.0

"""Files that are not checkpoints are told apart from those that are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from anomalib_crad.models.components.checkpoint_file import check_checkpoint_file

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = {"state_dict": {"weight": torch.zeros(1000)}, "pytorch-lightning_version": "2.6.6"}


def test_a_checkpoint_passes_and_so_does_a_file_that_is_not_there(tmp_path: Path) -> None:
    torch.save(CHECKPOINT, tmp_path / "model.ckpt")
    check_checkpoint_file(tmp_path / "model.ckpt")
    check_checkpoint_file(tmp_path / "missing.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_part_of_a_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    torch.save(CHECKPOINT, tmp_path / "model.ckpt")
    whole = (tmp_path / "model.ckpt").read_bytes()
    (tmp_path / "part.ckpt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"part\.ckpt' is not a checkpoint, or its end is missing.*weights/lightning"):
        check_checkpoint_file(tmp_path / "part.ckpt")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.ckpt").write_text("notes", encoding="utf-8")
    with pytest.raises(ValueError, match="not a checkpoint"):
        check_checkpoint_file(tmp_path / "notes.ckpt")


def test_an_exported_model_is_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="something else than a checkpoint, such as an exported model"):
        check_checkpoint_file(tmp_path / "model.pt")


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    torch.save(CHECKPOINT["state_dict"], tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights alone do not say which model"):
        check_checkpoint_file(tmp_path / "weights.pth")
