"""Miniature copies of the public training sets, in their real layouts and formats."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dagf.datasets.public import image_path
from tests.fixtures import photograph


def write_sfm(
    folder: Path, clusters: int = 5, views: int = 4, name: str = "retrieval-SfM-120k"
) -> dict[str, Any]:
    """Write NAME.json (`clusters` to train on, two for validation), its whitening split, `ims/`."""
    parts: dict[str, Any] = {}
    for part, numbers in (("train", range(clusters)), ("val", range(50, 52))):
        cids: list[str] = []
        for instance in numbers:
            for view in range(views):
                cid = hashlib.md5(f"{instance} {view}".encode()).hexdigest()
                path = folder / "ims" / image_path(cid)
                path.parent.mkdir(parents=True, exist_ok=True)
                photograph(instance, view, 40).resize((40, 32)).save(path, "JPEG")
                cids.append(cid)
        cluster = [7 * number for number in numbers for _ in range(views)]  # with gaps
        pairs = [(row, row + 1) for row in range(len(cids) - 1) if cluster[row] == cluster[row + 1]]
        qidxs, pidxs = (list(column) for column in zip(*pairs, strict=True))
        parts[part] = {"cids": cids, "cluster": cluster, "qidxs": qidxs, "pidxs": pidxs}
    (folder / f"{name}.json").write_text(json.dumps(parts))
    train = parts["train"]  # ten times each: as many pairs as descriptors have dimensions
    whiten = {"cids": train["cids"], "qidxs": train["qidxs"] * 10, "pidxs": train["pidxs"] * 10}
    (folder / f"{name}-whiten.json").write_text(json.dumps(whiten))
    return parts


def write_gldv2(folder: Path, landmarks: int = 6, views: int = 4) -> list[str]:
    """train_clean.csv and `train/`; the lines of the list."""
    lines = ["landmark_id,images"]
    for landmark in range(landmarks):
        keys = [f"g {landmark} {view}".encode() for view in range(views)]
        names = [hashlib.md5(key).hexdigest()[:16] for key in keys]
        for view, name in enumerate(names):
            path = folder / "train" / name[0] / name[1] / name[2] / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(landmark, view, 40).save(path)
        lines.append(f"{3 * landmark + 1},{' '.join(names)}")
    (folder / "train_clean.csv").write_text("\n".join(lines) + "\n")
    return lines
