# SPDX-License-Identifier: Apache-2.0

"""Our datamodules inside anomalib: Engine, get_datamodule, and the command line's parser.

The model is anomalib's own and tiny: what is tested is that pictures of different categories do not overwrite each
other, that every way in which anomalib makes a datamodule makes ours, and that two processes share the images.
"""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import anomalib.data
import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder, ImageBatch, MVTecAD, get_datamodule
from anomalib.engine import Engine
from anomalib.models import Padim
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf
from PIL import Image
from torch import multiprocessing

from anomalib_crad.data.elpv import Elpv
from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.data.mvtec import MVTec

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two products with the same file names, in MVTec AD's layout."""
    rng = np.random.default_rng(0)
    root = tmp_path / "products"
    for category in ("cap", "nut"):
        for folder, count in (("train/good", 6), ("test/good", 3), ("test/hole", 3), ("ground_truth/hole", 3)):
            (root / category / folder).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(root / category / folder / f"{index:03}.png")
    return root


def tiny_run(datamodule: AnomalibDataModule, tmp_path: Path) -> tuple[Padim, Engine]:
    """Train and test a small PaDiM."""
    pre_processor = Padim.configure_pre_processor(image_size=(64, 64))
    model = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=8, pre_processor=pre_processor)
    engine = Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)
    engine.train(model, datamodule=datamodule)
    return model, engine


def pictures_of(datamodule: AnomalibDataModule, tmp_path: Path) -> list[Path]:
    """Train and test a small PaDiM; return the saved pictures."""
    tiny_run(datamodule, tmp_path)
    return sorted((tmp_path / "results").glob("**/images/**/*.png"))


def test_pictures_of_categories_do_not_overwrite_each_other(root: Path, tmp_path: Path) -> None:
    datamodule = MVTec(root=root, category=["cap", "nut"], num_workers=0)
    pictures = pictures_of(datamodule, tmp_path)
    assert len(pictures) == 2 * 6
    assert {picture.parts[-4] for picture in pictures} == {"cap", "nut"}
    assert "Padim/products" in str(pictures[0])


def test_one_category_has_a_results_folder_of_its_own(root: Path, tmp_path: Path) -> None:
    pictures = pictures_of(MVTec(root=root, category="cap", num_workers=1), tmp_path)
    assert len(pictures) == 6
    assert "Padim/products/cap" in str(pictures[0])


def test_solar_cells_run_without_masks(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    pictures = pictures_of(Elpv(max_train_images=6, max_test_images=4, num_workers=0), tmp_path)
    assert len(pictures) == 2 * 4
    assert "Padim/Elpv" in str(pictures[0])


def with_and_without_masks(root: Path, **arguments: Any) -> MultiCategory:  # noqa: ANN401
    """Cap has masks, nut has none."""
    with_masks = MVTecAD(root=root, category="cap", num_workers=0)
    without = Folder(
        name="nut",
        root=root / "nut",
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/hole",
        val_split_mode="same_as_test",
        num_workers=0,
    )
    return MultiCategory([with_masks, without], eval_batch_size=4, **arguments)


def test_pixel_metrics_of_a_mixed_set_are_those_of_the_categories_with_masks(root: Path, tmp_path: Path) -> None:
    mixed = with_and_without_masks(root)
    model, engine = tiny_run(mixed, tmp_path)
    pixels = engine.trainer.callback_metrics["pixel_AUROC"]
    mixed.test_data.samples = mixed.test_data.samples.query("category == 'cap'")
    alone = engine.test(model, dataloaders=mixed.test_dataloader())[0]
    assert float(pixels) == pytest.approx(alone["pixel_AUROC"])


@pytest.mark.parametrize("as_omegaconf", [False, True])
def test_get_datamodule(monkeypatch: pytest.MonkeyPatch, root: Path, as_omegaconf: bool) -> None:
    monkeypatch.setattr(anomalib.data, "MVTec", MVTec, raising=False)
    config: Any = {"class_path": "MVTec", "init_args": {"root": str(root), "category": ["cap", "nut"]}}
    datamodule = get_datamodule(OmegaConf.create(config) if as_omegaconf else copy.deepcopy(config))
    datamodule.setup()
    assert isinstance(datamodule, MVTec)
    assert datamodule.categories == ("cap", "nut")


@pytest.mark.parametrize("as_omegaconf", [False, True])
def test_get_datamodule_with_a_base_and_nested_ones(
    monkeypatch: pytest.MonkeyPatch, root: Path, as_omegaconf: bool
) -> None:
    monkeypatch.setattr(anomalib.data, "MultiCategory", MultiCategory, raising=False)
    init_args = {"base": "MVTecAD", "categories": ["cap"], "base_args": {"root": str(root), "num_workers": 0}}
    nested = [
        {"class_path": "MultiCategory", "init_args": init_args},
        {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(root), "category": "nut", "num_workers": 0}},
    ]
    for arguments, expected in ((init_args, ("cap",)), ({"datamodules": nested}, ("cap", "nut"))):
        config: Any = {"class_path": "MultiCategory", "init_args": arguments}
        datamodule = get_datamodule(OmegaConf.create(config) if as_omegaconf else copy.deepcopy(config))
        datamodule.setup()
        assert isinstance(datamodule, MultiCategory)
        assert datamodule.categories == expected


