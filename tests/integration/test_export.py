# SPDX-License-Identifier: Apache-2.0

"""Exported models say what the checkpoint says, in every runtime, for images of any size, from anomalib's commands."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import PredictDataset
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import Padim
from lightning.pytorch import Trainer
from PIL import Image

from anomalib_crad import Crad, MVTec, UniAD
from anomalib_crad.export import exportable, read_thresholds
from anomalib_crad.export.checks import scores_left_raw
from anomalib_crad.export.cleanup import module_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]

pytestmark = pytest.mark.slow

OUTPUTS = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
SIZES = [(32, 32), (64, 64), (45, 90), (20, 24)]
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # by default OpenVINO uses bfloat16 on processors that have it
#: What the trainer says that anomalib's engine makes.
LIGHTNING = ("GPU available", "TPU available", "💡 Tip")
#: Modules whose weights 8 bits do not spoil.
IN_8_BITS = {
    "Crad": ("model.reconstruction.fusion.blocks.",),
    "UniAD": ("model.reconstruction.encoder.", "model.reconstruction.decoder."),
}


@pytest.fixture(scope="module")
def checkpoint(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for an epoch on 64 x 64 images, with other arguments than the defaults throughout."""
    folder = tmp_path_factory.mktemp("trained")
    model = Crad(
        backbone="resnet18",
        layers=["layer1", "layer2"],
        pre_trained=False,
        image_size=(32, 32),
        local_resolution=5,
        global_resolution=3,
        num_blocks=1,
        hidden_channels=8,
        visualizer=False,
        seed=0,
    )
    return fit(model, tiny_root, folder)


