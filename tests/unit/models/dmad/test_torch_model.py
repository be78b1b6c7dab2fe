# SPDX-License-Identifier: Apache-2.0

"""The head and the whole model: parts of a representation, parameters, gradients, sizes, checkpoints and export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_crad.models.components import MultiScaleFeatures
from anomalib_crad.models.components.torch_model import TrainingOutput
from anomalib_crad.models.dmad.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.dmad.loss import DMADLoss
from anomalib_crad.models.dmad.patches import PatchEmbedding
from anomalib_crad.models.dmad.torch_model import DMADHead, DmadModel, add_noise

if TYPE_CHECKING:
    from pathlib import Path


def narrow(num_normal: int = 30, num_abnormal: int = 20) -> DmadModel:
    """Random features of 32 x 48 images, 8 x 12 patches of 24 numbers."""
    torch.manual_seed(0)
    extractor = MultiScaleFeatures("resnet18", ["layer1", "layer2"], (32, 48), pre_trained=False)
    model = DmadModel(extractor, PatchEmbedding(24), DMADHead(24, 16), AnomalyMapGenerator((32, 48)), DMADLoss())
    patches = model.embed(torch.rand(4, 3, 32, 48)).flatten(0, 1)
    model.normal_bank.fill(patches[torch.randperm(len(patches))[:num_normal]])
    model.abnormal_bank.fill(patches.mean(dim=0) + torch.randn(num_abnormal, 24))
    return model


def triples(count: int = 40, dim: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    patches, normal, abnormal = torch.randn(3, count, dim, generator=torch.Generator().manual_seed(1))
    return patches, normal, abnormal


def test_the_head_is_as_large_as_the_release_s_parts_that_do_something() -> None:
    with torch.device("meta"):
        head = DMADHead()
    sizes = {name: sum(value.numel() for value in group) for name, group in head.parameter_groups().items()}
    assert sizes["projection"] == 1536**2 + 1536
    assert sizes["knowledge"] == 1536**2 + 1536 + 4 * 1536
    assert sizes["scorer"] == 3 * 1536 * 1024 + 1024 + 2 * 1024 + 1024
    assert sum(sizes.values()) / 1e6 == pytest.approx(9.45, abs=0.01)


def test_parameter_groups_hold_every_parameter_once() -> None:
    head = DMADHead(24, 16)
    grouped = [id(value) for group in head.parameter_groups().values() for value in group]
    assert sorted(grouped) == sorted(id(value) for value in head.parameters())


def test_every_parameter_gets_a_gradient() -> None:
    head = DMADHead(24, 16)
    head(*triples()).square().sum().backward()
    assert not [name for name, value in head.named_parameters() if value.grad is None or not value.grad.any()]


def test_initial_values() -> None:
    head = DMADHead(200, 100)
    assert head.get_parameter("projection.weight").std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    assert head.get_parameter("scorer.0.weight").std().item() == pytest.approx((2 / 700) ** 0.5, rel=0.05)
    assert head.knowledge.normal_norm.weight.eq(1).all()


def test_a_representation_is_the_patch_and_what_both_banks_know_of_it() -> None:
    head = DMADHead(24, 16).eval()
    for norm in (head.knowledge.normal_norm, head.knowledge.abnormal_norm):
        torch.nn.init.normal_(norm.get_buffer("running_mean"))
        torch.nn.init.uniform_(norm.weight)
    patches, normal, abnormal = triples()
    moved = patches + head.knowledge.value(patches)
    knowledge = head.knowledge.normal_norm(moved - normal), head.knowledge.abnormal_norm(moved - abnormal)
    expected = torch.cat([head.projection(part) for part in (patches, *knowledge)], dim=1)
    torch.testing.assert_close(head.represent(patches, normal, abnormal), expected)


def test_residuals_are_plain_differences() -> None:
    head = DMADHead(24, 16)
    patches, normal, abnormal = triples()
    expected = torch.cat([head.projection(part) for part in (patches, patches - normal, patches - abnormal)], dim=1)
    torch.testing.assert_close(head.residuals(patches, normal, abnormal), expected)


def test_in_evaluation_a_score_does_not_depend_on_other_patches() -> None:
    head = DMADHead(24, 16)
    head(*triples())
    head.eval()
    whole = head(*triples())
    alone = torch.cat([head(*(part[[index]] for part in triples())) for index in range(40)])
    torch.testing.assert_close(whole, alone)


def test_each_bank_has_its_own_statistics() -> None:
    head = DMADHead(24, 16)
    patches, normal, abnormal = triples()
    head(patches, normal, abnormal + 5)
    norms = (head.knowledge.normal_norm, head.knowledge.abnormal_norm)
    means = [norm.get_buffer("running_mean") for norm in norms]
    torch.testing.assert_close(means[0] - means[1], torch.full((24,), 0.5), atol=0.1, rtol=0)


def test_noise_is_added_alike_to_all_three_parts() -> None:
    representation, noise = torch.rand(5, 12), torch.rand(5, 4)
    added = (add_noise(representation, noise) - representation).unflatten(1, (3, 4))
    torch.testing.assert_close(added, noise[:, None].expand(5, 3, 4))


def test_the_width_of_the_scorer_is_checked() -> None:
    with pytest.raises(ValueError, match="hidden_dim must be at least 1, got 0"):
        DMADHead(24, 0)


def test_the_model_scores_images() -> None:
    model, images = narrow().eval(), torch.rand(2, 3, 32, 48)
    prediction = model(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.pred_score is not None
    assert prediction.anomaly_map is not None
    assert prediction.anomaly_map.shape == (2, 1, 32, 48)
    patches = model.embed(images).flatten(0, 1)
    expected = -model.reconstruction(patches, *model.neighbours(patches))
    torch.testing.assert_close(prediction.pred_score, expected.unflatten(0, (2, -1)).amax(dim=1))


def test_without_annotated_patches_training_compares_normal_and_noisy_ones() -> None:
    model = narrow().train()
    output = model(torch.rand(2, 3, 32, 48))
    assert isinstance(output, TrainingOutput)
    assert set(output.losses) == {"normal", "noisy"}
    assert output.reconstruction is None
    assert output.loss.requires_grad
    assert not output.features.requires_grad  # type: ignore[union-attr]


def test_annotated_patches_share_the_batch_norms_with_normal_ones() -> None:
    """All three kinds in one call of each batch norm, the noise on normal ones only."""
    model = narrow().train()
    patches = model.embed(torch.rand(2, 3, 32, 48))
    annotated = triples(17)
    torch.manual_seed(3)
    output = model.training_output(patches, annotated)

    torch.manual_seed(3)
    noise = 0.015 * torch.randn(192, 24)
    flat = patches.flatten(0, 1)
    together = [torch.cat(both) for both in zip((flat, *model.neighbours(flat)), annotated, strict=True)]
    represented = model.reconstruction.represent(*together)
    noisy = represented[:192] + noise.repeat(1, 3)
    scores = model.reconstruction.score(torch.cat([represented[:192], noisy, represented[192:]]))
    expected = DMADLoss().terms(*scores.split([192, 192, 17]))
    assert set(output.losses) == {"normal", "noisy", "annotated"}
    for name, value in expected.items():
        torch.testing.assert_close(output.losses[name], value)


@pytest.mark.parametrize("noise_std", [0.0, -1.0])
def test_noise_is_checked(noise_std: float) -> None:
    parts = narrow()
    with pytest.raises(ValueError, match="noise_std must be greater than 0"):
        DmadModel(
            parts.feature_extractor,
            parts.embedding,
            parts.reconstruction,
            parts.anomaly_map_generator,
            DMADLoss(),
            noise_std,
        )


def test_neighbours_come_from_their_own_banks() -> None:
    model = narrow()
    patches = model.embed(torch.rand(1, 3, 32, 48)).flatten(0, 1)
    for found, bank in zip(model.neighbours(patches), (model.normal_bank, model.abnormal_bank), strict=True):
        expected = bank.entries[torch.cdist(patches, bank.entries).argmin(dim=1)]
        torch.testing.assert_close(found, expected)


def test_a_model_without_banks_says_so() -> None:
    extractor = MultiScaleFeatures("resnet18", ["layer1"], (32, 32), pre_trained=False)
    model = DmadModel(extractor, PatchEmbedding(8), DMADHead(8, 4), AnomalyMapGenerator((32, 32)), DMADLoss())
    with pytest.raises(ValueError, match=r"memory bank is empty.*Train the model"):
        model.eval()(torch.rand(1, 3, 32, 32))


def test_a_checkpoint_brings_banks_of_its_own_sizes(tmp_path: Path) -> None:
    trained, model = narrow(), narrow(num_normal=3, num_abnormal=7)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    model.load_state_dict(torch.load(tmp_path / "model.pt"))
    images = torch.rand(2, 3, 32, 48)
    assert (len(model.normal_bank), len(model.abnormal_bank)) == (30, 20)
    torch.testing.assert_close(model.eval()(images).pred_score, trained.eval()(images).pred_score)


@pytest.mark.slow
def test_runtimes_agree_on_batches_of_any_size(tmp_path: Path) -> None:
    openvino, onnxruntime = pytest.importorskip("openvino"), pytest.importorskip("onnxruntime")
    model = narrow().eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        (torch.rand(2, 3, 32, 48),),
        path,
        input_names=["input"],
        output_names=["pred_score", "anomaly_map"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        opset_version=18,
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(path)
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 48)
        with torch.no_grad():
            expected = model(images)
        for pred_score, anomaly_map in (
            compiled(images.numpy()).to_tuple(),
            session.run(["pred_score", "anomaly_map"], {"input": images.numpy()}),
        ):
            np.testing.assert_allclose(pred_score, expected.pred_score, atol=1e-5)
            np.testing.assert_allclose(anomaly_map, expected.anomaly_map, atol=1e-5)
