# SPDX-License-Identifier: Apache-2.0

"""The head, the model around it, and its exported graph, which chooses experts by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_crad.models.hvq_trans.anomaly_map import AnomalyMapGenerator
from anomalib_crad.models.hvq_trans.first_pass import IMAGES_PER_EXPERT, CodebookStart, prepare
from anomalib_crad.models.hvq_trans.torch_model import HVQTransModel, HVQTransReconstruction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

IMAGE_SIZE = (16, 24)
FEATURE_SIZE = (4, 6)
CHANNELS = 8


def narrow_head(**arguments: Any) -> HVQTransReconstruction:  # noqa: ANN401
    options: dict[str, Any] = {
        "in_channels": CHANNELS,
        "feature_size": FEATURE_SIZE,
        "hidden_dim": 8,
        "num_codes": 16,
        "num_heads": 2,
        "num_layers": 2,
        "feedforward_dim": 8,
        "dropout": 0.0,
    }
    return HVQTransReconstruction(**{**options, **arguments})


def narrow_model(**arguments: Any) -> HVQTransModel:  # noqa: ANN401
    """A convolution for a backbone."""
    torch.manual_seed(0)
    backbone: Any = nn.Conv2d(3, CHANNELS, kernel_size=4, stride=4).requires_grad_(requires_grad=False)
    return HVQTransModel(backbone, narrow_head(**arguments), AnomalyMapGenerator(IMAGE_SIZE, score_kernel=4))


class Products:
    """Images of two products, dark ones (24) and bright ones (16), read like a training set."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        level = torch.tensor([-1.0] * 24 + [1.0] * 16).reshape(-1, 1, 1, 1)
        self.images = level + 0.3 * torch.randn(40, 3, *IMAGE_SIZE, generator=generator)
        self.read: list[int] = []

    def __call__(self, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        self.read += list(rows)
        for start in range(0, len(rows), 8):
            yield self.images[list(rows[start : start + 8])]


def prepare_from(
    model: HVQTransModel, products: Products, codebook_start: CodebookStart = "tokens", seed: int = 0
) -> None:
    """Run the first pass on images."""

    def read(rows: Sequence[int]) -> Iterator[torch.Tensor]:
        return (model.feature_extractor(images) for images in products(rows))

    prepare(model, len(products.images), read, codebook_start, seed)


def prepared_model(codebook_start: CodebookStart = "tokens", **arguments: Any) -> tuple[HVQTransModel, Products]:  # noqa: ANN401
    model, products = narrow_model(**{"num_experts": 2, **arguments}), Products()
    prepare_from(model, products, codebook_start)
    return model, products


@pytest.fixture(scope="module")
def trained() -> tuple[HVQTransModel, torch.Tensor]:
    """A model after some steps, and test images of both of its products and of one that it had not."""
    model, products = prepared_model()
    optimizer = torch.optim.AdamW(model.reconstruction.parameters(), lr=1e-2)
    model.train()
    for step in range(10):
        loss = model(products.images[step::5]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = torch.cat([products.images[:2], products.images[-2:], torch.full((1, 3, *IMAGE_SIZE), 9.0)])
    return model.eval(), images


def test_the_published_size_has_as_many_parameters_and_codes_as_counted() -> None:
    head = HVQTransReconstruction(in_channels=272, feature_size=(14, 14), num_experts=15)
    millions = {name: sum(value.numel() for value in part.parameters()) / 1e6 for name, part in head.named_children()}
    assert millions["encoder"] == pytest.approx(3.16, abs=0.01)
    assert millions["decoder"] == pytest.approx(12.62, abs=0.01)
    assert millions["output_projection"] == pytest.approx(2.09, abs=0.01)
    assert sum(millions.values()) == pytest.approx(17.95, abs=0.01)
    codes = sum(codebooks.codes.numel() for codebooks in head.codebooks_by_level())
    assert codes / 1e6 == pytest.approx(17.7, abs=0.05)


def test_every_parameter_gets_a_gradient() -> None:
    head = narrow_head(num_experts=2).train()
    features = torch.randn(3, CHANNELS, *FEATURE_SIZE)
    output = head(features, torch.tensor([0, 1, 1]))
    assert output.transport is None
    (output.reconstruction.square().mean() + output.commitment).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith("key.bias") or parameter.grad.abs().sum() > 0, name


def test_one_expert_need_not_be_named() -> None:
    head = narrow_head().eval()
    features = torch.randn(2, CHANNELS, *FEATURE_SIZE)
    named = head(features, torch.tensor([0, 0]))
    assert torch.equal(head(features).reconstruction, named.reconstruction)
    assert named.transport.shape == (2, 1, *FEATURE_SIZE)


def test_experts_differ_in_codes_and_output_and_images_do_not_meet() -> None:
    head = narrow_head(num_experts=3).eval()
    features = torch.randn(1, CHANNELS, *FEATURE_SIZE).expand(3, -1, -1, -1)
    together = head(features, torch.tensor([0, 1, 2]))
    for expert in range(3):
        alone = head(features[:1], torch.tensor([expert]))
        torch.testing.assert_close(together.reconstruction[expert], alone.reconstruction[0])
        torch.testing.assert_close(together.transport[expert], alone.transport[0])
    assert not torch.allclose(together.reconstruction[0], together.reconstruction[1])


def test_what_is_rebuilt_is_made_of_codes_alone() -> None:
    """Features that differ by less than codes do are rebuilt as the same."""
    head = narrow_head().eval()
    features = torch.randn(1, CHANNELS, *FEATURE_SIZE)
    changed = head(features + 1e-6)
    assert torch.equal(head(features).reconstruction, changed.reconstruction)
    assert not torch.equal(head(features).transport, changed.transport)


def test_quantization_errors_are_those_of_the_deepest_level() -> None:
    head = narrow_head(num_experts=3).eval()
    features = torch.randn(2, CHANNELS, *FEATURE_SIZE)
    errors = head.quantization_errors(features)
    assert errors.shape == (2, 3)
    deepest, codebooks = head.levels(features)[-1], head.codebooks_by_level()[-1]
    for expert in range(3):
        codes = codebooks(deepest, torch.tensor([expert, expert])).values
        torch.testing.assert_close(errors[:, expert], (deepest - codes).square().mean(dim=(1, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_codes": 0}, "num_codes must be at least 1, got 0"),
        ({"hidden_dim": 9}, "hidden_dim must be a multiple of num_heads, got 9 and 2"),
        ({"hidden_dim": 9, "num_heads": 3}, "hidden_dim must be even"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        ({"codebook_decay": 1.0}, "codebook_decay must be at least 0 and less than 1, got 1.0"),
        ({"codebook_epsilon": 0.0}, "codebook_epsilon must be greater than 0, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow_head(**arguments)


def test_features_of_another_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"built for features of 8 x 4 x 6 .* got 8 x 5 x 5"):
        narrow_head()(torch.zeros(1, CHANNELS, 5, 5))


def test_experts_must_be_named_one_for_each_image() -> None:
    head, features = narrow_head(num_experts=2), torch.zeros(3, CHANNELS, *FEATURE_SIZE)
    with pytest.raises(ValueError, match="which of the 2 experts each image belongs to, got None"):
        head(features)
    with pytest.raises(ValueError, match=r"one number for each of 3 images, got shape \(2,\)"):
        head(features, torch.tensor([0, 1]))


def test_training_gives_both_terms_of_the_loss() -> None:
    model, products = prepared_model()
    output = model.train()(products.images[:4])
    assert set(output.losses) == {"reconstruction", "commitment"}
    features = model.feature_extractor(products.images[:4])
    assert torch.equal(output.features, features)
    error = (output.reconstruction - features).square().mean()
    torch.testing.assert_close(output.losses["reconstruction"], error)
    assert output.losses["commitment"] > 0


def test_the_first_pass_finds_experts_and_starts_codebooks_from_their_tokens() -> None:
    model, products = prepared_model()
    assert model.training, "the mode is what it was"
    experts = model.experts(model.feature_extractor(products.images))
    assert experts.tolist() == [0] * 24 + [1] * 16
    assert sorted(products.read[:40]) == list(range(40)), "experts are found from all images"
    assert len(products.read) == 40 + 2 * IMAGES_PER_EXPERT
    head = model.reconstruction.eval()
    levels = head.levels(model.feature_extractor(products.images[24:]))
    codes = head.codebooks_by_level()[-1].codes[1]
    distances = torch.cdist(codes, levels[-1].flatten(0, 1)).amin(dim=1)
    torch.testing.assert_close(distances, torch.zeros(16), rtol=0, atol=1e-4)
    assert all(codebooks.sizes.eq(1).all() for codebooks in head.codebooks_by_level())


def test_codes_from_tokens_stand_for_the_images_better_than_random_ones() -> None:
    errors = {}
    starts: tuple[CodebookStart, ...] = ("tokens", "random")
    for start in starts:
        model, products = prepared_model(start)
        errors[start] = model.eval().rebuild(model.feature_extractor(products.images)).commitment.item()
    assert errors["tokens"] < errors["random"] / 2


def test_random_codebooks_stay_as_they_were_built() -> None:
    model, _ = prepared_model("random")
    assert model.experts.has_images.all()
    for codebooks in model.reconstruction.codebooks_by_level():
        assert not codebooks.started().any()
        assert torch.equal(codebooks.codes, codebooks.sums)


def test_one_expert_needs_no_look_at_all_images() -> None:
    model, products = prepared_model(num_experts=1)
    assert len(products.read) == IMAGES_PER_EXPERT
    assert model.experts(model.feature_extractor(products.images)).sum() == 0


def test_fewer_tokens_than_codes_are_taken_more_than_once() -> None:
    model, _ = prepared_model(num_codes=2 * 40 * 24)
    for codebooks in model.reconstruction.codebooks_by_level():
        assert codebooks.codes.isfinite().all()
        assert len(codebooks.codes[0].unique(dim=0)) == 24 * 24


def test_a_second_first_pass_changes_nothing(trained: tuple[HVQTransModel, torch.Tensor]) -> None:
    model, _ = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare_from(model, Products(), seed=5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_same_seed_gives_the_same_start() -> None:
    one, other = prepared_model()[0].state_dict(), prepared_model()[0].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_expert_without_images_keeps_random_codes_and_is_never_chosen() -> None:
    model, products = narrow_model(num_experts=3), Products()
    products.images[:20], products.images[20:] = -1.0, 1.0
    prepare_from(model, products)
    assert model.experts.has_images.tolist() == [True, True, False]
    assert model.reconstruction.codebooks_by_level()[0].started().tolist() == [True, True, False]
    prediction = model.eval()(torch.randn(20, 3, *IMAGE_SIZE) * 5)
    assert prediction.anomaly_map.isfinite().all()


def test_a_product_that_training_had_not_is_scored_as_abnormal(trained: tuple[HVQTransModel, torch.Tensor]) -> None:
    model, images = trained
    scores = model(images).pred_score
    assert scores.isfinite().all()
    assert scores.argmax() == 4


def test_what_an_evaluation_gives(trained: tuple[HVQTransModel, torch.Tensor]) -> None:
    model, images = trained
    prediction = model(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.pred_score is not None
    assert prediction.anomaly_map is not None
    assert prediction.pred_score.shape == (5,)
    assert prediction.anomaly_map.shape == (5, 1, *IMAGE_SIZE)
    parts = [model(images[number : number + 1]).pred_score for number in range(5)]
    torch.testing.assert_close(torch.cat(parts), prediction.pred_score)


@pytest.mark.slow
def test_the_exported_graph_chooses_experts_by_itself(
    trained: tuple[HVQTransModel, torch.Tensor], tmp_path: Path
) -> None:
    model, images = trained
    assert set(model.experts(model.feature_extractor(images)).tolist()) == {0, 1}
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        (images[:2],),
        path,
        dynamo=True,
        opset_version=18,
        input_names=["input"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (images, images[:1], images[3:]):
        with torch.no_grad():
            expected = model(batch)
        results = compiled(batch.numpy()), dict(enumerate(session.run(None, {"input": batch.numpy()})))
        for result in results:
            np.testing.assert_allclose(result[0], expected.pred_score, rtol=1e-4)
            np.testing.assert_allclose(result[1], expected.anomaly_map, rtol=1e-4, atol=1e-4)