def parse(*arguments: str) -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    return parser, parser.parse_args(list(arguments))


@pytest.mark.parametrize("name", ["MVTec", "anomalib_crad.data.mvtec.MVTec"])
@pytest.mark.parametrize(
    ("category", "expected"), [("[cap,nut]", ("cap", "nut")), ('["cap"]', ("cap",)), ("nut", ("nut",))]
)
def test_command_line_and_its_saved_config(
    root: Path, tmp_path: Path, name: str, category: str, expected: tuple[str, ...]
) -> None:
    parser, config = parse("--data", name, "--data.root", str(root), "--data.category", category)
    (tmp_path / "config.yaml").write_text(parser.dump(config), encoding="utf-8")
    for each in (config, parse("--config", str(tmp_path / "config.yaml"))[1]):
        datamodule = parser.instantiate_classes(each).data
        assert isinstance(datamodule, MVTec)
        assert datamodule.categories == expected


def test_command_line_of_elpv() -> None:
    pytest.importorskip("elpv_dataset")
    parser, config = parse("--data", "Elpv", "--data.category", "[poly]", "--data.max_train_images", "10")
    datamodule = parser.instantiate_classes(config).data
    assert isinstance(datamodule, Elpv)
    assert datamodule.categories == ("poly",)


def test_merged_datamodules_from_yaml(root: Path, tmp_path: Path) -> None:
    each = [
        {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(root), "category": category}}
        for category in ("cap", "nut")
    ]
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml({"data": {"class_path": "MultiCategory", "init_args": {"datamodules": each}}}))
    parser, config = parse("--config", str(path))
    datamodule = parser.instantiate_classes(config).data
    assert isinstance(datamodule, MultiCategory)
    assert datamodule.categories == ("cap", "nut")


@pytest.mark.parametrize(
    ("base", "categories", "expected"),
    [
        ("Visa", "all", 12),
        ("RealIAD", "all", 30),
        ("Kolektor", "all", ("Kolektor",)),
        ("BTech", "[01,03]", ("01", "03")),
        ("BTech", "02", ("02",)),
        ("MPDD", "tubes", ("tubes",)),
        ("MVTecLOCO", '["pushpins", "screw_bag"]', ("pushpins", "screw_bag")),
    ],
)
def test_command_line_of_a_base_and_its_saved_config(
    tmp_path: Path, base: str, categories: str, expected: tuple[str, ...] | int
) -> None:
    arguments = ["--data", "MultiCategory", "--data.base", base, "--data.categories", categories]
    arguments += ["--data.base_args.root", "./x", "--data.base_args.seed", "3", "--data.balance", "category"]
    parser, config = parse(*arguments)
    (tmp_path / "config.yaml").write_text(parser.dump(config), encoding="utf-8")
    for each in (config, parse("--config", str(tmp_path / "config.yaml"))[1]):
        datamodule = parser.instantiate_classes(each).data
        assert isinstance(datamodule, MultiCategory)
        assert datamodule.categories == expected or len(datamodule.categories) == expected
        assert {(one.seed, str(vars(one)["root"])) for one in datamodule.datamodules.values()} == {(3, "x")}
        assert datamodule.balance == "category"


def test_command_line_of_a_users_own_products(root: Path) -> None:
    folders = {"root": str(root), "normal_dir": "train/good", "abnormal_dir": "[test/hole]", "val_split_ratio": "0.4"}
    arguments = [f"--data.base_args.{name}={value}" for name, value in folders.items()]
    parser, config = parse("--data", "MultiCategory", "--data.base", "Folder", *arguments)
    datamodule = parser.instantiate_classes(config).data
    assert datamodule.categories == ("cap", "nut")
    assert datamodule.datamodules["nut"].abnormal_dir == ["test/hole"]
    assert datamodule.datamodules["nut"].val_split_ratio == pytest.approx(0.4)


