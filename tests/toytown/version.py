"""Hashes of what Toytown draws: `python -m tests.toytown.version` writes version.json."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from dagf.toytown.generate import VERSION, ToytownSpec, make_toytown
from dagf.toytown.scene import DISTRACTOR_START, STREAMS, photograph

FILE = Path(__file__).with_name("version.json")
SMALL = ToytownSpec(
    size=64, train_landmarks=3, train_views=2, validation_landmarks=9, test_landmarks=2, views=4,
    distractors=5, validation_distractors=3, seed=11, test_seed=11,
)  # fmt: skip


def hashes() -> dict[str, dict[str, str]]:
    """Return hashes of pixels and masks before any encoder, and of records and ground truth."""
    pixels = {}
    for split in STREAMS:
        roles = {"train": ("train",), "distractors": ("distractor",)}
        for role in roles.get(split, ("query", "database")):
            for nuisances in (True, False):
                for number in range(4):
                    start = DISTRACTOR_START["validation"] * (number % 2)
                    landmark = number * 9 + start if role == "distractor" else number
                    shot = photograph(2023, STREAMS[split], landmark, 1, 96, role, nuisances)
                    name = f"{split} {role} {number} {'' if nuisances else 'control'}".strip()
                    data = shot.image.tobytes() + shot.mask.tobytes()
                    pixels[name] = hashlib.sha256(data).hexdigest()[:16]
    with TemporaryDirectory() as place:
        root = make_toytown(SMALL, Path(place), workers=1)
        records = {
            str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            for file in sorted([*root.rglob("records.csv"), *root.rglob("gnd.json")])
        }
    return {"pixels": pixels, "records": records}


if __name__ == "__main__":
    FILE.write_text(json.dumps({"version": VERSION, **hashes()}, indent=1) + "\n")
