# SPDX-License-Identifier: Apache-2.0

"""What every model owes to anomalib's engine and command line: defaults, help, seeds, exact resume, checkpoints."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
import yaml
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from lightning.pytorch import Trainer
from made_up_models import OurModel, datamodule, fit, narrow_crad, narrow_dmad, narrow_hvq_trans, narrow_uniad
from omegaconf import OmegaConf

from anomalib_crad import Crad, Dmad, HVQTrans, UniAD
from anomalib_crad import models as rooms

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = Path(__file__).parents[3] / "configs"
NARROW: dict[type[OurModel], Callable[..., OurModel]] = {
    Crad: narrow_crad,
    Dmad: narrow_dmad,
    HVQTrans: narrow_hvq_trans,
    UniAD: narrow_uniad,
}

models = pytest.mark.parametrize("model_class", NARROW, ids=lambda model_class: model_class.__name__)


def save(model: OurModel, folder: Path) -> Path:
    """Write a checkpoint of a model as it is."""
    trainer = Trainer(default_root_dir=folder, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "as_it_is.ckpt")
    return folder / "as_it_is.ckpt"


def defaults(model_class: type[OurModel]) -> dict[str, Any]:
    parameters = inspect.signature(model_class).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


@models
def test_it_is_a_direct_subclass_since_anomalib_lists_no_others(model_class: type[OurModel]) -> None:
    assert AnomalibModule in model_class.__bases__


@pytest.mark.parametrize(
    ("model_class", "configuration"),
    [(Crad, "mvtec.yaml"), (Dmad, "dmad.yaml"), (HVQTrans, "hvq_trans.yaml"), (UniAD, "uniad.yaml")],
)
def test_defaults_are_those_of_the_papers_configuration(model_class: type[OurModel], configuration: str) -> None:
    model = yaml.safe_load((CONFIGS / configuration).read_text(encoding="utf-8"))["model"]
    written, ours = model["init_args"], defaults(model_class)
    assert model["class_path"] == model_class.__name__
    for name, value in written.items():
        default = model_class.default_image_size if name == "image_size" else ours[name]
        assert (list(default) if isinstance(default, tuple) else default) == value, name
    components = {"pre_processor", "post_processor", "evaluator", "visualizer"}
    deprecated = {"jitter"}
    assert set(written) == set(ours) - components - deprecated


@models
def test_help_gives_every_argument_its_meaning_and_its_default(model_class: type[OurModel]) -> None:
    text = inspect.getdoc(model_class)
    assert text is not None
    for name, default in defaults(model_class).items():
        entry = re.search(rf"^ {{4}}{name}: (.*?)(?=^ {{4}}\w|^\w)", text, re.DOTALL | re.MULTILINE)
        assert entry, f"{name} has no entry"
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"Defaults to ``{shown}``" in entry[1], name


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_configurations_name_command_hardware_time_and_score(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("\n\n", maxsplit=1)[0].lower()
    assert all(word in header for word in ("command:", "hardware", "time", "score")), path.name


@models
def test_the_same_seed_gives_the_same_model_and_another_one_another(
    model_class: type[OurModel], tiny_root: Path, tmp_path: Path
) -> None:
    def trained(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # what was drawn before must not matter
        model = NARROW[model_class](seed=seed)
        fit(tiny_root, model, tmp_path, max_epochs=2, limit_val_batches=0)
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    first = trained(1)
    assert torch.equal(trained(1), first)
    assert not torch.equal(trained(2), first)


@models
def test_building_with_a_seed_leaves_other_random_numbers_alone(model_class: type[OurModel]) -> None:
    before = torch.get_rng_state()
    NARROW[model_class](seed=9)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model_class", "check_val_every_n_epoch"), [(Crad, 1), (Crad, 2), (Dmad, 1), (HVQTrans, 2), (UniAD, 2)]
)
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(
    model_class: type[OurModel], tiny_root: Path, tmp_path: Path, check_val_every_n_epoch: int
) -> None:
    def trained(max_epochs: int, checkpoint: str | None = None) -> tuple[Engine, dict[str, torch.Tensor]]:
        torch.rand(max_epochs)  # another process has drawn other random numbers
        model = NARROW[model_class](seed=4)
        engine = Engine(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_epochs=max_epochs,
            check_val_every_n_epoch=check_val_every_n_epoch,
        )
        engine.fit(model, datamodule=datamodule(tiny_root), ckpt_path=checkpoint)
        return engine, model.model.state_dict()

    _, whole = trained(4)
    half, _ = trained(2)
    again, resumed = trained(4, checkpoint=half.best_model_path)

    assert again.trainer.current_epoch == 4
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name


@models
def test_a_checkpoint_holds_what_a_prediction_needs(
    model_class: type[OurModel], tiny_root: Path, tmp_path: Path
) -> None:
    """Another machine has neither the weights' file nor a hub, and gets the same prediction."""
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), weights)
    model = NARROW[model_class](pre_trained=True, weights=weights)
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=1)
    weights.unlink()

    assert engine.best_model_path is not None
    loaded = model_class.load_from_checkpoint(engine.best_model_path)

    images = torch.rand(2, 3, 50, 60)
    expected, actual = model.eval().cpu()(images), loaded.eval()(images)
    torch.testing.assert_close(actual.pred_score, expected.pred_score)
    torch.testing.assert_close(actual.anomaly_map, expected.anomaly_map)
    assert loaded.hparams["weights"] == str(weights)
    assert loaded.hparams["layers"] == ["layer1", "layer2"]