def test_wrong_names_on_the_command_line_are_explained() -> None:
    for arguments, message in (
        (["--data.base", "Vsia"], "Unknown `base`: 'Vsia'. Known: AutoVI"),
        (["--data.base", "Visa", "--data.base_args.rot", "x"], "Visa takes no `rot`"),
        (["--data.base", "Visa", "--data.categories", "pbc1"], "Unknown `categories`: 'pbc1'"),
    ):
        parser, config = parse("--data", "MultiCategory", *arguments)
        with pytest.raises(ValueError, match=message):
            parser.instantiate_classes(config)


@pytest.mark.parametrize(
    ("name", "categories", "all_folders"), [("visa", 12, False), ("own_products", 2, False), ("own_products", 2, True)]
)
def test_data_of_our_configurations(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, categories: int, all_folders: bool
) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    if all_folders:  # as the header says for products that have them
        text = text.replace("# normal_test_dir:", "normal_test_dir:").replace("# mask_dir:", "mask_dir:")
    data = OmegaConf.to_container(OmegaConf.create(text))["data"]  # type: ignore[call-overload, index]
    path = tmp_path / "data.yaml"
    path.write_text(OmegaConf.to_yaml({"data": data}))
    for product in root.iterdir():
        (product / "train" / "good").rename(product / "good")
        (product / "test" / "hole").rename(product / "defective")
        (product / "test" / "good").rename(product / "good_test")
        (product / "ground_truth" / "hole").rename(product / "masks")
    monkeypatch.chdir(root.parent)  # the configuration reads ./products
    parser, config = parse("--config", str(path), "--data.num_workers", "0")
    datamodule = parser.instantiate_classes(config).data
    assert len(datamodule.categories) == categories
    if name == "own_products":
        datamodule.setup()
        assert set(datamodule.test_data.samples["category"]) == {"cap", "nut"}
        assert set(datamodule.test_data.samples["label_index"]) == {0, 1}
        assert (datamodule.test_data.samples["has_mask"] == all_folders).all()


class Spy(LightningModule):
    """Write down which images each step of this process sees, and whether they have masks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, list[str], bool]] = []

    def _note(self, step: str, batch: ImageBatch) -> None:
        self.seen.append((step, list(batch.image_path or ()), batch.gt_mask is not None))

    def training_step(self, batch: ImageBatch) -> torch.Tensor:
        self._note("train", batch)
        return (self.weight * torch.as_tensor(batch.image).mean()).sum()

    def validation_step(self, batch: ImageBatch) -> None:
        self._note("val", batch)

    def test_step(self, batch: ImageBatch) -> None:
        self._note("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def take_part(rank: int, root: Path, out: Path, port: int) -> None:
    """Train, validate and test in one of two processes; write down what it saw."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    torch.manual_seed(rank)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    spy = Spy()
    datamodule = with_and_without_masks(root, balance="category", train_batch_size=4)
    trainer.fit(spy, datamodule=datamodule)
    trainer.test(spy, datamodule=datamodule)
    (out / f"{rank}.json").write_text(json.dumps(spy.seen), encoding="utf-8")


def test_two_processes_share_the_images_and_mix_no_masks(root: Path, tmp_path: Path) -> None:
    for surplus in sorted((root / "nut" / "train" / "good").iterdir())[2:]:
        surplus.unlink()
    multiprocessing.spawn(take_part, (root, tmp_path, find_free_network_port()), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    for step in ("val", "test"):
        mine, others = (images(seen, step) for seen in (first, second))
        assert len(mine) == len(others) == 6
        assert not set(mine) & set(others)
    for step, paths, has_mask in (*first, *second):
        assert step == "train" or {"cap" in Path(path).parts for path in paths} == {has_mask}
    trained = Counter("cap" in Path(path).parts for seen in (first, second) for path in images(seen, "train"))
    assert trained == {True: 4, False: 4}


def images(seen: list[tuple[str, list[str], bool]], step: str) -> list[str]:
    return [path for name, paths, _ in seen if name == step for path in paths]


@pytest.mark.parametrize("name", ["MVTec", "Elpv", "MultiCategory"])
def test_help_explains_every_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(f"--data.help={name}")
    shown = capsys.readouterr().out
    assert "Images in a training batch" in shown
    assert "--data._" not in shown
    assert all("  " in line for line in shown.splitlines() if line.strip().startswith("--data.train"))
