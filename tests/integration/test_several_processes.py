# SPDX-License-Identifier: Apache-2.0

"""Two processes on one machine, under Lightning's DDP, train and validate as one process does.

All that two processes do is done by one pair of them, because starting them takes longer than their work.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder, MVTecAD
from made_up_models import datamodule, narrow_crad, narrow_uniad
from made_up_processes import Losses, in_two_processes, make_engine
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from anomalib_crad import FeatureCache, MultiCategory
from anomalib_crad.data import MVTec
from anomalib_crad.models.components.feature_store import FileStore
from anomalib_crad.models.crad.fusion import InvertedResidual

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.data import AnomalibDataModule

    from anomalib_crad import Crad, UniAD

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGES = 16
EPOCHS = 2
STEPS = 2
#: Order of float sums, as the processes' shares are added in another one.
TOLERANCE = 1e-5


class OrderedMVTec(MVTec):
    """MVTec AD whose training images come in order, so that two processes share the batches of one."""

    def train_dataloader(self) -> DataLoader:
        shared: Sampler[int] | None = (
            DistributedSampler(self.train_data, shuffle=False) if distributed.is_initialized() else None
        )
        return DataLoader(self.train_data, self.train_batch_size, sampler=shared, collate_fn=self.train_data.collate_fn)


class NormAcrossProcesses(nn.BatchNorm2d):
    """What ``SyncBatchNorm`` computes, which PyTorch has for GPUs only."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(values)
        moments = torch.stack((values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))))
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        mean, square = (all_reduce(moments) if processes > 1 else moments) / processes
        variance = square - mean.square()
        count = processes * values.numel() // values.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)  # type: ignore[union-attr, arg-type]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        normal = (values - mean[:, None, None]) * torch.rsqrt(variance + self.eps)[:, None, None]
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def crad_with_norms_across_processes(**arguments: Any) -> Crad:  # noqa: ANN401
    """CRAD with such norms; in double precision, because AdamW enlarges what rounding does to small gradients."""
    model = narrow_crad(jitter_probability=0.0, **arguments)
    for block in model.modules():
        if isinstance(block, InvertedResidual):
            for layers in (block.expand, block.depthwise, block.project):
                norm = NormAcrossProcesses(len(layers[1].weight))  # type: ignore[arg-type]
                norm.load_state_dict(layers[1].state_dict())
                layers[1] = norm
    model.model.reconstruction.double()
    model.model.feature_extractor.register_forward_hook(lambda _, __, features: features.double())
    return model


def quiet_crad(**arguments: Any) -> Crad:  # noqa: ANN401
    return narrow_crad(jitter_probability=0.0, **arguments)


def quiet_uniad(**arguments: Any) -> UniAD:  # noqa: ANN401
    return narrow_uniad(dropout=0.0, jitter_probability=0.0, **arguments)


