# SPDX-License-Identifier: Apache-2.0

"""Ask OpenVINO Model Server for score and label of an image, with NumPy, Pillow and the standard library.

A package has the layout that the server expects of a model:

    docker run --rm -p 8000:8000 -v "$PWD/PACKAGE:/model:ro" openvino/model_server:latest \
        --model_name crad --model_path /model --rest_port 8000 \
        --plugin_config '{"INFERENCE_PRECISION_HINT": "f32"}'
    pip install numpy pillow
    python client.py IMAGE [--url http://localhost:8000] [--model crad]

The client speaks the KServe protocol, version 2: a header in JSON, followed by the pixels as raw numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image


def main() -> None:
    """Read the command line, ask and print."""
    parser = argparse.ArgumentParser(description="Ask OpenVINO Model Server about an image.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--model", default="crad", help="the server's --model_name")
    options = parser.parse_args()

    pixels = np.ascontiguousarray(read_image(options.image).transpose(2, 0, 1)[None])  # 1 x 3 x height x width
    url = f"{options.url}/v2/models/{quote(options.model)}/infer"
    try:
        score, anomalous = ask(url, pixels)
    except OSError as error:  # no answer, or an HTTP error
        raise SystemExit(f"error: {url}: {error}") from error
    print(f"score: {score:.6f}")
    print(f"label: {'anomalous' if anomalous else 'normal'}")


def read_image(path: Path) -> np.ndarray:
    """Read an image as training does.

    Args:
        path: The file.

    Returns:
        Height x width x 3 numbers from 0 to 1, red first.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise SystemExit(f"error: '{path}': grey of more than 8 bits; convert it to 8 bits, as for training")
            return np.asarray(image.convert("RGB"), np.float32) / 255
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises any of these
        raise SystemExit(f"error: '{path}': {error}") from error


def ask(url: str, pixels: np.ndarray) -> tuple[float, bool]:
    """Send one image and return its score and label.

    Args:
        url: URL of the model's ``infer`` endpoint.
        pixels: 1 x 3 x height x width numbers from 0 to 1, red first.

    Returns:
        Score in (0, 1), and whether the image is anomalous by the package's threshold and sensitivity.
    """
    head = json.dumps({
        "inputs": [
            {
                "name": "input",
                "shape": pixels.shape,
                "datatype": "FP32",
                "parameters": {"binary_data_size": pixels.nbytes},
            },
        ],
        "outputs": [{"name": "pred_score"}, {"name": "pred_label"}],
    }).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    with urlopen(Request(url, head + pixels.tobytes(), headers), timeout=60) as answer:  # noqa: S310 - the user's own
        outputs = {output["name"]: output for output in json.load(answer)["outputs"]}
    return float(outputs["pred_score"]["data"][0]), bool(outputs["pred_label"]["data"][0])


if __name__ == "__main__":
    main()
