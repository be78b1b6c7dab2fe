# SPDX-License-Identifier: Apache-2.0

"""What is HVQ-Trans' own in training: experts, the first pass, logs, epochs, learning rate, checkpoints, arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback
from made_up_models import datamodule, fit, narrow_hvq_trans

from anomalib_crad import HVQTrans

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer


class StartRecorder(Callback):
    """The head as the first step meets it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, HVQTrans)
        self.state = {name: value.clone() for name, value in pl_module.model.state_dict().items()}


def start_of(root: Path, model: HVQTrans, folder: Path) -> dict[str, torch.Tensor]:
    recorder = StartRecorder()
    engine = Engine(
        default_root_dir=folder, accelerator="cpu", callbacks=[recorder], max_steps=1, limit_val_batches=0, logger=False
    )
    engine.fit(model, datamodule=datamodule(root))
    return recorder.state


def test_there_are_as_many_experts_as_categories_and_each_product_has_its_own(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_hvq_trans(seed=0)
    data = datamodule(tiny_root)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False)
    engine.fit(model, datamodule=data)
    assert model.hparams["num_experts"] == model.model.reconstruction.num_experts == 2
    images = torch.stack([cast("torch.Tensor", data.train_data[row].image) for row in range(len(data.train_data))])
    assert model.pre_processor is not None
    experts = model.model.experts(model.model.feature_extractor(model.pre_processor(images))).tolist()
    categories = data.train_data.samples["category"].tolist()
    assert len(set(zip(categories, experts, strict=True))) == len(set(experts)) == 2


@pytest.mark.parametrize("num_experts", [1, 3])
def test_a_number_of_experts_wins_over_the_datamodule(num_experts: int, tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_hvq_trans(num_experts=num_experts)
    fit(tiny_root, model, tmp_path, max_steps=1, limit_val_batches=0)
    assert model.hparams["num_experts"] == model.model.reconstruction.num_experts == num_experts


def test_one_expert_where_the_datamodule_does_not_say(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_hvq_trans()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_steps=1, limit_val_batches=0)
    engine.fit(model, datamodule=MVTecAD(root=tiny_root, category="blue", train_batch_size=4, num_workers=0))
    assert model.hparams["num_experts"] == model.model.reconstruction.num_experts == 1


def test_a_number_that_is_found_gives_the_model_of_a_number_that_is_given(tiny_root: Path, tmp_path: Path) -> None:
    found = start_of(tiny_root, narrow_hvq_trans(seed=3), tmp_path)
    given = start_of(tiny_root, narrow_hvq_trans(seed=3, num_experts=2), tmp_path)
    assert found.keys() == given.keys()
    for name, value in found.items():
        assert torch.equal(value, given[name]), name


def test_codebooks_start_from_tokens_or_as_random_numbers(tiny_root: Path, tmp_path: Path) -> None:
    tokens = start_of(tiny_root, narrow_hvq_trans(), tmp_path)
    random = start_of(tiny_root, narrow_hvq_trans(codebook_start="random"), tmp_path)
    for level in range(3):
        assert tokens[f"reconstruction.codebooks.{level}.sizes"].eq(1).all()
        assert random[f"reconstruction.codebooks.{level}.sizes"].eq(0).all()
    assert random["experts.has_images"].all()


def test_codes_from_tokens_are_no_training(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_hvq_trans()
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_steps=1, limit_val_batches=0)
    engine.fit(model, datamodule=datamodule(tiny_root))
    model.to_torch(tmp_path / "trained")
    untrained = narrow_hvq_trans(num_experts=2)
    untrained.trainer = engine.trainer
    untrained.on_train_start()
    with pytest.raises(ValueError, match="has not been trained"):
        untrained.to_torch(tmp_path / "untrained")


def test_a_head_that_was_loaded_by_hand_keeps_its_experts_and_codes(
    tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = narrow_hvq_trans()
    trained = {name: torch.rand_like(value) for name, value in model.model.reconstruction.state_dict().items()}
    model.model.reconstruction.load_state_dict(trained)
    start = start_of(tiny_root, model, tmp_path)
    assert model.hparams["num_experts"] == 1
    assert "num_experts stays 1, although there are 2 categories" in caplog.text
    for name, value in trained.items():
        assert torch.equal(start[f"reconstruction.{name}"], value), name


def test_a_checkpoint_says_how_many_experts_there_are(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow_hvq_trans(seed=1), tmp_path, max_epochs=1)
    results = []
    assert engine.best_model_path is not None
    for model in (narrow_hvq_trans(), HVQTrans.load_from_checkpoint(engine.best_model_path)):
        tester = Engine(default_root_dir=tmp_path, accelerator="cpu")
        results.append(tester.test(model, datamodule=datamodule(tiny_root), ckpt_path=engine.best_model_path))
        assert model.hparams["num_experts"] == model.model.reconstruction.num_experts == 2
    assert results[0] == results[1]


def test_a_checkpoint_of_another_number_of_experts_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow_hvq_trans(), tmp_path, max_epochs=1, limit_val_batches=0)
    message = r"other num_experts, num_heads\..*--model\.num_experts=2 --model\.num_heads=2.*HVQTrans\.load_from"
    with pytest.raises(ValueError, match=message):
        Engine(default_root_dir=tmp_path, accelerator="cpu").test(
            narrow_hvq_trans(num_experts=3, num_heads=4),
            datamodule=datamodule(tiny_root),
            ckpt_path=engine.best_model_path,
        )


def test_losses_codes_in_use_and_both_terms_of_the_map_are_logged(tiny_root: Path, tmp_path: Path) -> None:
    engine, _ = fit(tiny_root, narrow_hvq_trans(), tmp_path, max_epochs=1)
    logged = engine.trainer.callback_metrics
    total = logged["train_loss/reconstruction"] + logged["train_loss/commitment"]
    torch.testing.assert_close(logged["train_loss_epoch"], total)
    for level in range(3):
        assert 1 <= logged[f"codes_in_use/level_{level}"] <= 16
    assert logged["distance_median"] > 0
    assert 0 < logged["transport_median"] <= 2 * 80


def test_a_test_logs_what_all_models_log(tiny_root: Path, tmp_path: Path) -> None:
    """The benchmark of anomalib takes no other columns."""
    engine, _ = fit(tiny_root, narrow_hvq_trans(), tmp_path, max_epochs=1)
    (results,) = engine.test(datamodule=datamodule(tiny_root))
    assert set(results) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}