def train(
    folder: Path,
    processes: int,
    data: AnomalibDataModule,
    build: Callable[..., Crad | UniAD] = quiet_uniad,
    *,
    epochs: int = EPOCHS,
    checkpoint: str | None = None,
    cache: FeatureCache | None = None,
    **arguments: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Train a model and say what this process has in the end."""
    losses = Losses()
    callbacks = [losses] if cache is None else [losses, cache]
    engine = make_engine(folder, processes, *callbacks, max_epochs=epochs)
    model = build(seed=5, **arguments)
    engine.fit(model, datamodule=data, ckpt_path=checkpoint)
    return {
        "losses": losses.values,
        "images": losses.images,
        "metrics": {name: float(value) for name, value in engine.trainer.callback_metrics.items() if "AUROC" in name},
        "thresholds": thresholds(model),
        "state": model.model.state_dict(),
        "checkpoint": engine.best_model_path,
    }


def thresholds(model: Crad | UniAD) -> dict[str, float]:
    """Thresholds and ranges of scores."""
    assert model.post_processor is not None
    return {name: float(value) for name, value in model.post_processor.state_dict().items() if value.numel() == 1}


def balanced(root: Path) -> MultiCategory:
    bases = [MVTecAD(root=root, category=name, num_workers=0, train_batch_size=4) for name in ("blue", "green")]
    return MultiCategory(bases, balance="category")


def half_with_masks(root: Path) -> MultiCategory:
    """Fifteen images to validate, of which seven have masks: the two processes cut unequal numbers of batches."""
    other = Folder(
        name="green",
        root=root / "green",
        normal_dir="train/good",
        abnormal_dir="test/scratch",
        normal_test_dir="test/good",
        val_split_mode="same_as_test",
        num_workers=0,
    )
    bases = [MVTecAD(root=root, category="blue", num_workers=0), other]
    return MultiCategory(bases, train_batch_size=4, eval_batch_size=4)


def work(folder: Path, processes: int, root: Path, odd_root: Path) -> dict[str, Any]:
    """All trainings of this file, by one process or together."""
    batch = IMAGES // STEPS // processes

    def ordered() -> OrderedMVTec:
        return OrderedMVTec(root, ["blue", "green"], train_batch_size=batch, eval_batch_size=3, num_workers=0)

    filled: Counter[int] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        rows = FileStore.rows
        patch.setattr(FileStore, "rows", lambda store, trainer: _counted(rows(store, trainer), filled))
        cache = FeatureCache(folder=folder / "cache", memory_gib=0)
        results: dict[str, Any] = {"cached": train(folder / "cached", processes, ordered(), cache=cache)}
        results["again"] = train(folder / "again", processes, ordered(), cache=FeatureCache(folder=folder / "cache"))
    results["filled"] = {**filled}
    results["plain"] = train(folder / "plain", processes, ordered(), feature_cache=False)
    results["norms"] = train(
        folder / "norms", processes, ordered(), crad_with_norms_across_processes, feature_cache=False
    )
    results["crad"] = train(folder / "crad", processes, ordered(), quiet_crad)
    results["shuffled"] = train(folder / "shuffled", processes, datamodule(root), feature_cache=False)
    results["balanced"] = train(folder / "balanced", processes, balanced(root), feature_cache=False)
    results["masks"] = train(folder / "masks", processes, half_with_masks(odd_root))
    if processes > 1:
        noisy: dict[str, Any] = {"data": datamodule(root), "build": narrow_uniad, "lr_step": 1}
        half = train(folder / "half", processes, epochs=1, **noisy)
        results["whole"] = train(folder / "whole", processes, **noisy)
        results["resumed"] = train(folder / "resumed", processes, checkpoint=half["checkpoint"], **noisy)
    return results


def _counted(rows: list[int], filled: Counter[int]) -> list[int]:
    filled.update(rows)
    return rows


@pytest.fixture(scope="module")
def odd_root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd") / tiny_root.name
    shutil.copytree(tiny_root, root)
    (root / "blue" / "test" / "good" / "000.png").unlink()
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(folder: Path, tiny_root: Path, odd_root: Path) -> dict[str, Any]:
    return work(folder / "one", 1, tiny_root, odd_root)


@pytest.fixture(scope="module")
def two(folder: Path, tiny_root: Path, odd_root: Path) -> list[dict[str, Any]]:
    (folder / "two").mkdir()
    return in_two_processes(work, folder / "two", tiny_root, odd_root)


@pytest.mark.parametrize("name", ["cached", "again", "plain", "norms"])
def test_losses_and_weights_are_those_of_one_process_at_twice_the_batch(
    one: dict[str, Any], two: list[dict[str, Any]], name: str
) -> None:
    assert len(one[name]["losses"]) == EPOCHS * STEPS
    assert len(set(one[name]["losses"])) == EPOCHS * STEPS
    for process in two:
        assert process[name]["losses"] == pytest.approx(one[name]["losses"], rel=TOLERANCE)
        for key, value in one[name]["state"].items():
            torch.testing.assert_close(process[name]["state"][key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_without_norms_across_processes_crad_differs_by_batch_statistics_only(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert two[0]["crad"]["losses"] == two[1]["crad"]["losses"]
    assert two[0]["crad"]["losses"] != pytest.approx(one["crad"]["losses"], rel=TOLERANCE)
    assert two[0]["crad"]["losses"] == pytest.approx(one["crad"]["losses"], rel=0.1)


@pytest.mark.parametrize("name", ["cached", "plain", "norms", "masks"])
def test_thresholds_and_metrics_of_both_processes_are_those_of_one(
    one: dict[str, Any], two: list[dict[str, Any]], name: str
) -> None:
    if name != "masks":
        assert two[0][name]["thresholds"] == pytest.approx(one[name]["thresholds"], rel=1e-3)
    assert two[0][name]["thresholds"] == two[1][name]["thresholds"]
    assert two[0][name]["metrics"] == two[1][name]["metrics"]
    assert set(two[0][name]["metrics"]) == set(one[name]["metrics"]) == {"image_AUROC", "pixel_AUROC"}


@pytest.mark.parametrize(("name", "build"), [("crad", quiet_crad), ("masks", quiet_uniad)])
def test_what_two_processes_found_is_what_one_finds_for_their_checkpoint(
    two: list[dict[str, Any]], tiny_root: Path, odd_root: Path, tmp_path: Path, name: str, build: Callable[..., Any]
) -> None:
    data = half_with_masks(odd_root) if name == "masks" else datamodule(tiny_root)
    model, engine = build(), make_engine(tmp_path, 1)
    results = engine.validate(model, datamodule=data, ckpt_path=two[0][name]["checkpoint"])
    assert results == [pytest.approx(two[0][name]["metrics"], abs=1e-6)]
    assert thresholds(model) == pytest.approx(two[0][name]["thresholds"], rel=1e-5)


def test_the_cache_is_one_file_of_which_each_process_fills_its_share(
    one: dict[str, Any], two: list[dict[str, Any]], folder: Path
) -> None:
    assert [sorted(process["filled"]) for process in two] == [list(range(0, IMAGES, 2)), list(range(1, IMAGES, 2))]
    assert set(two[0]["filled"].values()) == {1}, "the second run uses the file again"
    files = [list((folder / name / "cache").iterdir()) for name in ("one", "two")]
    assert [len(found) for found in files] == [1, 1]
    assert files[0][0].name == files[1][0].name
    assert files[0][0].stat().st_size == files[1][0].stat().st_size
    assert not [path for path in folder.rglob("features-*") if path.parent.name != "cache"]
    for process in (one, *two):
        assert process["cached"]["losses"] == process["again"]["losses"]
        assert process["cached"]["losses"] == pytest.approx(process["plain"]["losses"], rel=TOLERANCE)


@pytest.mark.parametrize("name", ["shuffled", "balanced"])
def test_each_image_is_seen_once_in_an_epoch(two: list[dict[str, Any]], name: str) -> None:
    share = IMAGES // 2
    epochs = []
    for epoch in range(EPOCHS):
        seen = [process[name]["images"][epoch * share : (epoch + 1) * share] for process in two]
        assert len(set(seen[0]) | set(seen[1])) == IMAGES
        epochs.append(seen)
    assert epochs[0] != epochs[1], "another order in each epoch"


def test_a_resumed_training_draws_the_noise_that_each_process_would_have_drawn(two: list[dict[str, Any]]) -> None:
    assert two[0]["whole"]["losses"][IMAGES // 8 :] == two[0]["resumed"]["losses"]
    for name, value in two[0]["whole"]["state"].items():
        assert torch.equal(two[0]["resumed"]["state"][name], value), name


@pytest.mark.parametrize("name", ["one_node", "several_nodes"])
def test_the_configurations_hold_the_papers_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base, own = CONFIGS / "mvtec.yaml", CONFIGS / "distributed" / f"{name}.yaml"
    narrow = ["--model.backbone=resnet18", "--model.num_blocks=1", "--model.hidden_channels=16"]
    cli = AnomalibCLI(["train", f"--config={base}", f"--config={own}", *narrow], run=False)
    trainer = cli.config["train"]["trainer"]
    assert trainer["num_nodes"] * int(trainer["devices"]) == 4
    assert (trainer["accelerator"], trainer["strategy"]) == ("gpu", "ddp")
    assert cli.datamodule.train_batch_size == 16
