"""What `dagf data check` says of a data set: whether it is whole, and what is in it."""

from collections import Counter
from pathlib import Path

from dagf.benchmarks.folder import has_labels, read_labels
from dagf.benchmarks.protocol import Benchmark
from dagf.benchmarks.public import DISTRACTORS, LOADERS, distractor_files, open_benchmark, place, spelled
from dagf.benchmarks.toytown import check_toytown
from dagf.retrieval.images import ImageSpec, load_image


def check(what: str, data: Path) -> list[str]:
    """Lines on a public set by name, Toytown's folder, or a folder of photographs.

    Raises `UserError` for anything that is not as it must be; a query's box outside its image is such a thing.
    """
    if (Path(what) / "spec.json").exists():
        check_toytown(Path(what))
        return [f"{Path(what).name}: complete"]
    what = spelled(what, [*LOADERS, *DISTRACTORS], "data set")
    if what in DISTRACTORS:
        files, differs = distractor_files(what, data)
        return [f"distractor: {len(files)} images", *(f"{what}: {line}" for line in differs)]
    home = place(what, data)
    lines, roles = [], Counter(row.role for row in read_labels(home)) if has_labels(home) else Counter[str]()
    lines += [f"{role}: {count} images" for role, count in sorted(roles.items())]
    if roles and not any(role.startswith("query") for role in roles):
        return lines
    benchmark = open_benchmark(what, data)
    check_boxes(benchmark)
    return [*lines, f"a benchmark: {len(benchmark.queries)} queries, {len(benchmark.database)} database images"]


def check_boxes(benchmark: Benchmark) -> None:
    """Raise `UserError`, with the file, the box and the image's size, for a query whose box is outside its image."""
    for query in benchmark.queries:
        if query.box is not None:
            load_image(benchmark.root / query.file, ImageSpec(1), query.box)  # decoded as small as can be