@pytest.fixture(scope="module")
def uniad_checkpoint(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of UniAD."""
    model = UniAD(
        backbone="resnet18",
        layers=["layer1", "layer2"],
        pre_trained=False,
        image_size=(32, 32),
        hidden_dim=8,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        feedforward_dim=8,
        neighbor_size=(3, 3),
        visualizer=False,
        seed=0,
    )
    return fit(model, tiny_root, tmp_path_factory.mktemp("trained_uniad"))


def fit(model: Crad | UniAD, root: Path, folder: Path) -> Path:
    data = MVTec(root=root, category=["blue", "green"], train_batch_size=4, eval_batch_size=4, num_workers=0)
    engine = Engine(default_root_dir=folder, accelerator="cpu", max_epochs=1)
    engine.fit(model, datamodule=data)
    return Path(str(engine.best_model_path))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Crad:
    return Crad.load_from_checkpoint(checkpoint).eval()


@pytest.fixture(scope="module")
def raw(model: Crad, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported with raw scores, as ONNX and for OpenVINO, by the name of the format."""
    folder = tmp_path_factory.mktemp("raw")
    return {"onnx": model.to_onnx(folder, raw_scores=True), "openvino": model.to_openvino(folder, raw_scores=True)}


@pytest.fixture(scope="module")
def squashed(model: Crad, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported for OpenVINO as a user does, without an option."""
    return model.to_openvino(tmp_path_factory.mktemp("squashed"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several sizes, larger and smaller than the model's, square and not."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for number, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        pixels[4:12, 4:12] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the checkpoint says of each file through anomalib's engine, its scores left raw."""
    model = Crad.load_from_checkpoint(checkpoint)
    model.visualizer = None
    engine = Engine(default_root_dir=tmp_path_factory.mktemp("predicted"), accelerator="cpu")
    with scores_left_raw(model.post_processor, raw=True):
        batches: Any = engine.predict(model, dataset=PredictDataset(images))
    return {Path(batch.image_path[0]).name: batch for batch in batches}


def run_openvino(path: Path) -> Run:
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    return lambda image: {output.any_name: value for output, value in compiled(image).items()}


def run_onnx(path: Path) -> Run:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: dict(zip(OUTPUTS, session.run(OUTPUTS, {"input": image}), strict=True))


def run(path: Path) -> Run:
    return run_onnx(path) if path.suffix == ".onnx" else run_openvino(path)


def read(path: Path) -> np.ndarray:
    return (np.asarray(Image.open(path), np.float32) / 255).transpose(2, 0, 1)[None]


def assert_agrees(predicted: Mapping[str, np.ndarray], batch: Any, tolerance: float) -> None:  # noqa: ANN401
    """Scores relative to themselves, maps relative to their range."""
    expected_map = batch.anomaly_map.numpy().squeeze()
    np.testing.assert_allclose(predicted["pred_score"].item(), batch.pred_score.item(), rtol=tolerance)
    np.testing.assert_allclose(predicted["anomaly_map"].squeeze(), expected_map, atol=tolerance * np.ptp(expected_map))
    assert bool(predicted["pred_label"].item()) == bool(batch.pred_label.item())


@contextmanager
def plain_words_only(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Generator[None, None, None]:
    """Let nothing be said that a user cannot act on: no exporter's notes, no warning, nothing beside the log."""
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.INFO):
        warnings.simplefilter("default")
        capfd.readouterr()
        yield
    assert not [str(warning.message) for warning in warned]
    libraries = {"onnx", "onnx_ir", "onnxscript", "torch", "nncf", "openvino"}
    assert not [record.getMessage() for record in caplog.records if record.name.split(".")[0] in libraries]
    logged = "\n".join(record.getMessage() for record in caplog.records)
    lines = "\n".join(capfd.readouterr()).splitlines()
    assert not [line for line in lines if line not in logged and not line.startswith(LIGHTNING)]


def export(tmp_path: Path, checkpoint: Path, export_type: str, *arguments: str, model: str = "Crad") -> Path:
    """Run anomalib's own command, with the model's name and nothing of how it was built."""
    root = ["--export_type", export_type, "--ckpt_path", str(checkpoint), "--export_root", str(tmp_path)]
    AnomalibCLI(["export", "--model", model, *root, *arguments, f"--default_root_dir={tmp_path}"])
    name = {"torch": "model.pt", "onnx": "model.onnx", "openvino": "model.xml"}[export_type]
    return tmp_path / "weights" / export_type / name


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_raw_scores_and_maps_are_the_checkpoints_for_images_of_any_size(
    raw: dict[str, Path], kind: str, images: Path, expected: dict[str, Any]
) -> None:
    exported = run(raw[kind])
    for name, batch in expected.items():
        assert_agrees(exported(read(images / name)), batch, 1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"memory": "vector_quantization", "refinement": False},
        {"memory": "attention", "local_memory": False},
        {"memory": "attention", "global_memory": False},
    ],
    ids=str,
)
def test_a_model_taken_apart_is_exported_as_it_is(tmp_path: Path, arguments: dict[str, Any]) -> None:
    narrow: dict[str, Any] = {"num_blocks": 1, "hidden_channels": 8, "image_size": (32, 32), "pre_trained": False}
    model = Crad(backbone="resnet18", layers=["layer1", "layer2"], visualizer=False, seed=0, **narrow, **arguments)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        model.train().model(images)  # running means of batch norm, without which it counts as untrained
    exported = run(model.to_onnx(tmp_path, raw_scores=True))(images.numpy())
    model.eval()
    assert model.pre_processor is not None
    with torch.inference_mode():
        expected = model.model(model.pre_processor(images))
    np.testing.assert_allclose(exported["pred_score"].squeeze(), expected.pred_score.squeeze(), rtol=1e-3)
    scale = np.ptp(expected.anomaly_map.numpy())
    np.testing.assert_allclose(exported["anomaly_map"], expected.anomaly_map, atol=1e-3 * scale)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_batch_is_scored_as_its_images_are(raw: dict[str, Path], kind: str) -> None:
    batch = np.random.default_rng(2).random((5, 3, 40, 50), dtype=np.float32)
    exported = run(raw[kind])
    together = exported(batch)
    alone = [exported(image[None]) for image in batch]
    assert together["anomaly_map"].shape == (5, 1, 32, 32)
    for name in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(together[name], np.concatenate([one[name] for one in alone]), rtol=1e-4)


def test_raw_scores_change_what_is_exported_and_nothing_else(model: Crad, raw: dict[str, Path], images: Path) -> None:
    assert getattr(model.post_processor, "enable_normalization", False)
    assert not read_thresholds(raw["onnx"]).normalized
    assert not read_thresholds(raw["openvino"]).normalized
    scores = [run(raw["openvino"])(read(path))["pred_score"].item() for path in sorted(images.iterdir())]
    assert max(scores) > 1


