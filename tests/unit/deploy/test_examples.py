# SPDX-License-Identifier: Apache-2.0

"""What the examples in Python do with thresholds and bad files; the integration tests run them on a trained model."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest
from made_up_packages import DARK_LEVEL, LEVEL, make_package, save_image
from PIL import Image

from anomalib_crad.deploy import EdgeModel
from anomalib_crad.post_processing import ExportedThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from anomalib_crad.deploy import EdgePackage

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
PREDICT = EXAMPLES / "python" / "predict.py"
CLIENT = EXAMPLES / "model_server" / "client.py"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Runs an example in this process, with a command line, in a folder of its own."""

    def run_example(path: Path, *arguments: object) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")

    return run_example


@pytest.mark.parametrize(("limit", "anomalous"), [(0.5, True), (0.7, False)])
def test_the_client_gives_the_label_of_the_package(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: float, anomalous: bool
) -> None:
    """Whatever its sensitivity, and a model whose name has a space."""
    package = make_package(tmp_path / "line 3", limit=limit)
    image = save_image(tmp_path / "grey.png", 153)
    expected = EdgeModel(package).predict(image)
    with _stand_in_server(package, "/v2/models/line%203/infer") as url:
        run(CLIENT, image, "--url", url, "--model", "line 3")
    score, label = capsys.readouterr().out.splitlines()
    assert float(score.removeprefix("score: ")) == pytest.approx(expected.score, abs=1e-5)
    assert label == f"label: {'anomalous' if anomalous else 'normal'}"
    assert expected.label == anomalous


@pytest.mark.parametrize("missing", [(), ("own",), ("pooled",), ("own", "pooled")])
@pytest.mark.parametrize("level", ["image", "pixel"])
def test_the_python_example_rescales_as_the_library(level: str, missing: tuple[str, ...]) -> None:
    """Also where the category or the model has no threshold for one of the levels."""
    levels: dict[str, dict[str, Any]] = {
        name: {key: value for key in ("image", "pixel") if key != level or name not in missing}
        for name, value in {"own": DARK_LEVEL, "pooled": LEVEL}.items()
    }
    thresholds = {"pooled": levels["pooled"], "categories": {"dark": levels["own"]}}
    settings = {"normalized": True, "image_sensitivity": 0.5, "pixel_sensitivity": 0.5}
    library = ExportedThresholds.from_json(json.dumps({**thresholds, **settings}))
    values = np.array([0.2, 0.5, 0.8], np.float32)
    expected = library.predict("dark", values, values)
    wanted = expected.pred_score if level == "image" else expected.anomaly_map
    assert wanted is not None
    rescaled = runpy.run_path(str(PREDICT))["rescale"](values, level, "dark", thresholds)
    np.testing.assert_allclose(rescaled, wanted, atol=1e-5)


@pytest.mark.parametrize("example", [PREDICT, CLIENT])
@pytest.mark.parametrize(("name", "reason"), [("missing.png", "No such file"), ("cut.jpg", "truncated")])
def test_a_bad_image_is_one_line(
    run: Callable[..., None], tmp_path: Path, example: Path, name: str, reason: str
) -> None:
    whole = save_image(tmp_path / "whole.jpg", 153, (64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-20])
    package = [make_package(tmp_path / "package").folder] if example == PREDICT else []
    with pytest.raises(SystemExit, match=rf"^error: '.*{name}': .*{reason}"):
        run(example, *package, tmp_path / name)


@pytest.mark.parametrize("example", [PREDICT, CLIENT])
def test_sixteen_bit_grey_is_refused(run: Callable[..., None], tmp_path: Path, example: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    package = [make_package(tmp_path / "package").folder] if example == PREDICT else []
    with pytest.raises(SystemExit, match=r"deep\.png': grey of more than 8 bits"):
        run(example, *package, tmp_path / "deep.png")


def test_a_server_that_is_not_there_is_one_line(run: Callable[..., None], tmp_path: Path) -> None:
    image = save_image(tmp_path / "grey.png", 153)
    with pytest.raises(SystemExit, match=r"^error: http://127\.0\.0\.1:9/v2/models/crad/infer: .*refused"):
        run(CLIENT, image, "--url", "http://127.0.0.1:9")


@contextmanager
def _stand_in_server(package: EdgePackage, path: str) -> Generator[str]:
    """Speaks as much of KServe's protocol as the client does; there is no model server in a Python environment."""
    model = openvino.Core().compile_model(package.model_path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    datatypes = {openvino.Type.f32: "FP32", openvino.Type.boolean: "BOOL"}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == path
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = int(self.headers["Inference-Header-Content-Length"])
            head, raw = json.loads(body[:length]), body[length:]
            (described,) = head["inputs"]
            assert described["name"] == model.input().any_name
            assert described["datatype"] == "FP32"
            assert described["parameters"]["binary_data_size"] == len(raw)
            results = model(np.frombuffer(raw, np.float32).reshape(described["shape"]))
            answered = [
                {
                    "name": output["name"],
                    "shape": [1],
                    "datatype": datatypes[model.output(output["name"]).element_type],
                    "data": results[output["name"]].tolist(),
                }
                for output in head["outputs"]
            ]
            answer = json.dumps({"model_name": "crad", "outputs": answered}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