@models
def test_lists_of_omegaconf_become_plain_ones(model_class: type[OurModel]) -> None:
    """They would make a checkpoint that anomalib cannot load."""
    lists: dict[str, Any] = {"layers": ["layer1"], "image_size": [32, 64]}
    if model_class is UniAD:
        lists["neighbor_size"] = [3, 5]
    config = OmegaConf.create(lists)
    model = NARROW[model_class](**{name: config[name] for name in lists})
    for name, value in lists.items():
        assert type(model.hparams[name]) is list
        assert model.hparams[name] == value


@models
@pytest.mark.parametrize("export", ["to_torch", "to_onnx", "to_openvino"])
def test_a_model_that_was_never_trained_is_not_exported(
    model_class: type[OurModel], export: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"This {model_class.__name__} has not been trained"):
        getattr(NARROW[model_class](), export)(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory", ["grid", "attention"])
def test_nothing_in_the_head_counts_batches_and_yet_it_is_known_to_be_untrained(memory: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="This Crad has not been trained"):
        narrow_crad(num_blocks=0, memory=memory).to_torch(tmp_path)


@models
def test_a_checkpoint_without_a_step_is_not_exported(model_class: type[OurModel], tmp_path: Path) -> None:
    path = save(NARROW[model_class](), tmp_path)
    with pytest.raises(ValueError, match="has not been trained"):
        model_class.load_from_checkpoint(path).to_torch(tmp_path)


@models
def test_one_step_is_a_training(model_class: type[OurModel], tiny_root: Path, tmp_path: Path) -> None:
    model = NARROW[model_class]()
    names, parameters = list(model.state_dict()), len(list(model.parameters()))
    fit(tiny_root, model, tmp_path, max_steps=1, limit_val_batches=0)
    model_class.load_from_checkpoint(save(model, tmp_path)).to_torch(tmp_path / "from_checkpoint")
    path = model.to_torch(tmp_path)
    exported = torch.load(path, weights_only=False)["model"]
    assert (list(exported.state_dict()), len(list(exported.parameters()))) == (names, parameters)
    assert exported.initial_fingerprint is None
    exported.to_torch(tmp_path / "again")


@models
def test_weights_that_were_loaded_by_hand_are_a_training(model_class: type[OurModel], tmp_path: Path) -> None:
    """The authors', say; and so are they in a checkpoint, which has no step."""
    trained, model = NARROW[model_class](), NARROW[model_class]()
    model.model.reconstruction.load_state_dict(trained.model.reconstruction.state_dict())
    path = save(model, tmp_path)
    model.to_torch(tmp_path)
    model_class.load_from_checkpoint(path).to_torch(tmp_path)


@pytest.mark.parametrize("model_class", [Crad, UniAD])
def test_a_single_loss_is_logged_once(model_class: type[OurModel], tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, NARROW[model_class](), tmp_path, max_epochs=1, limit_val_batches=0)
    assert [name for name in engine.trainer.logged_metrics if name.startswith("train_loss")] == [
        "train_loss_step",
        "train_loss_epoch",
    ]


def test_the_models_are_public_names_of_their_room() -> None:
    assert {"Crad", "HVQTrans", "UniAD"} <= set(dir(rooms))
    assert (rooms.Crad, rooms.HVQTrans, rooms.UniAD) == (Crad, HVQTrans, UniAD)
    with pytest.raises(AttributeError, match="has no attribute 'Padim'"):
        rooms.Padim  # noqa: B018
