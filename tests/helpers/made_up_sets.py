# SPDX-License-Identifier: Apache-2.0

"""Tiny data sets in the layouts of anomalib's datamodules: a few noisy images, each its own.

Every function writes a set into a folder and returns the arguments of the datamodule that reads it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from made_up_images import write_image
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VISA_CATEGORIES = (
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
)


def write_mask(path: Path, size: tuple[int, int] = (24, 16), *, empty: bool = False) -> Path:
    """Write a mask with a rectangle in it."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    if not empty:
        pixels[2:6, 3:9] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_btech(root: Path) -> dict[str, Any]:
    for category in ("01", "02", "03"):
        for part, names in (("train/ok", "ab"), ("test/ok", "cd"), ("test/ko", "ef")):
            for name in names:
                write_image(root / category / part / f"{category}{name}.bmp")
        for name in "ef":
            write_mask(root / category / "ground_truth" / "ko" / f"{category}{name}.png")
    return {"root": root}


def make_mpdd(root: Path) -> dict[str, Any]:
    for category in ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"):
        for part, names in (("train/good", "ab"), ("test/good", "cd"), ("test/hole", "ef")):
            for name in names:
                write_image(root / category / part / f"{category}{name}.png")
        for name in "ef":
            write_mask(root / category / "ground_truth" / "hole" / f"{category}{name}_mask.png")
    return {"root": root}


def make_visa(root: Path) -> dict[str, Any]:
    """As it is downloaded: anomalib applies the split of the CSV file."""
    rows = ["object,split,label,image,mask"]
    for category in VISA_CATEGORIES:
        images = f"{category}/Data/Images"
        for split, label, folder, names in (
            ("train", "normal", "Normal", "ab"),
            ("test", "normal", "Normal", "cd"),
            ("test", "anomaly", "Anomaly", "ef"),
        ):
            for name in names:
                image, mask = f"{images}/{folder}/{category}{name}.JPG", ""
                write_image(root / image)
                if label == "anomaly":
                    mask = f"{category}/Data/Masks/Anomaly/{category}{name}.png"
                    write_mask(root / mask)
                rows.append(f"{category},{split},{label},{image},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows), encoding="utf-8")
    return {"root": root}


def make_kolektor(root: Path) -> dict[str, Any]:
    """Every image has a mask; that of a good one is empty."""
    for item in ("kos01", "kos02"):
        for part in range(6):
            write_image(root / item / f"Part{part}.jpg")
            write_mask(root / item / f"Part{part}_label.bmp", empty=part < 5)
    return {"root": root}


def make_loco(root: Path) -> dict[str, Any]:
    """An image may have several masks; validation images have a folder of their own."""
    for category in ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"):
        for part, names in (
            ("train/good", "ab"),
            ("validation/good", "cd"),
            ("test/good", "ef"),
            ("test/logical_anomalies", "gh"),
        ):
            for name in names:
                write_image(root / category / part / f"{name}.png")
        masks = root / category / "ground_truth" / "logical_anomalies"
        write_mask(masks / "g" / "000.png")
        write_mask(masks / "h" / "000.png")
        write_image(masks / "h" / "001.png", mode="1")
    return {"root": root}


def make_mvtecad2(root: Path) -> dict[str, Any]:
    for category in ("can", "fabric"):
        for part, names in (
            ("train/good", "ab"),
            ("validation/good", "cd"),
            ("test_public/good", "ef"),
            ("test_public/bad", "gh"),
            ("test_private", "ij"),
            ("test_private_mixed", "kl"),
        ):
            for name in names:
                write_image(root / category / part / f"{name}.png")
        for name in "gh":
            write_mask(root / category / "test_public" / "ground_truth" / "bad" / f"{name}_mask.png")
    return {"root": root}


def make_realiad(root: Path) -> dict[str, Any]:
    for category in ("audiojack", "usb"):
        images = root / "realiad_256" / category
        lists: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
        for split, kind, names in (("train", "OK", "ab"), ("test", "OK", "cd"), ("test", "NG", "ef")):
            for name in names:
                row = {"image_path": f"{kind}/{name}.jpg", "anomaly_class": "OK" if kind == "OK" else "AK"}
                write_image(images / row["image_path"])
                if kind == "NG":
                    row["mask_path"] = f"{kind}/{name}_mask.png"
                    write_mask(images / row["mask_path"])
                lists[split].append(row)
        path = root / "realiad_jsons" / "realiad_jsons" / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(lists), encoding="utf-8")
    return {"root": root}


def make_datumaro(root: Path) -> dict[str, Any]:
    for category in ("cap", "nut"):
        items = []
        for name in "abcdefgh":
            write_image(root / category / "images" / "default" / f"{name}.png")
            annotation = {"label_id": int(name in "ef")}
            items.append({"image": {"path": f"{name}.png"}, "annotations": [annotation]})
        labels = {"label": {"labels": [{"name": "Normal"}, {"name": "Anomalous"}]}}
        path = root / category / "annotations" / "default.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"categories": labels, "items": items}), encoding="utf-8")
    return {"root": root, "seed": 0}


def make_folder(root: Path) -> dict[str, Any]:
    """A user's own products: `cap` has all, `nut` no masks, `pin` no anomalous images either."""
    for category in ("cap", "nut", "pin"):
        for name in "abcd":
            write_image(root / category / "good" / f"{category}{name}.png")
        for name in "ef":
            write_image(root / category / "good_test" / f"{category}{name}.png")
    for category in ("cap", "nut"):
        for name in "gh":
            write_image(root / category / "defective" / "scratch" / f"{category}{name}.png")
    for name in "gh":
        write_mask(root / "cap" / "masks" / "scratch" / f"cap{name}.png")
    return {
        "root": root,
        "normal_dir": "good",
        "normal_test_dir": "good_test",
        "abnormal_dir": "defective",
        "mask_dir": "masks",
        "val_split_mode": "same_as_test",
    }


#: For each of anomalib's datamodules: the maker of a set, and the categories that `all` means, where it can read these.
SETS: dict[str, tuple[Callable[[Path], dict[str, Any]], str | list[str | int]]] = {
    "BTech": (make_btech, "all"),
    "Datumaro": (make_datumaro, "all"),
    "Folder": (make_folder, "all"),
    "Kolektor": (make_kolektor, "all"),
    "MPDD": (make_mpdd, "all"),
    "MVTecAD2": (make_mvtecad2, ["can", "fabric"]),
    "MVTecLOCO": (make_loco, "all"),
    "RealIAD": (make_realiad, ["audiojack", "usb"]),
    "Visa": (make_visa, "all"),
}
