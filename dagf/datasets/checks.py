"""What would make a figure wrong without a word: copies, changed files, boxes outside images.

`check` is `dagf data check`; the others are also asked when a study is opened.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dagf.console import progress
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.contents import MANY, Contents, remembered
from dagf.datasets.folder import has_labels, has_truth, read_labels
from dagf.datasets.images import ImageSpec, load_image
from dagf.datasets.manifest import differences, read_manifest
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
from dagf.files import write_text
from dagf.toytown.generate import SPLITS, jobs, write_images

LANDMARKS = 8  # of a split that are drawn again
TOLERANCE = 2.0  # mean difference of pixels, of 255, between two versions of a JPEG encoder
SEEN = ".contents"  # in a drawn set: the hash of its files when it was first opened


def check(what: str, data: Path) -> list[str]:
    """Return lines on a public set by name, a Toytown's folder, or a folder of photographs.

    Raises `UserError` for anything that is not as it must be.
    """
    folder = Path(what)
    if folder.resolve().name.startswith("toytown-") and (folder / "spec.json").is_file():
        check_toytown(folder)
        seen, images = check_drawn(folder)
        return [
            f"{folder.name}: complete",
            f"{seen} of its {images} images drawn again, and found as they are",
        ]
    what = spelled(what, [*LOADERS, *DISTRACTORS], "data set")
    if what in DISTRACTORS:
        one = read_manifest(data / "manifest.json")[what]
        lines = [f"distractor: {len(distractor_files(what, data))} images"]
        return [*lines, *differences(one, data / one.folder)]
    home = place(what, data)
    rows = read_labels(home) if has_labels(home) else []
    roles = Counter(row.role for row in rows)
    lines = [f"{role}: {count} images" for role, count in sorted(roles.items())]
    if roles and not any(role.startswith("query") for role in roles):
        return lines
    benchmark = open_benchmark(what, data)
    for query in benchmark.queries:
        if query.box is not None:  # decoded as small as can be: refuses a box outside its image
            load_image(benchmark.root / query.file, ImageSpec(1), query.box)
    if has_truth(home):
        contents = remembered(data)
        learned = [home / row.file for row in rows if row.role.startswith("train")]
        check_apart_from(learned, benchmark, contents)
        found = copies(benchmark, contents)
        contents.save()
        if found:
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            label = "" if rows else ", or give it the label that it has for the query"
            raise UserError(f"{found[0]}{more}: leave one of the two out{label}")
    queries, images = len(benchmark.queries), len(benchmark.database)
    return [*lines, f"a benchmark: {queries} queries, {images} database images"]


def rows_to_read(test: Benchmark) -> list[Path]:
    """Return the files of the rows known by their content: without many (`MANY`) distractors."""
    few = len(test.distractors) <= MANY
    return test.database_paths if few else test.database_paths[: len(test.database)]


def copies(test: Benchmark, contents: Contents, first: int = 0) -> list[str]:
    """Return a line for each row from `first` on that is, by its content, a query, or right for
    one and yet wrong for it.

    To find the query is no feat, and to find a copy of what is right no mistake. What the ground
    truth calls junk for the query is no copy of it, nor is the query's own file where it has a
    label, as in the classic protocols.
    """
    files = rows_to_read(test)
    sha256 = contents.sha256
    rows: dict[str, list[int]] = {}
    for row in range(first, len(files)):
        rows.setdefault(sha256(files[row]), []).append(row)
    lines: dict[tuple[str, ...], str] = {}  # one of two rows that are alike is told
    for query in test.queries:
        file, labelled = test.root / query.file, set(query.labelled.tolist())
        right = query.positives.tolist()
        for row in rows.get(sha256(file), []):
            if row not in (labelled if files[row] == file else labelled.difference(right)):
                lines[query.file, str(row)] = f"{file} is a query and, as {_place(test, row)}"
        for one in right:
            for row in rows.get(sha256(files[one]), []):
                if row not in labelled and sha256(files[row]) != sha256(file):
                    line = f"{files[one]} is right for a query and, as {_place(test, row)}, wrong"
                    lines.setdefault((sha256(files[one]),), f"{line} for it")
    return list(lines.values())


def _place(test: Benchmark, row: int) -> str:
    number = row - len(test.database)
    if number < 0:
        return f"{test.database[row]}, in the database"
    return f"{test.distractors[number]}, a distractor"


def check_apart_from(learned: Sequence[Path], test: Benchmark, contents: Contents) -> None:
    """Raise `UserError` for a photograph that is trained and, under whatever name, tested on."""
    if not learned:
        return
    rows = zip(rows_to_read(test), (*test.database, *test.distractors), strict=False)
    files = [*rows, *((test.root / query.file, query.file) for query in test.queries)]
    reading = progress(files, f"{test.name}: reading")
    tested = {contents.sha256(file): name for file, name in reading}
    for file in progress(learned, "reading"):
        if name := tested.get(contents.sha256(file)):
            raise UserError(
                f"{file} would be trained on and, as {name}, tested on: leave one of them out"
            )


def check_unchanged(root: Path, contents: Contents) -> None:
    """Raise `UserError` where files of a drawn set are others than when it was first opened.

    What is cached of them is named by the set: a changed picture would meet the old one's maps.
    """
    found = contents.folder_hash(root)
    if not (root / SEEN).is_file():
        with suppress(OSError, UserError):  # where nothing can be written nothing can be changed
            write_text(root / SEEN, found)
    elif (root / SEEN).read_text(encoding="utf-8") != found:
        raise UserError(
            f"files in {root} were changed since it was drawn: delete {root} and run"
            " `dagf data make`"
        )


def check_drawn(root: Path) -> tuple[int, int]:
    """Draw landmarks of Toytown again, some of each split; return images drawn, images there.

    Raises `UserError` for one whose pixels are others. JPEGs of another version of the library may
    differ by a little.
    """
    landmarks = [job for job in jobs(toytown_spec(root)) if not job.distractors]
    seen = 0
    for split in SPLITS:
        of_split = [job for job in landmarks if job.split == split]
        spaced = np.linspace(0, len(of_split) - 1, min(len(of_split), LANDMARKS))
        for number in {int(number) for number in spaced}:
            with TemporaryDirectory() as folder:
                again = Path(folder)
                for kind in ("jpg", "masks"):
                    (again / split / kind).mkdir(parents=True)
                for record in write_images(of_split[number], again):
                    file = Path(split, "jpg", record["file"])
                    _compare(root / file, again / file, root)
                    seen += 1
    return seen, sum(len(job.images) for job in landmarks)


def _compare(file: Path, drawn: Path, root: Path) -> None:
    if file.read_bytes() == drawn.read_bytes():
        return
    ours, theirs = (load_image(one).numpy().astype(np.float32) for one in (file, drawn))
    if ours.shape != theirs.shape or np.abs(ours - theirs).mean() > TOLERANCE:
        raise UserError(
            f"{file} is not the image that was drawn: delete {root} and run `dagf data make`"
        )
