# SPDX-License-Identifier: Apache-2.0

"""What a model computes in training, from images or from features, and the loss that it is trained with."""

from __future__ import annotations

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional

from anomalib_crad.export.checks import fingerprint
from anomalib_crad.models.components import MultiScaleFeatures, ReconstructionModel, TrainingOutput
from anomalib_crad.models.components.torch_model import reconstruction_loss
from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator


def model() -> ReconstructionModel:
    torch.manual_seed(0)
    features = MultiScaleFeatures("resnet18", [1], (32, 32), pre_trained=False)
    return ReconstructionModel(features, nn.Conv2d(64, 64, kernel_size=1), AnomalyMapGenerator((32, 32)))


def test_training_and_prediction_can_start_from_features() -> None:
    network, images = model(), torch.rand(2, 3, 32, 32)
    features = network.feature_extractor(images)

    output, again = network.train()(images), network.training_output(features)
    assert isinstance(output, TrainingOutput)
    assert isinstance(output.reconstruction, torch.Tensor)
    assert torch.equal(output.reconstruction, network.reconstruction(features))
    assert torch.equal(output.loss, again.loss)
    assert torch.equal(output.loss, functional.mse_loss(output.reconstruction, features))

    prediction, same = network.eval()(images), network.prediction(features)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.anomaly_map is not None
    assert same.anomaly_map is not None
    assert torch.equal(prediction.anomaly_map, same.anomaly_map)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    terms = {"scorer": torch.tensor(1.0), "noise": torch.tensor(2.0), "annotated": torch.tensor(4.0)}
    assert TrainingOutput(torch.zeros(1), None, terms).loss == 7
    assert TrainingOutput(torch.zeros(1), None, {"scorer": torch.tensor(1.0)}).loss == 1


def test_groups_of_layers_are_compared_one_by_one() -> None:
    features, rebuilt = ([torch.randn(2, size, size, size) for size in (3, 5)] for _ in range(2))
    expected = sum(functional.mse_loss(*pair) for pair in zip(features, rebuilt, strict=True))
    torch.testing.assert_close(reconstruction_loss(rebuilt, features), expected)


def test_half_precision_features_are_compared_in_single_precision() -> None:
    features, rebuilt = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = reconstruction_loss(rebuilt, features)
    loss.backward()
    assert torch.equal(loss, functional.mse_loss(rebuilt, features.float()))


def test_the_fingerprint_is_of_the_head_as_it_was_handed_over() -> None:
    network = model()
    assert network.initial_fingerprint == fingerprint(network.reconstruction)
