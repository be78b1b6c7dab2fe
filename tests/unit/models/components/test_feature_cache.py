# SPDX-License-Identifier: Apache-2.0

"""The cache of features: the same training, fewer images decoded, files whole or not at all, and stepping aside."""

from __future__ import annotations

import fcntl
import logging
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback
from made_up_models import datamodule, narrow_crad, narrow_uniad
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_crad import MultiCategory
from anomalib_crad.models.components import feature_store
from anomalib_crad.models.components.feature_cache import FeatureCache, first_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from anomalib.data import AnomalibDataModule
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad import Crad, UniAD

EPOCHS = 3
IMAGES = 16


class Losses(Callback):
    """Training losses of all steps."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, torch.Tensor], *_: object
    ) -> None:
        self.values.append(outputs["loss"].item())


class Run(NamedTuple):
    """What came of a training."""

    losses: list[float]
    model: Crad | UniAD
    decoded: int


def run(
    tmp_path: Path,
    data: AnomalibDataModule,
    build: Callable[..., Crad | UniAD] = narrow_crad,
    callbacks: tuple[Callback, ...] = (),
    trainer: dict[str, Any] | None = None,
    **arguments: Any,  # noqa: ANN401
) -> Run:
    """Train for a few epochs, and count how often a training image is decoded."""
    losses, decoded = Losses(), []
    data.prepare_data()
    data.setup()
    original = type(data.train_data).__getitem__

    def counted(dataset: Any, index: int) -> Any:  # noqa: ANN401
        decoded.append(index)
        return original(dataset, index)

    options = {"max_epochs": EPOCHS, "limit_val_batches": 0, "logger": False, **(trainer or {})}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", callbacks=[losses, *callbacks], **options)
    model = build(seed=5, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(data.train_data), "__getitem__", counted)
        engine.fit(model, datamodule=data)
    return Run(losses.values, model, len(decoded))


@pytest.mark.parametrize("build", [narrow_crad, narrow_uniad])
def test_a_training_with_the_cache_is_the_training_without(
    tiny_root: Path, tmp_path: Path, build: Callable[..., Crad | UniAD]
) -> None:
    cached = run(tmp_path, datamodule(tiny_root), build)
    plain = run(tmp_path, datamodule(tiny_root), build, feature_cache=False)

    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert len(set(cached.losses)) == len(cached.losses)
    assert cached.decoded == IMAGES
    assert plain.decoded == EPOCHS * IMAGES
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], value, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_it_works_with_balanced_categories_workers_and_anomalibs_own_datamodules(
    tiny_root: Path, tmp_path: Path
) -> None:
    bases = [MVTecAD(root=tiny_root, category=name, num_workers=1, train_batch_size=4) for name in ("blue", "green")]
    balanced = run(tmp_path, MultiCategory(bases, balance="category"))
    single = run(tmp_path, MVTecAD(root=tiny_root, category="blue", num_workers=0, train_batch_size=4))

    assert len(balanced.losses) == EPOCHS * IMAGES // 4
    assert single.decoded == IMAGES // 2


def test_a_file_is_used_again_by_the_same_training_only(
    tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    first = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(folder=folder),))
    again = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(folder=folder),))
    other = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(folder=folder),), image_size=(64, 64))

    assert (first.decoded, again.decoded, other.decoded) == (IMAGES, 0, IMAGES)
    assert first.losses == again.losses
    assert len(list(folder.iterdir())) == 2

    changed = tmp_path / "changed"
    shutil.copytree(tiny_root, changed / tiny_root.name)
    image = next((changed / tiny_root.name / "blue" / "train" / "good").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    assert (
        run(tmp_path, datamodule(changed / tiny_root.name), callbacks=(FeatureCache(folder=folder),)).decoded == IMAGES
    )

    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-4])
    with caplog.at_level(logging.WARNING):
        cut = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(folder=folder),))
    assert "is not complete and is written again" in caplog.text
    assert cut.decoded == IMAGES
    assert cut.losses == first.losses


def test_a_file_of_the_run_is_gone_when_training_ends(tiny_root: Path, tmp_path: Path) -> None:
    in_file = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(memory_gib=0),))
    in_memory = run(tmp_path, datamodule(tiny_root))

    assert in_file.losses == in_memory.losses
    assert in_file.decoded == IMAGES
    assert not list(tmp_path.rglob("features-*"))


def test_a_full_disk_leaves_the_training_without_cache_and_no_file(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_store: object, features: Iterable[object]) -> None:
        assert len(list(features)) == IMAGES // 4
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(feature_store.FileStore, "_write", full)
    trained = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(folder=tmp_path / "cache"),))
    assert "not cached: No space left on device" in caplog.text
    assert trained.decoded == IMAGES * (EPOCHS + 1)
    assert not list((tmp_path / "cache").iterdir())

    monkeypatch.undo()
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    assert run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(memory_gib=0),)).decoded == IMAGES * EPOCHS
    assert "0.0 GiB free" in caplog.text


def test_half_precision_stores_rounded_features(tiny_root: Path, tmp_path: Path) -> None:
    exact = run(tmp_path, datamodule(tiny_root))
    rounded = run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(half_precision=True),))

    assert rounded.losses != exact.losses
    assert rounded.losses == pytest.approx(exact.losses, rel=1e-2)


@pytest.mark.parametrize(
    ("data", "trainer", "reason"),
    [
        ({"train_augmentations": v2.RandomHorizontalFlip()}, {}, "RandomHorizontalFlip of train_augmentations"),
        ({}, {"max_epochs": 1}, "reads no image twice"),
        ({}, {"limit_train_batches": 2}, "reads no image twice"),
        ({}, {"max_steps": 4}, "reads no image twice"),
        ({}, {"fast_dev_run": True}, "reads no image twice"),
    ],
)
def test_it_steps_aside_and_says_why(
    tiny_root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    data: dict[str, Any],
    trainer: dict[str, Any],
    reason: str,
) -> None:
    with caplog.at_level(logging.INFO, logger="anomalib_crad"):
        trained = run(tmp_path, datamodule(tiny_root, **data), trainer=trainer)

    assert reason in caplog.text
    assert trained.decoded != IMAGES or trained.losses == trained.losses[: IMAGES // 4]


def test_it_steps_aside_for_dataloaders(tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = datamodule(tiny_root)
    data.setup()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, logger=False, limit_val_batches=0)
    loader = DataLoader(data.train_data, batch_size=4, collate_fn=data.train_data.collate_fn)

    with caplog.at_level(logging.INFO, logger="anomalib_crad"):
        engine.fit(narrow_crad(), train_dataloaders=loader)

    assert "the trainer was given dataloaders" in caplog.text


def test_transforms_that_are_known_to_repeat() -> None:
    repeats = v2.Compose([v2.Resize(8), v2.Compose([v2.CenterCrop(4)]), v2.Normalize([0.5], [0.5])])
    assert first_random(None) is None
    assert first_random(repeats) is None
    assert first_random(v2.Compose([repeats, v2.ColorJitter()])) == "ColorJitter"


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory_gib must be at least 0, got -1"):
        FeatureCache(memory_gib=-1)


def test_features_too_large_for_half_precision_are_an_error() -> None:
    store = feature_store.MemoryStore((1, 1, 1, 1), torch.float16)
    with pytest.raises(ValueError, match="too large for 16 bits"):
        store.fill(None, [([0], torch.tensor(np.full((1, 1, 1, 1), 1e6)))])  # type: ignore[arg-type]


def test_leftovers_of_killed_runs_are_removed_and_files_that_others_write_are_not(
    tiny_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    left, written = folder / "features-0.1.unfinished", folder / "features-0.2.unfinished"
    left.touch()
    with written.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run(tmp_path, datamodule(tiny_root), callbacks=(FeatureCache(folder=folder),))
        assert not left.exists()
        assert written.exists()
    assert len(list(folder.glob("*.bin"))) == 1


def test_a_resumed_training_uses_the_kept_file(tiny_root: Path, tmp_path: Path) -> None:
    cache = FeatureCache(folder=tmp_path / "cache")
    options: dict[str, Any] = {"default_root_dir": tmp_path, "accelerator": "cpu", "callbacks": [cache]}
    first = Engine(max_epochs=2, **options)
    first.fit(narrow_crad(seed=5), datamodule=datamodule(tiny_root))
    Engine(max_epochs=3, **options).fit(
        narrow_crad(seed=5), datamodule=datamodule(tiny_root), ckpt_path=first.best_model_path
    )
    assert len(list((tmp_path / "cache").iterdir())) == 1
