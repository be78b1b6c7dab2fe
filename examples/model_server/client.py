# SPDX-License-Identifier: Apache-2.0

"""Ask OpenVINO Model Server about an image, with NumPy, Pillow and the standard library.

A package is laid out as the server wants a model, so it is served as it is:

    docker run --rm -p 8000:8000 -v "$PWD/PACKAGE:/model:ro" openvino/model_server:latest \
        --model_name crad --model_path /model --rest_port 8000
    pip install numpy pillow
    python client.py IMAGE [--url http://localhost:8000] [--model crad]

Speaks the KServe protocol, version 2: a head in JSON, the pixels behind it as raw numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
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

    pixels = np.asarray(Image.open(options.image).convert("RGB"), np.float32) / 255
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # 1 x 3 x height x width
    score = ask(f"{options.url}/v2/models/{options.model}/infer", pixels)
    print(f"score: {score:.6f}")
    print(f"label: {'anomalous' if score > 0.5 else 'normal'}")


def ask(url: str, pixels: np.ndarray) -> float:
    """Send one image and return its score.

    Args:
        url: Where the model answers.
        pixels: 1 x 3 x height x width numbers from 0 to 1, red first.

    Returns:
        Score in (0, 1); the threshold is at 0.5.
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
        "outputs": [{"name": "pred_score"}],
    }).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    with urlopen(Request(url, head + pixels.tobytes(), headers), timeout=60) as answer:  # noqa: S310 - the user's own
        outputs = {output["name"]: output for output in json.load(answer)["outputs"]}
    return float(outputs["pred_score"]["data"][0])


if __name__ == "__main__":
    main()
