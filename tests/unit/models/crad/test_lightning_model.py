# SPDX-License-Identifier: Apache-2.0

"""Crad in training: epochs, learning rates, clipping, checkpoints, components, bad arguments."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.callbacks import Callback
from made_up_models import Recorder, datamodule, fit
from made_up_models import narrow_crad as narrow
from torchvision.transforms.v2 import Resize

from anomalib_crad import Crad
from anomalib_crad.metrics import CategoryEvaluator
from anomalib_crad.models.components.torch_model import reconstruction_loss
from anomalib_crad.models.crad.memory import LocalMemory

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


@pytest.mark.parametrize(
    ("trainer", "model", "epochs"),
    [
        ({}, {"max_epochs": 2}, 2),
        ({"max_epochs": 1}, {"max_epochs": 3}, 1),
        ({"max_steps": 3}, {"max_epochs": 1}, 1),
        ({"max_epochs": None}, {"max_epochs": 1}, 1),
    ],
    ids=["model", "trainer", "steps", "null"],
)
def test_the_trainers_epochs_win_over_the_models(
    tiny_root: Path, tmp_path: Path, trainer: dict[str, int], model: dict[str, int], epochs: int
) -> None:
    _, recorder = fit(tiny_root, narrow(**model), tmp_path, limit_val_batches=0, **trainer)
    assert len(recorder.rates) == epochs


def test_fifty_epochs_when_nobody_says_otherwise(tiny_root: Path, tmp_path: Path) -> None:
    engine, recorder = fit(tiny_root, narrow(), tmp_path, limit_train_batches=1, limit_val_batches=0)
    assert len(recorder.rates) == engine.trainer.max_epochs == 50
    assert [rate["grids"] for rate in recorder.rates] == pytest.approx([0.1] * 40 + [0.01] * 10)
    assert [rate["networks"] for rate in recorder.rates] == pytest.approx([1e-3] * 40 + [1e-4] * 10)


@pytest.mark.parametrize(("lr_step", "dropped_from"), [(None, 4), (2, 2)])
def test_the_drop_moves_with_the_epochs_or_stands_where_it_was_put(
    tiny_root: Path, tmp_path: Path, lr_step: int | None, dropped_from: int
) -> None:
    model = narrow(lr_step=lr_step, learning_rate=1.0, grid_learning_rate=2.0)
    _, recorder = fit(tiny_root, model, tmp_path, max_epochs=5, limit_train_batches=1, limit_val_batches=0)
    assert [rate["grids"] for rate in recorder.rates] == pytest.approx(
        [2.0] * dropped_from + [0.2] * (5 - dropped_from)
    )


@pytest.mark.parametrize(("trainer", "norm"), [({}, 0.1), ({"gradient_clip_val": 0.01}, 0.01)])
def test_gradients_are_clipped_at_a_tenth_unless_the_trainer_says_otherwise(
    tiny_root: Path, tmp_path: Path, trainer: dict[str, float], norm: float
) -> None:
    _, recorder = fit(tiny_root, narrow(), tmp_path, max_epochs=1, limit_val_batches=0, **trainer)
    assert max(recorder.norms) == pytest.approx(norm, rel=1e-3)


def test_the_optimizer_decays_everything_and_moves_only_the_head(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow(weight_decay=0.5, max_epochs=1)
    engine, _ = fit(tiny_root, model, tmp_path, limit_train_batches=1, limit_val_batches=0)
    groups = engine.trainer.optimizers[0].param_groups
    assert {group["weight_decay"] for group in groups} == {0.5}
    moved = {id(value) for group in groups for value in group["params"]}
    assert moved == {id(value) for value in model.model.reconstruction.parameters()}


def test_loss_learning_rates_and_validation_metrics_are_logged(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow(), tmp_path, max_epochs=1)
    logged = set(engine.trainer.logged_metrics)
    assert {"train_loss_epoch", "learning_rate/grids", "learning_rate/networks"} <= logged
    assert {"image_AUROC", "pixel_AUROC"} <= logged
    assert "train_loss_epoch" in engine.trainer.progress_bar_metrics


def test_a_resumed_training_takes_its_learning_rates_from_its_own_arguments(tiny_root: Path, tmp_path: Path) -> None:
    first, _ = fit(tiny_root, narrow(), tmp_path, max_epochs=1)
    recorder = Recorder()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, callbacks=[recorder])
    engine.fit(narrow(learning_rate=0.5), datamodule=datamodule(tiny_root), ckpt_path=first.best_model_path)
    assert recorder.rates[0]["networks"] == pytest.approx(0.5)


def test_a_checkpoint_of_another_architecture_names_the_arguments_to_give(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow(), tmp_path, max_epochs=1, limit_val_batches=0)
    other = narrow(num_blocks=2, image_size=(64, 64))
    message = r"other image_size, num_blocks\..*--model\.image_size=\[32,32\] --model\.num_blocks=1"
    with pytest.raises(ValueError, match=message):
        Engine(default_root_dir=tmp_path, accelerator="cpu").test(
            other, datamodule=datamodule(tiny_root), ckpt_path=engine.best_model_path
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"memory": "vector_quantization"},
        {"memory": "attention"},
        {"memory": "attention", "local_memory": False, "refinement": False},
        {"global_memory": False, "jitter_probability": 0.0},
    ],
    ids=str,
)
def test_a_model_taken_apart_repeats_and_comes_back_from_its_checkpoint(
    tiny_root: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    model, same = (narrow(seed=3, **arguments) for _ in range(2))
    fit(tiny_root, same, tmp_path / "same", max_epochs=2)
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=2)
    assert engine.best_model_path is not None
    loaded = Crad.load_from_checkpoint(engine.best_model_path)

    images = torch.rand(2, 3, 40, 40)
    expected = model.eval().cpu()(images)
    for other in (same, loaded):
        actual = other.eval().cpu()(images)
        assert torch.equal(actual.anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("memory", "attention"), ("local_memory", False), ("global_memory", False), ("refinement", False)],
)
def test_a_checkpoint_of_a_model_taken_apart_is_for_no_other(
    tiny_root: Path, tmp_path: Path, argument: str, value: str | bool
) -> None:
    engine, _ = fit(tiny_root, narrow(**{argument: value}), tmp_path, max_epochs=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=rf"other {argument}\..*--model\.{argument}={value}"):
        Engine(default_root_dir=tmp_path, accelerator="cpu").test(
            narrow(), datamodule=datamodule(tiny_root), ckpt_path=engine.best_model_path
        )


def test_a_checkpoint_from_before_there_were_kinds_of_memory_loads(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow()
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=1)
    assert engine.best_model_path is not None
    checkpoint = torch.load(engine.best_model_path, weights_only=True)
    for name in ("memory", "local_memory", "global_memory", "refinement", "jitter"):
        del checkpoint["hyper_parameters"][name]
    old = tmp_path / "old.ckpt"
    torch.save(checkpoint, old)

    images = torch.rand(2, 3, 40, 40)
    expected = model.eval().cpu()(images).anomaly_map
    assert torch.equal(Crad.load_from_checkpoint(old).eval()(images).anomaly_map, expected)
    Engine(default_root_dir=tmp_path, accelerator="cpu").test(narrow(), datamodule=datamodule(tiny_root), ckpt_path=old)


def test_the_training_loss_holds_what_the_memory_adds(tiny_root: Path) -> None:
    data = datamodule(tiny_root)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    batch.image = torch.nn.functional.interpolate(batch.image, size=(32, 32))
    model = narrow(memory="vector_quantization").train()
    model.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer is attached
    features, reconstruction, losses = model.model(batch.image)
    added = losses["codebook"]
    assert added > 0
    loss = model.training_step(batch, 0)["loss"]  # type: ignore[index]
    torch.testing.assert_close(loss, reconstruction_loss(reconstruction, features) + added)


def test_every_term_of_the_loss_is_logged_by_name(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow(memory="vector_quantization"), tmp_path, max_epochs=1, limit_val_batches=0)
    logged = engine.trainer.logged_metrics
    terms = logged["train_loss/reconstruction"] + logged["train_loss/codebook"]
    torch.testing.assert_close(logged["train_loss_epoch"], terms)


def old_checkpoint(model: Crad, path: Path) -> Path:
    """What the release before this one wrote: other names in squeeze-and-excite, and ``jitter``."""
    checkpoint = torch.load(path, weights_only=True)
    state_dict = checkpoint["state_dict"]
    for name in list(state_dict):
        old = name.replace(".fc1.", ".gate.1.").replace(".fc2.", ".gate.3.")
        state_dict[old] = state_dict.pop(name)
    checkpoint["hyper_parameters"]["jitter"] = False
    assert [name for name in state_dict if ".gate." in name]
    assert not set(state_dict) >= set(model.state_dict())
    torch.save(checkpoint, path.with_name("old.ckpt"))
    return path.with_name("old.ckpt")


def test_a_checkpoint_of_the_release_before_loads_in_silence_and_resumes(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow(seed=5)
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=1)
    old = old_checkpoint(model, Path(str(engine.best_model_path)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        loaded = Crad.load_from_checkpoint(old)
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(loaded.eval()(images).anomaly_map, model.eval().cpu()(images).anomaly_map)
    loaded.to_torch(tmp_path)

    resumed = {}
    for path in (old, engine.best_model_path):
        model = narrow(seed=5)
        Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=2).fit(
            model, datamodule=datamodule(tiny_root), ckpt_path=path
        )
        resumed[path] = model.model.state_dict()
    first, second = resumed.values()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_state_dict_of_the_release_before_loads_into_the_head() -> None:
    head, other = narrow().model.reconstruction, narrow().model.reconstruction
    old = {name.replace(".fc1.", ".gate.1.").replace(".fc2.", ".gate.3."): v for name, v in head.state_dict().items()}
    assert set(old) != set(head.state_dict())
    other.load_state_dict(old, strict=True)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in head.state_dict().items())


def test_jitter_is_deprecated_and_still_has_its_effect() -> None:
    with pytest.warns(FutureWarning, match=r"jitter=False is deprecated.*--model\.jitter_probability=0"):
        model = narrow(jitter=False)
    memory = model.model.reconstruction.local_memory
    assert isinstance(memory, LocalMemory)
    assert memory.jitter.probability == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        narrow(jitter=True)


def test_another_tag_of_the_backbones_weights_is_no_other_architecture(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow(), tmp_path, max_epochs=1, limit_val_batches=0)
    same = narrow(backbone="resnet18.a1_in1k", layers=("layer1", "layer2"))
    Engine(default_root_dir=tmp_path, accelerator="cpu").test(
        same, datamodule=datamodule(tiny_root), ckpt_path=engine.best_model_path
    )


def test_missing_weights_stop_a_training_before_it_starts(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow(pre_trained=True, weights="missing.pth")
    with pytest.raises(FileNotFoundError, match="missing"):
        fit(tiny_root, model, tmp_path, max_epochs=1)
    assert model.trainer.global_step == 0


def test_a_drop_after_the_end_is_announced(tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fit(tiny_root, narrow(lr_step=9), tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert "lr_step=9 is not before the end (1 epochs): learning rates never drop" in caplog.text


def test_an_export_of_a_head_that_was_loaded_has_pretrained_features(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    expected = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(expected, weights)
    trained = narrow()
    model = narrow(pre_trained=True, weights=weights)
    model.model.reconstruction.load_state_dict(trained.model.reconstruction.state_dict())
    exported = torch.load(model.to_torch(tmp_path), weights_only=False)["model"]
    loaded = exported.model.feature_extractor.backbone.state_dict()
    torch.testing.assert_close(loaded["conv1.weight"], expected["conv1.weight"])


@pytest.mark.parametrize("layers", ["layer1", 2])
def test_one_stage_instead_of_a_list_says_how_to_write_it(layers: str | int) -> None:
    with pytest.raises(TypeError, match="layers must be a list of stages"):
        narrow(layers=layers)


def test_a_training_set_smaller_than_a_batch_trains(tiny_root: Path, tmp_path: Path) -> None:
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, limit_val_batches=0)
    engine.fit(narrow(), datamodule=datamodule(tiny_root, category="blue", train_batch_size=64))
    assert engine.trainer.global_step == 2


@pytest.mark.parametrize(("max_epochs", "validated"), [(3, [2, 3]), (1, [1]), (4, [2, 4])])
def test_the_last_epoch_is_validated_so_that_thresholds_and_checkpoint_are_its_own(
    tiny_root: Path, tmp_path: Path, max_epochs: int, validated: list[int]
) -> None:
    epochs = []

    class Validations(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            epochs.append(trainer.current_epoch + 1)

    engine = Engine(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=max_epochs,
        check_val_every_n_epoch=2,
        callbacks=[Validations()],
    )
    model = narrow()
    engine.fit(model, datamodule=datamodule(tiny_root))

    assert epochs == validated
    assert engine.trainer.check_val_every_n_epoch == 2
    assert engine.best_model_path is not None
    saved = torch.load(engine.best_model_path, weights_only=True)["state_dict"]
    name = "model.reconstruction.fusion.recover.weight"
    assert torch.equal(saved[name], model.state_dict()[name])


def test_components_are_ours_or_the_users() -> None:
    model = narrow()
    assert isinstance(model.evaluator, CategoryEvaluator)
    assert isinstance(model.pre_processor, PreProcessor)
    assert model.input_size == (32, 32)

    other = narrow(image_size=None, pre_processor=PreProcessor(Resize((64, 96))), evaluator=False)
    assert other.input_size == (64, 96)
    assert other.model.reconstruction.feature_shape == (192, 16, 24)
    assert other.evaluator is None
    assert Crad.configure_pre_processor((40, 48))(torch.rand(1, 3, 9, 9)).shape[-2:] == (40, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        ({"grid_learning_rate": -1.0}, "grid_learning_rate must be greater than 0, got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"lr_step": 0}, "lr_step is an epoch and must be at least 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be greater than 0, got nan"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
        ({"image_size": 32}, "image_size must be height and width, two positive whole numbers of pixels, got 32"),
        ({"image_size": (33, 32)}, "image_size 33 x 32 .* does not fit"),
        ({"backbone": "resnet81"}, "not a timm model"),
        ({"layers": ["layer9"]}, "has no stage 'layer9'"),
        ({"jitter_probability": 2.0}, "jitter_probability in"),
        ({"num_blocks": -1}, "num_blocks must be >= 0"),
        ({"local_resolution": 0}, "must be at least 1, got 0"),
        ({"memory": "bank"}, "memory must be one of grid, vector_quantization, attention, got 'bank'"),
        ({"local_memory": False, "global_memory": False}, "local_memory and global_memory are both False"),
    ],
    ids=str,
)
def test_bad_arguments_are_early_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow(**arguments)
