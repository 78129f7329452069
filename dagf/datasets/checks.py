"""What would make a figure wrong without a word: copies, changed files, boxes outside images.

`check` is `dagf data check`; the others are also asked when a study is opened.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pandas as pd

from dagf.console import progress
from dagf.datasets import public
from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Benchmark, TrainingSet
from dagf.datasets.contents import Contents, remembered
from dagf.datasets.decode import Box, Images, ImageSpec, find_images, image_size
from dagf.datasets.folder import (
    BOXES,
    COLUMNS,
    CORNERS,
    boxes_of,
    check_inside,
    has_labels,
    has_truth,
    read_boxes,
    read_labels,
)
from dagf.datasets.toytown import check_toytown
from dagf.errors import UserError
from dagf.files import content_hash


def check(what: str, data: Path) -> list[str]:
    """Return lines on a public set by name, a Toytown's folder, or a folder of photographs.

    Every image of a benchmark or folder is decoded. Raise `UserError` for anything that is not as
    it must be.
    """
    folder, manifest = Path(what), data / "manifest.json"
    if folder.resolve().name.startswith("toytown-") and (folder / "spec.json").is_file():
        check_toytown(folder, Contents())
        return [f"{folder.name}: as it was when it was first opened"]
    sets = public.read_manifest(manifest) if manifest.is_file() else {}
    what = public.spelled(what, {*public.PUBLIC, *public.DISTRACTORS, *sets}, "data set")
    if what in public.DISTRACTORS:
        return [f"distractor: {len(public.distractor_files(what, data))} images"]
    if what in public.TRAINING_SETS:
        found = public.open_training_set(what, data, held_out=1)
        return [f"a training set: {len(found.files)} images of {found.landmarks} landmarks"]
    if what in sets and what not in public.PUBLIC:
        if wrong := public.differences(sets[what], data / sets[what].folder):
            raise UserError(f"{what} has {'; '.join(wrong)}: get it with `dagf data get {what}`")
        return [f"{what}: whole, but no benchmark by itself: {sets[what].notes}"]
    home = public.place(what, data)
    there = find_images([home]) if has_truth(home) else None
    if there and there.unread:
        raise UserError("\n".join(there.unread))
    rows = read_labels(home) if has_labels(home) else pd.DataFrame(columns=COLUMNS, dtype=str)
    decoded = dict.fromkeys((file, None) for file in there.files) if there else {}
    _decode(home.name, decoded)
    roles = rows["role"].value_counts().sort_index()
    lines = [*[f"{role}: {count} images" for role, count in roles.items()], *check_boxes(home)]
    if len(rows) and not roles.index.str.startswith("query").any():
        return [*lines, *_unnamed(there, home, rows["file"])]
    benchmark = public.open_benchmark(what, data)
    crops = [(benchmark.root / query.file, query.box) for query in benchmark.queries]
    named = dict.fromkeys([*((file, None) for file in benchmark.database_paths), *crops])
    _decode(benchmark.name, [one for one in named if one not in decoded])
    if has_truth(home):
        contents = remembered(data)
        learned = [home / file for file in rows["file"][rows["role"].str.startswith("train")]]
        check_apart_from(learned, benchmark, contents)
        twice = copies(benchmark, contents)
        contents.save()
        if twice:
            more = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
            raise UserError(f"{twice[0]}{more}: leave one of the two out, or label both alike")
    queries, images = len(benchmark.queries), len(benchmark.database)
    lines += [f"a benchmark: {queries} queries, {images} database images"]
    return [*lines, *_unnamed(there, home, [*rows["file"], *benchmark.files])]


def _decode(name: str, images: Collection[tuple[Path, Box | None]]) -> None:
    """Decode images, each with its crop; raise `UserError` with a line on each that cannot be."""
    files, boxes = [file for file, _ in images], [box for _, box in images]
    batches = image_batches(files, ImageSpec(1), boxes)
    for _ in progress(batches, f"{name}: decoding", len(files), amount=lambda one: len(one[0])):
        pass


def check_boxes(folder: Path) -> list[str]:
    """Return a line on the boxes of a folder that has some.

    Raise `UserError`, with the line, for one that reaches out of its image (`check_inside`).
    """
    if not (folder / BOXES).is_file():
        return []
    rows = read_boxes(folder)
    sizes = {file: image_size(folder / file) for file in rows["file"].unique()}
    for line, file, *box in rows[["file", *CORNERS]].itertuples():
        check_inside(f"{folder / BOXES}, line {line}", tuple(box), file, sizes[file])
    return [f"boxes: {len(rows)}, in {len(sizes)} images"]


def _boxed(files: Iterable[Path]) -> list[object]:
    """Return what is known of where in files the instances are: it decides what ceilings see."""
    return [[row, boxes] for row, file in enumerate(files) if (boxes := boxes_of(file))]


def _unnamed(there: Images | None, home: Path, names: Iterable[str]) -> list[str]:
    """Return a line on a folder's images: how many are named, and what is left out."""
    if there is None:
        return []
    files = {os.path.realpath(home / name) for name in names}
    kept = [file for file in there.files if os.path.realpath(file) in files]
    count = len(there.files) - len(kept)
    left = [f"{count} that the ground truth does not name"] * bool(count)
    return there._replace(files=kept, left_out=[*left, *there.left_out]).lines()