def test_the_graph_is_lean(raw: dict[str, Path]) -> None:
    """Batch norms folded, activations native, the memories read by matrix products, nothing of the grid made anew."""
    graph = openvino.Core().read_model(raw["openvino"])
    kinds = [operation.get_type_name() for operation in graph.get_ops()]
    assert not {"BatchNormInference", "GridSample", "Gather", "Range", "Broadcast", "Tile", "Loop", "If"} & set(kinds)
    assert kinds.count("HSwish") == 2
    assert kinds.count("HardSigmoid") == 1
    products = {module_of(op.get_friendly_name()): op for op in graph.get_ops() if op.get_type_name() == "MatMul"}
    assert products["model.reconstruction.global_memory.grid"].input_value(0).get_partial_shape()[1].get_length() == 9
    assert products["model.reconstruction.local_memory.grid"].input_value(0).get_partial_shape()[3].get_length() == 25
    convolutions = [op for op in graph.get_ops() if op.get_type_name() in {"Convolution", "GroupConvolution"}]
    assert all(module_of(op.get_friendly_name()).startswith("model.") for op in convolutions)


def test_the_command_exports_each_format_from_the_checkpoint_alone(
    checkpoint: Path,
    tmp_path: Path,
    images: Path,
    expected: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache into the working folder
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # TorchInferencer loads a pickle
    with plain_words_only(caplog, capfd):
        paths = {kind: export(tmp_path, checkpoint, kind) for kind in ("torch", "onnx", "openvino")}
    assert {path.name for path in paths["onnx"].parent.iterdir()} == {"model.onnx"}
    assert onnx.load(paths["onnx"]).opset_import[0].version == 18

    inferencers: list[Any] = [
        TorchInferencer(paths["torch"], device="cpu"),
        OpenVINOInferencer(paths["onnx"], device="CPU", config=EXACT),
        OpenVINOInferencer(paths["openvino"], device="CPU", config=EXACT),
    ]
    threshold = read_thresholds(paths["onnx"]).thresholds.pooled.image
    assert threshold is not None
    for name, batch in expected.items():
        predictions = []
        for inferencer in inferencers:
            with torch.no_grad():
                predictions.append(inferencer.predict(images / name))
        scores = [float(np.asarray(prediction.pred_score).item()) for prediction in predictions]
        np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
        assert 0 < scores[0] < 1
        assert {bool(np.asarray(one.pred_label).item()) for one in predictions} == {bool(batch.pred_label.item())}
        assert (scores[0] > 0.5) == (batch.pred_score.item() > threshold.value)


def test_the_command_exports_uniad(
    uniad_checkpoint: Path,
    tmp_path: Path,
    images: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with plain_words_only(caplog, capfd):
        path = export(tmp_path, uniad_checkpoint, "openvino", model="UniAD")
    image = read(images / "2.png")
    with torch.no_grad():
        expected = UniAD.load_from_checkpoint(uniad_checkpoint).eval()(torch.from_numpy(image))
    assert_agrees(run(path)(image), expected, 1e-3)


def test_the_command_leaves_scores_raw_where_it_is_asked_to(
    checkpoint: Path, tmp_path: Path, images: Path, expected: dict[str, Any]
) -> None:
    path = export(tmp_path, checkpoint, "onnx", "--onnx_kwargs.raw_scores=true")
    assert_agrees(run(path)(read(images / "1.png")), expected["1.png"], 1e-3)


ALONE = """
import json, sys
sys.modules.update(dict.fromkeys(["anomalib", "anomalib_crad", "torch", "lightning", "timm"]))  # no import can succeed
import numpy
path, image = sys.argv[1], numpy.load(sys.argv[2])
batch = (image.astype(numpy.float32) / 255).transpose(2, 0, 1)[None]
"""
RUNTIMES = {
    "openvino": """
import openvino
compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(json.dumps({output.any_name: value.tolist() for output, value in compiled(batch).items()}))
""",
    "onnxruntime": """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
print(json.dumps({name: value.tolist() for name, value in zip(names, session.run(None, {"input": batch}))}))
""",
    "model_api": """
from model_api.models import Model
result = Model.create_model(path, model_type="AnomalyDetection", device="CPU")(image)
print(json.dumps({
    "pred_score": [result.pred_score],
    "pred_label": [result.pred_label == "True"],
    "anomaly_map": (result.anomaly_map / 255).tolist(),
    "pred_mask": result.pred_mask.tolist(),
}))
""",
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_exported_files_need_nothing_of_ours(
    model: Crad, raw: dict[str, Path], squashed: Path, tmp_path: Path, runtime: str
) -> None:
    """Each runtime in a process where neither we, anomalib nor torch can be imported."""
    pytest.importorskip(runtime)
    path = {"openvino": raw["openvino"], "onnxruntime": raw["onnx"], "model_api": squashed}[runtime]
    image = np.random.default_rng(3).integers(0, 256, (48, 40, 3)).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    result = subprocess.run(
        [sys.executable, "-I", "-c", ALONE + RUNTIMES[runtime], str(path), str(tmp_path / "image.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    said = json.loads(result.stdout.splitlines()[-1])
    assert sorted(said) == sorted(OUTPUTS)
    with torch.no_grad(), scores_left_raw(model.post_processor, runtime != "model_api"):
        expected = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    # The Model API may use bfloat16.
    tolerance = 1e-2 if runtime == "model_api" else 1e-3 * expected.pred_score.item()
    assert said["pred_score"] == [pytest.approx(expected.pred_score.item(), abs=tolerance)]
    assert said["pred_label"] == [bool(expected.pred_label.item())]
    assert np.squeeze(said["anomaly_map"]).shape == ((48, 40) if runtime == "model_api" else (32, 32))


def test_half_precision_is_close(
    model: Crad, squashed: Path, tmp_path: Path, images: Path, expected: dict[str, Any]
) -> None:
    path = model.to_openvino(tmp_path, compression_type=CompressionType.FP16, raw_scores=True)
    assert path.with_suffix(".bin").stat().st_size < 0.99 * squashed.with_suffix(".bin").stat().st_size
    for name, batch in expected.items():
        predicted = run(path)(read(images / name))
        np.testing.assert_allclose(predicted["pred_score"].item(), batch.pred_score.item(), rtol=1e-2)
        expected_map = batch.anomaly_map.numpy().squeeze()
        np.testing.assert_allclose(predicted["anomaly_map"].squeeze(), expected_map, atol=1e-2 * np.ptp(expected_map))


def test_a_fixed_input_size(checkpoint: Path, tmp_path: Path, images: Path, expected: dict[str, Any]) -> None:
    path = export(tmp_path, checkpoint, "openvino", "--input_size=[45,90]", "--onnx_kwargs.raw_scores=true")
    graph = openvino.Core().read_model(path)
    assert [str(length) for length in graph.input(0).partial_shape] == ["?", "3", "45", "90"]
    assert_agrees(run(path)(read(images / "2.png")), expected["2.png"], 1e-3)


@pytest.fixture(scope="module")
def images_of_several_sizes(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set, every third image half as high."""
    root = tmp_path_factory.mktemp("several") / "Sizes"
    for number, path in enumerate(sorted(tiny_root.rglob("*.png"))):
        target = root / path.relative_to(tiny_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        # An image and its mask have the same size.
        halved = "good" in path.parts and number % 3 == 0
        (image.resize((64, 32)) if halved else image).save(target)
    return root


def data_arguments(name: str, root: Path) -> list[str]:
    blue, green = root / "blue", root / "green"
    folders = ["--data.normal_dir=train/good", "--data.abnormal_dir=test/scratch", "--data.normal_test_dir=test/good"]
    options = {
        "MVTec": [f"--data.root={root}", "--data.category=[blue,green]"],
        "Folder": ["--data.name=blue", f"--data.root={blue}", *folders],
        "MultiCategory": [
            "--data.base=MVTecAD",
            f"--data.base_args={json.dumps({'root': str(root)})}",
            f"--data.categories=[{blue.name},{green.name}]",
        ],
    }
    return ["--data", name, *options[name], "--data.num_workers=0"]


def assert_8_bits_do_no_harm(graph: openvino.Model, model: str) -> None:
    """Some weights have 8 bits, and all of them are in modules that bear it."""
    modules = set()
    for operation in graph.get_ops():
        if operation.get_type_name() in {"Convolution", "GroupConvolution", "MatMul"}:
            node = operation.input_value(1).get_node()
            while node.get_type_name() != "Constant" and node.get_input_size():
                node = node.input_value(0).get_node()
            if node.get_element_type() in {openvino.Type.i8, openvino.Type.u8}:
                modules.add(module_of(operation.get_friendly_name()))
    assert modules
    assert all(module.startswith(IN_8_BITS[model]) for module in modules), sorted(modules)


def test_8_bits_for_uniad(uniad_checkpoint: Path, tmp_path: Path, tiny_root: Path, images: Path) -> None:
    arguments = ["--compression_type=INT8_PTQ", "--onnx_kwargs.raw_scores=true", *data_arguments("MVTec", tiny_root)]
    path = export(tmp_path, uniad_checkpoint, "openvino", *arguments, model="UniAD")
    assert_8_bits_do_no_harm(openvino.Core().read_model(path), "UniAD")
    model, image = UniAD.load_from_checkpoint(uniad_checkpoint).eval(), read(images / "2.png")
    with torch.no_grad(), scores_left_raw(model.post_processor, raw=True):
        expected = model(torch.from_numpy(image))
    # The mask of the attention is minus infinity, which a range of 8 bits must not take in.
    np.testing.assert_allclose(run(path)(image)["pred_score"].item(), expected.pred_score.item(), rtol=0.1)


@pytest.mark.parametrize(
    ("compression", "data", "size"),
    [
        ("INT8", None, None),
        ("INT8_PTQ", "MVTec", None),
        ("INT8_PTQ", "Folder", None),
        ("INT8_PTQ", "MultiCategory", "[48,40]"),
        ("INT8_ACQ", "Folder", None),
        ("INT8_ACQ", "MVTec", "[32,32]"),
        ("INT8_ACQ", "MultiCategory", None),
    ],
)
def test_8_bits_from_the_command_whatever_the_images_sizes(
    checkpoint: Path,
    tmp_path: Path,
    images_of_several_sizes: Path,
    compression: str,
    data: str | None,
    size: str | None,
) -> None:
    arguments = [f"--compression_type={compression}", "--onnx_kwargs.raw_scores=true"]
    arguments += [] if data is None else data_arguments(data, images_of_several_sizes)
    arguments += [] if size is None else [f"--input_size={size}"]
    # Where the metric drops too far everything goes back to floating point, as a model of one epoch may need.
    arguments += ["--max_drop=1"] if compression == "INT8_ACQ" else []
    path = export(tmp_path, checkpoint, "openvino", *arguments)
    graph = openvino.Core().read_model(path)
    assert_8_bits_do_no_harm(graph, "Crad")
    quantised = {module_of(op.get_friendly_name()) for op in graph.get_ops() if op.get_type_name() == "FakeQuantize"}
    assert bool(quantised) == (compression != "INT8")
    assert read_thresholds(path).thresholds.pooled.image is not None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    padim = Padim(backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(padim)
    trainer.save_checkpoint(tmp_path / "padim.ckpt")
    with pytest.raises(ValueError, match="The checkpoint is not one of Crad"):
        export(tmp_path, tmp_path / "padim.ckpt", "onnx")
    assert not (tmp_path / "weights").exists()


def test_half_a_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.ckpt"
    half.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half\.ckpt' is not a checkpoint, or its end is missing"):
        export(tmp_path, half, "openvino")


def test_a_folder_that_cannot_be_written_to_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot be written to .*--export_root"):
        export(tmp_path, checkpoint, "onnx", f"--export_root={tmp_path / 'file'}")


def test_an_export_that_breaks_leaves_the_earlier_one(
    model: Crad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, say, when OpenVINO writes its second file."""
    path = model.to_openvino(tmp_path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    def save_half(graph: openvino.Model, target: Path, **_: object) -> None:
        Path(target).with_suffix(".bin").write_bytes(b"half")
        msg = f"no room for {graph.get_friendly_name()}"
        raise RuntimeError(msg)

    monkeypatch.setattr(openvino, "save_model", save_half)
    with pytest.raises(RuntimeError, match="no room"):
        model.to_openvino(tmp_path, raw_scores=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_openvino_is_checked_written_and_given_thresholds_once(
    model: Crad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def count(module: Any, name: str) -> None:  # noqa: ANN401
        function = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            calls.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    for name in ("check_is_trained", "name_nodes_by_module", "add_thresholds", "write_thresholds"):
        count(exportable, name)
    count(openvino, "save_model")
    options = {"raw_scores": True, "verbose": False}
    path = model.to_openvino(tmp_path, compression_type=CompressionType.FP16, onnx_kwargs=options)
    assert calls == ["check_is_trained", "name_nodes_by_module", "add_thresholds", "save_model"]
    assert options == {"raw_scores": True, "verbose": False}
    assert path.read_text(encoding="utf-8").count("<category_thresholds") == 1
    assert not read_thresholds(path).normalized


@pytest.mark.parametrize("size", [None, (32, 32)])
def test_a_model_that_does_not_resize_takes_the_size_it_was_trained_for(
    checkpoint: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    model = Crad.load_from_checkpoint(checkpoint)
    model.pre_processor = None
    graph = openvino.Core().read_model(model.to_onnx(tmp_path, input_size=size))
    assert [str(length) for length in graph.input(0).partial_shape] == ["?", "3", "32", "32"]
    with pytest.raises(ValueError, match=r"input_size=\[64, 64\], but the model was trained for \[32, 32\]"):
        model.to_onnx(tmp_path, input_size=(64, 64))
