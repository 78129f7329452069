"""What `dagf data check` says of a data set: whether it is whole, and what is in it."""

from collections import Counter
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dagf.datasets.benchmark import Benchmark
from dagf.datasets.folder import has_labels, has_truth, read_labels
from dagf.datasets.images import ImageSpec, load_image
from dagf.datasets.public import (
    DISTRACTORS,
    LOADERS,
    distractor_files,
    open_benchmark,
    place,
    spelled,
)
from dagf.datasets.toytown import check_toytown, toytown_spec
from dagf.errors import UserError
from dagf.files import IMAGES, present, read_json
from dagf.study.checks import Sums, check_apart_from, copies
from dagf.toytown.generate import SPLITS, ToytownSpec, jobs, write_images

LANDMARKS = 8  # of a split that are drawn again
TOLERANCE = 2.0  # mean difference of pixels, of 255, between two versions of a JPEG encoder


def check(what: str, data: Path) -> list[str]:
    """Lines on a public set by name, Toytown's folder, or a folder of photographs.

    Raises `UserError` for anything that is not as it must be; a query's box outside its image is such a thing.
    """
    if _is_drawn(Path(what)):
        check_toytown(Path(what))
        seen, images = check_drawn(Path(what))
        return [
            f"{Path(what).name}: complete",
            f"{seen} of its {images} images drawn again, and found as they are",
        ]
    what = spelled(what, [*LOADERS, *DISTRACTORS], "data set")
    if what in DISTRACTORS:
        files, differs = distractor_files(what, data)
        return [f"distractor: {len(files)} images", *(f"{what}: {line}" for line in differs)]
    home = place(what, data)
    lines, roles = (
        [],
        Counter(row.role for row in read_labels(home)) if has_labels(home) else Counter[str](),
    )
    lines += [f"{role}: {count} images" for role, count in sorted(roles.items())]
    if roles and not any(role.startswith("query") for role in roles):
        return lines
    benchmark = open_benchmark(what, data)
    check_boxes(benchmark)
    if has_truth(home):
        labels = has_labels(home)
        learned = (
            [home / row.file for row in read_labels(home) if row.role.startswith("train")]
            if labels
            else []
        )
        sums = Sums()
        check_apart_from(learned, benchmark, sums)
        found = copies(benchmark, sums)
        if found:
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            label = "" if labels else ", or give it the label that it has for the query"
            raise UserError(f"{found[0]}{more}: leave one of the two out{label}")
    return [
        *lines,
        f"a benchmark: {len(benchmark.queries)} queries, {len(benchmark.database)} database images",
    ]


def _is_drawn(folder: Path) -> bool:
    """Whether a folder is a Toytown, which may be deleted and drawn again: never where it holds photographs or labels.

    Any program may leave a file spec.json in it; one of ours has all fields, unless it is damaged.
    """
    spec = folder / "spec.json"
    if (
        not present(spec)
        or has_truth(folder)
        or any(path.suffix.lower() in IMAGES for path in folder.iterdir())
    ):
        return False
    with suppress(UserError):
        values = read_json(spec)
        if isinstance(values, dict) and {field.name for field in fields(ToytownSpec)} <= set(
            values
        ):
            return True
    return folder.resolve().name.startswith("toytown-")


def check_drawn(root: Path) -> tuple[int, int]:
    """Draw landmarks of Toytown again, all of few or some of many: images drawn, images there.

    Raises `UserError` for one whose pixels are others. JPEGs of another version of the library may differ by a little.
    """
    landmarks = [job for job in jobs(toytown_spec(root)) if not job.distractors]
    seen, images = 0, sum(len(job.images) for job in landmarks)
    for split in SPLITS:
        of_split = [job for job in landmarks if job.split == split]
        for number in {
            int(k) for k in np.linspace(0, len(of_split) - 1, min(len(of_split), LANDMARKS))
        }:
            job = of_split[number]
            with TemporaryDirectory() as place:
                for kind in ("jpg", "masks"):
                    (Path(place) / split / kind).mkdir(parents=True)
                for record in write_images(job, Path(place)):
                    file = Path(split, "jpg", record["file"])
                    _compare(root / file, place / file, root)
                    seen += 1
    return seen, images


def _compare(file: Path, drawn: Path, root: Path) -> None:
    if file.read_bytes() == drawn.read_bytes():
        return
    ours, theirs = (load_image(one).numpy().astype(np.float32) for one in (file, drawn))
    if ours.shape != theirs.shape or np.abs(ours - theirs).mean() > TOLERANCE:
        raise UserError(
            f"{file} is not the image that was drawn: delete {root} and run `dagf data make`"
        )


def check_boxes(benchmark: Benchmark) -> None:
    """Raise `UserError`, with the file, the box and the image's size, for a query whose box is outside its image."""
    for query in benchmark.queries:
        if query.box is not None:
            load_image(
                benchmark.root / query.file, ImageSpec(1), query.box
            )  # decoded as small as can be