def copies(test: Benchmark, contents: Contents, first: int = 0) -> list[str]:
    """Return a line for each row from `first` on that is, by its content, a query, or right for
    one and yet wrong for it.

    To find the query is no feat, and to find a copy of what is right no mistake. What the ground
    truth calls junk for the query is no copy of it, nor is the query's own file where it has a
    label, as in the classic protocols.
    """
    files, sha256 = test.database_paths, contents.sha256
    rows = defaultdict[str, list[int]](list)
    for row in range(first, len(files)):
        rows[sha256(files[row])].append(row)
    kinds = ["in the database"] * len(test.database) + ["a distractor"] * len(test.distractors)
    lines: dict[str, str] = {}  # one of two rows that are alike is told
    for query in test.queries:
        own, right = test.root / query.file, query.positives.tolist()
        for file in (own, *(files[row] for row in right)):
            what = "a query" if file == own else "right for a query"
            for row in rows.get(sha256(file), []):
                known = set(query.labelled.tolist())
                if file == own != files[row]:
                    known.difference_update(right)
                if row not in known and (file == own or sha256(file) != sha256(own)):
                    line = f"{file} is {what} and, as {files[row]}, {kinds[row]}"
                    lines.setdefault(query.file if file == own else sha256(file), line)
    return list(lines.values())


def check_apart_from(learned: Sequence[Path], test: Benchmark, contents: Contents) -> None:
    """Raise `UserError` for a photograph that is trained and, under whatever name, tested on."""
    if not learned:
        return
    rows = zip(test.database_paths, (*test.database, *test.distractors), strict=True)
    files = [*rows, *((test.root / query.file, query.file) for query in test.queries)]
    reading = progress(files, f"{test.name}: reading")
    tested = {contents.sha256(file): name for file, name in reading}
    for file in progress(learned, "reading"):
        if name := tested.get(contents.sha256(file)):
            raise UserError(
                f"{file} would be trained on and, as {name}, tested on: leave one of them out"
            )


def check_disjoint(learned_from: Path, tested_on: Path) -> None:
    """Raise `UserError` for an instance that has training images and test images."""
    learned, tested = read_labels(learned_from), read_labels(tested_on)
    learned = learned[learned["role"].str.startswith("train")]
    tested = tested[tested["role"].str.startswith(("query", "database"))]
    if both := sorted({*learned["instance"]} & {*tested["instance"]}):
        raise UserError(
            f"{tested_on}: {', '.join(both[:3])}{' ...' if both[3:] else ''} would be trained and "
            "tested on; an instance may have training images or test images, not both"
        )


def distractors_hash(benchmark: Benchmark, contents: Contents) -> str:
    return content_hash([*map(contents.sha256, benchmark.distractors)])


def files_hash(benchmark: Benchmark, contents: Contents) -> str:
    """Return the hash of a benchmark's images and ground truth."""
    queries = [benchmark.root / query.file for query in benchmark.queries]
    truth = [
        {label: rows.tolist() for label, rows in query.labels.items()}
        for query in benchmark.queries
    ]
    files = [*benchmark.database_paths, *queries]
    found = [contents.sha256(file) for file in progress(files, f"{benchmark.name}: reading")]
    return content_hash([found, truth, *_boxed(files)])


def training_set(
    files: Sequence[Path], labels: Sequence[int], validation: Benchmark, contents: Contents
) -> TrainingSet:
    """Return a training set of photographs, named by the contents of all its images."""
    sums = [contents.sha256(file) for file in files]
    name = content_hash([files_hash(validation, contents), sums, labels, *_boxed(files)])
    return TrainingSet(tuple(files), tuple(labels), validation, name)
