# SPDX-License-Identifier: Apache-2.0

"""What a checkpoint is, which checkpoints a model takes, and old names of tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from anomalib_crad.models.components.checkpoints import (
    check_architecture,
    check_checkpoint_file,
    check_tensors,
    plain_data,
    rename_tensors,
)

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


def test_a_checkpoint_of_another_model_is_refused() -> None:
    own = {"model.memory": torch.zeros(1), "model.fusion": torch.zeros(1), "post_processor.threshold": torch.zeros(1)}
    check_tensors("Crad", own, {"state_dict": {"model.memory": 0, "model.fusion": 0}})
    with pytest.raises(
        ValueError, match="not one of Crad: 1 of the 2 tensors of its network are missing and 1 are unknown"
    ):
        check_tensors("Crad", own, {"state_dict": {"model.memory": 0, "model.bank": 0}})
    with pytest.raises(ValueError, match="2 of the 2 tensors of its network are missing"):
        check_tensors("Crad", own, {"weights": {}})


def test_arguments_that_differ_are_named_with_the_values_to_give() -> None:
    own = {"backbone": "resnet18.a1_in1k", "layers": [1, 2], "image_size": [32, 32], "seed": 1}
    names = ("backbone", "layers", "image_size", "num_blocks")
    check_architecture("Crad", names, own, {"backbone": "resnet18.tv_in1k", "layers": (1, 2), "seed": 2})
    with pytest.raises(ValueError, match=r"other layers\..*--model\.layers=\[1,3\]\).*Crad\.load_from_checkpoint"):
        check_architecture("Crad", names, own, {"layers": [1, 3]})


def test_arguments_become_plain_data() -> None:
    config = OmegaConf.create({"layers": ["layer1", 2], "image_size": [[1, 2], 3]})
    for value, expected in (
        (config.layers, ["layer1", 2]),
        (config.image_size, [[1, 2], 3]),
        ((7, 7), [7, 7]),
        (Path("folder") / "weights.pth", str(Path("folder") / "weights.pth")),
        ("name", "name"),
        (None, None),
        (0.5, 0.5),
    ):
        plain = plain_data(value)
        assert type(plain) is type(expected)
        assert plain == expected


def test_tensors_are_renamed_in_place_and_in_order() -> None:
    state_dict = {"a.gate.1.weight": 1, "gate.1.weight.b": 2, "c": 3}
    rename_tensors(state_dict, {r"\.gate\.1\.weight": ".fc1.weight"})
    assert list(state_dict.items()) == [("a.fc1.weight", 1), ("gate.1.weight.b", 2), ("c", 3)]
