# SPDX-License-Identifier: Apache-2.0

"""What is Dmad's own in training: its banks, both modes, its optimizer, its checkpoints, bad arguments."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from made_up_models import datamodule, fit, narrow_dmad
from PIL import Image

from anomalib_crad import Dmad, MVTec
from anomalib_crad.data.annotations import move_annotated
from anomalib_crad.models.dmad.building import warn_of_large_banks

if TYPE_CHECKING:
    from pathlib import Path


class WithAnnotated(MVTec):
    """The tiny data set, of which two defects of each category are annotated and in training."""

    def _setup(self, stage: str | None = None) -> None:
        super()._setup(stage)
        subsets = {name: getattr(self, f"{name}_data") for name in ("train", "val", "test")}
        split = move_annotated({name: subset.samples for name, subset in subsets.items()}, 2)
        for name, subset in subsets.items():
            subset.samples = split.samples[name]


def fit_annotated(root: Path, model: Dmad, folder: Path, batch_size: int = 4, **trainer: Any) -> Engine:  # noqa: ANN401
    data = WithAnnotated(
        root=root, category=["blue", "green"], train_batch_size=batch_size, eval_batch_size=4, num_workers=0
    )
    engine = Engine(default_root_dir=folder, accelerator="cpu", **trainer)
    engine.fit(model, datamodule=data)
    return engine


def logged(engine: Engine) -> set[str]:
    return {name for name in engine.trainer.callback_metrics if name.startswith("train_loss/")}


def test_without_annotated_defects_the_abnormal_bank_is_synthetic(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad()
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=1)
    assert set(model.abnormal_parts) == {"synthetic"}
    assert len(model.model.normal_bank) == int(0.02 * 16 * 64)
    assert len(model.model.abnormal_bank) == model.abnormal_parts["synthetic"]
    assert logged(engine) == {"train_loss/normal", "train_loss/noisy"}


def test_synthetic_defects_can_be_learnt(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow_dmad(learn_synthetic=True), tmp_path, max_epochs=1, limit_val_batches=0)
    assert "train_loss/annotated" in logged(engine)


def test_with_nothing_else_the_abnormal_bank_is_made_of_pseudo_anomalies(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad(synthetic_defects=False)
    fit(tiny_root, model, tmp_path, max_epochs=1)
    assert model.abnormal_parts == {"pseudo": 1024}


def test_textures_are_added(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (50, 70, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "textures" / f"{number}.png")
    model = narrow_dmad(textures=tmp_path / "textures")
    fit(tiny_root, model, tmp_path, max_epochs=1, limit_val_batches=0)
    assert model.abnormal_parts["textures"] == int(0.1 * 2 * 64)
    assert "synthetic" in model.abnormal_parts
    assert model.hparams["textures"] == str(tmp_path / "textures")


def test_annotated_defects_are_learnt_and_are_not_normal(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad()
    engine = fit_annotated(tiny_root, model, tmp_path, max_epochs=1)
    # The defect's rectangle of 20 x 8 pixels covers the middles of 5 x 2 patches of 4 x 4 pixels, in 4 images.
    assert model.abnormal_parts["annotated"] == model.abnormal_parts["pseudo"]
    assert model.model.abnormal_bank.images.unique().tolist() == [-1, 0, 1, 2, 3]
    assert len(model.model.normal_bank) == int(0.02 * 16 * 64)
    assert logged(engine) == {"train_loss/normal", "train_loss/noisy", "train_loss/annotated"}


def test_batches_of_annotated_images_alone_are_skipped(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad()
    fit_annotated(tiny_root, model, tmp_path, batch_size=1, max_epochs=1, limit_val_batches=0)
    assert all(value.isfinite().all() for value in model.parameters())
    alone = ImageBatch(image=torch.rand(2, 3, 32, 32), gt_label=torch.tensor([True, True]))
    assert model.training_step(alone) is None


def test_an_anomalous_training_image_without_a_mask_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    class WithoutMasks(WithAnnotated):
        def _setup(self, stage: str | None = None) -> None:
            super()._setup(stage)
            self.train_data.samples["has_mask"] = False

    data = WithoutMasks(root=tiny_root, category=["blue"], train_batch_size=4, eval_batch_size=4, num_workers=0)
    with pytest.raises(ValueError, match=r"anomalous training image '.*png' has no mask"):
        Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1).fit(narrow_dmad(), datamodule=data)


def test_a_bank_has_no_more_entries_than_are_allowed(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad(bank_size=7, coreset_ratio=1.0)
    fit_annotated(tiny_root, model, tmp_path, max_epochs=1, limit_val_batches=0)
    assert len(model.model.normal_bank) <= 7
    assert model.abnormal_parts == {"annotated": 3, "pseudo": 3}


def test_a_bank_that_outgrows_the_rest_of_the_model_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = narrow_dmad().model
    monkeypatch.setattr(logging.getLogger("anomalib_crad"), "propagate", True)
    weights = sum(value.numel() for value in model.parameters())
    for entries, warns in [(weights // 24, False), (weights // 24 + 1, True)]:
        model.normal_bank.fill(torch.zeros(entries, 24))
        caplog.clear()
        warn_of_large_banks(model)
        assert (f"The normal bank holds {entries} entries" in caplog.text) == warns
        assert ("bank_size" in caplog.text) == warns


def test_the_optimizer_moves_only_the_head_with_decays_of_two_kinds(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad(learning_rate=0.25, scorer_learning_rate=0.5, weight_decay=0.125, scorer_weight_decay=0.75)
    engine, _ = fit(tiny_root, model, tmp_path, max_steps=1, limit_val_batches=0)
    groups = {group["name"]: group for group in engine.trainer.optimizers[0].param_groups}
    for name in ("projection", "knowledge"):
        values = groups[name]
        assert (values["lr"], values["weight_decay"], values["decoupled_weight_decay"]) == (0.25, 0.125, True)
    scorer = groups["scorer"]
    assert (scorer["lr"], scorer["weight_decay"], scorer["decoupled_weight_decay"]) == (0.5, 0.75, False)
    moved = {id(value) for group in groups.values() for value in group["params"]}
    assert moved == {id(value) for value in model.model.reconstruction.parameters()}


def test_one_optimizer_steps_as_the_release_s_two_do() -> None:
    model, twin = narrow_dmad(seed=0, weight_decay=0.5, scorer_weight_decay=0.5), narrow_dmad(seed=0)
    groups = twin.model.reconstruction.parameter_groups()
    two = [
        torch.optim.AdamW([*groups["projection"], *groups["knowledge"]], lr=1e-4, weight_decay=0.5),
        torch.optim.Adam(groups["scorer"], lr=2e-4, weight_decay=0.5),
    ]
    ours: Any = model.configure_optimizers()
    inputs = torch.randn(3, 40, 24).unbind()
    for _ in range(3):
        for head, optimizers in ((model.model.reconstruction, [ours]), (twin.model.reconstruction, two)):
            head.zero_grad()
            head(*inputs).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    for actual, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(actual, expected)


def test_a_checkpoint_says_what_the_abnormal_bank_was_made_of(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad()
    engine = fit_annotated(tiny_root, model, tmp_path, max_epochs=1)
    assert engine.best_model_path is not None
    loaded = Dmad.load_from_checkpoint(engine.best_model_path)
    assert loaded.abnormal_parts == model.abnormal_parts
    assert torch.equal(loaded.model.normal_bank.entries, model.model.normal_bank.entries.cpu())
    assert torch.equal(loaded.model.abnormal_bank.images, model.model.abnormal_bank.images.cpu())


def test_a_resumed_training_with_annotated_defects_goes_on_as_if_it_had_not_stopped(
    tiny_root: Path, tmp_path: Path
) -> None:
    whole = narrow_dmad(seed=4)
    fit_annotated(tiny_root, whole, tmp_path, max_epochs=4)
    half = fit_annotated(tiny_root, narrow_dmad(seed=4), tmp_path, max_epochs=2)
    resumed = narrow_dmad(seed=4)
    data = WithAnnotated(
        root=tiny_root, category=["blue", "green"], train_batch_size=4, eval_batch_size=4, num_workers=0
    )
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=4)
    engine.fit(resumed, datamodule=data, ckpt_path=half.best_model_path)
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], expected), name


def test_another_training_fills_the_banks_anew(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad()
    fit(tiny_root, model, tmp_path, max_epochs=1, limit_val_batches=0)
    before = model.model.normal_bank.entries.clone()
    fit_annotated(tiny_root, model, tmp_path, max_epochs=1, limit_val_batches=0)
    assert not torch.equal(model.model.normal_bank.entries, before)
    assert "annotated" in model.abnormal_parts


def test_training_holds_nothing_of_annotated_patches_afterwards(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad()
    fit_annotated(tiny_root, model, tmp_path, max_epochs=1, limit_val_batches=0)
    assert model._annotated is None


def test_a_model_may_be_without_a_pre_processor(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_dmad(pre_processor=False, image_size=(64, 64))
    fit_annotated(tiny_root, model, tmp_path, max_epochs=1)
    assert "annotated" in model.abnormal_parts


def test_images_are_of_256_pixels_unless_something_says_otherwise() -> None:
    assert Dmad(backbone="resnet18", pre_trained=False).image_size == (256, 256)
    resize = Dmad.configure_pre_processor((32, 64))
    assert narrow_dmad(image_size=None, pre_processor=resize).image_size == (32, 64)


def test_a_checkpoint_of_another_map_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow_dmad(), tmp_path, max_epochs=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"other sigma\..*--model\.sigma=4\.0"):
        Engine(default_root_dir=tmp_path, accelerator="cpu").test(
            narrow_dmad(sigma=1.0), datamodule=datamodule(tiny_root), ckpt_path=engine.best_model_path
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        ({"scorer_learning_rate": -1.0}, "scorer_learning_rate must be greater than 0, got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"scorer_weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"coreset_ratio": 0.0}, "coreset_ratio must be greater than 0 and at most 1, got 0.0"),
        ({"bank_size": 0}, "bank_size must be at least 1 entry, or None for no limit, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"patch_size": 2}, "patch_size must be odd"),
        ({"sigma": -1.0}, "sigma must be at least 0, got -1.0"),
        ({"noise_std": 0.0}, "noise_std must be greater than 0"),
        ({"synthetic_defects": False, "learn_synthetic": True}, "synthetic_defects is False: there are none to learn"),
    ],
    ids=str,
)
def test_bad_arguments_are_early_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow_dmad(**arguments)


def test_a_folder_of_textures_that_is_none_is_an_early_error(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="textures='missing' is not a folder"):
        fit(tiny_root, narrow_dmad(textures="missing"), tmp_path, max_epochs=1)