def test_the_weight_of_transport_changes_the_map(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_hvq_trans(transport_weight=5.0)
    fit(tiny_root, model, tmp_path, max_steps=1, limit_val_batches=0)
    features = torch.rand(2, 64 + 128, 4, 4)
    model.eval().cpu()
    with torch.no_grad():
        output = model.model.rebuild(features)
        anomaly_map = model.model.score(features, output).anomaly_map
        distance, cost = model.model.anomaly_map_generator.terms(features, *output[::2])
    assert output.transport is not None
    assert anomaly_map is not None
    torch.testing.assert_close(cost, 5 * output.transport)
    torch.testing.assert_close(anomaly_map[..., 0, 0], (distance + cost)[..., 0, 0])


def test_a_thousand_epochs_when_nobody_says_otherwise_and_a_drop_after_four_fifths(
    tiny_root: Path, tmp_path: Path
) -> None:
    assert narrow_hvq_trans().hparams["max_epochs"] == 1000
    model = narrow_hvq_trans(max_epochs=5)
    _, recorder = fit(tiny_root, model, tmp_path, limit_train_batches=1, limit_val_batches=0)
    assert [rate["networks"] for rate in recorder.rates] == pytest.approx([1e-4] * 4 + [1e-5])


def test_gradients_are_clipped_at_a_tenth(tiny_root: Path, tmp_path: Path) -> None:
    _, recorder = fit(tiny_root, narrow_hvq_trans(), tmp_path, max_epochs=1, limit_val_batches=0)
    assert max(recorder.norms) == pytest.approx(0.1, rel=1e-3)


def test_the_optimizer_decays_everything_and_moves_only_the_head(tiny_root: Path, tmp_path: Path) -> None:
    model = narrow_hvq_trans(weight_decay=0.5, learning_rate=0.25)
    engine, _ = fit(tiny_root, model, tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    (group,) = engine.trainer.optimizers[0].param_groups
    assert (group["weight_decay"], group["initial_lr"]) == (0.5, 0.25)
    assert {id(value) for value in group["params"]} == {id(value) for value in model.model.reconstruction.parameters()}


def test_features_are_of_the_coarsest_stage() -> None:
    assert narrow_hvq_trans(image_size=(32, 48)).model.reconstruction.feature_shape == (64 + 128, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_heads": 3}, "hidden_dim must be a multiple of num_heads, got 8 and 3"),
        ({"codebook_start": "kmeans"}, "codebook_start must be one of tokens, random, got 'kmeans'"),
        ({"transport_weight": -1.0}, "transport_weight must be at least 0, got -1.0"),
    ],
    ids=str,
)
def test_bad_arguments_are_early_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow_hvq_trans(**arguments)


def test_more_experts_than_images_are_an_error_before_the_first_step(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_experts is 40, but there are 16 training images"):
        fit(tiny_root, narrow_hvq_trans(num_experts=40), tmp_path, max_steps=1)
