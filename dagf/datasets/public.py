"""Every benchmark by one mechanism: the name of a public set under data/, or a folder.

A public set lies in data/test/NAME (cnnimageretrieval's layout, and where `dagf data get` puts it) or in
data/datasets/NAME (revisitop's), and is counted as it is loaded (`dagf.datasets.revisited.COUNTS`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dagf.datasets.benchmark import Benchmark, check_files
from dagf.datasets.folder import LABELS, TRUTH, folder_distractors, load_folder
from dagf.datasets.groups import load_holidays, load_ukbench
from dagf.datasets.oxford import IMAGES_OF, load_oxford
from dagf.datasets.revisited import check_counts
from dagf.errors import UserError, choose, shown
from dagf.files import present

LAYOUTS = ("test", "datasets")
LOADERS: Mapping[str, Callable[[str, Path], Benchmark]] = {
    "oxford5k": load_oxford,
    "paris6k": load_oxford,
    "roxford5k": load_oxford,
    "rparis6k": load_oxford,
    "holidays": load_holidays,
    "holidays-upright": load_holidays,
    "ukbench": load_ukbench,
    "grocery": lambda name, home: load_folder(home, name),
}


@dataclass(frozen=True)
class DistractorSet:
    """Images that are right for no query: those of `pattern` in a folder of data/.

    `listed`: the authors' own list. `remedy`: where none is there, if a download alone does not help.
    """

    folder: str
    pattern: str
    count: int | None = None
    listed: str = ""
    remedy: str = ""


DISTRACTORS: Mapping[str, DistractorSet] = {
    "r1m": DistractorSet("distractors/revisitop1m", "jpg/**/*", 1_001_001, "revisitop1m.txt"),
    "oxford100k": DistractorSet(
        "distractors/oxford100k",
        "**/*.jpg",
        remedy="unpack its parts there with an unrar tool (`dagf data get oxford100k` first)",
    ),
}


def spelled(what: str, names: Iterable[str] = LOADERS, kind: str = "benchmark") -> str:
    """`what` as the study keeps it: a name of `names` in small letters, or the whole path of a folder.

    Raises `UserError` for what is neither, with the nearest name.
    """
    if what.lower() in names:
        return what.lower()
    if present(what, folder=True):
        return str(Path(what).resolve())
    if len(Path(what).parts) > 1 or present(what):
        raise UserError(f"{what} is no folder: check the spelling, or make it first")
    try:
        return choose(kind, what.lower(), names)
    except UserError as error:
        raise UserError(f"{error}; or name a folder") from None


def place(what: str, data: Path) -> Path:
    """The folder of a benchmark: of a public set under `data`, in either layout, or the named folder itself.

    Raises `UserError` as `spelled`, and for a public set that is not there.
    """
    what = spelled(what)
    if what not in LOADERS:
        return Path(what)
    homes = [data / layout / what for layout in LAYOUTS]
    home = next((path for path in homes if path.is_dir()), None)
    if home is None:
        raise UserError(
            f"{what} is not here: get it with `dagf data get {what}`, or put it into {homes[0]}"
        )
    return home


def folders_of(what: str, data: Path) -> list[Path]:
    """All folders under `data` that hold a part of the public set `what`, and exist; none for any other folder."""
    if what in DISTRACTORS:
        return [data / DISTRACTORS[what].folder]
    names = (what, IMAGES_OF.get(what, what)) if what in LOADERS else ()
    homes = [data / layout / name for layout in LAYOUTS for name in dict.fromkeys(names)]
    return [home for home in homes if home.is_dir()]


def open_benchmark(what: str, data: Path, distractors: Sequence[str] = ()) -> Benchmark:
    """The benchmark `what`, a public set under `data` or a folder, with further distractors behind its own.

    A folder is taken for a public set where it has its name and no labels of its own. Raises `UserError` for anything
    that is missing, not as it must be, or two sets mixed up.
    """
    home = place(what, data)
    name = home.name.lower().replace("_", "-")
    own = any((home / file).exists() for file in (LABELS, TRUTH))
    if name in LOADERS and not own:
        benchmark = LOADERS[name](name, home)
        check_counts(benchmark)
        check_files(benchmark, "unpack the whole archive there, without sub-folders")
    else:
        benchmark = load_folder(home)
    _check_inside(benchmark)
    extra = [file for one in distractors for file in distractor_files(one, data)[0]]
    both = {path.absolute() for path in benchmark.database_paths} & {
        path.absolute() for path in extra
    }
    if both:
        raise UserError(
            f"{len(both)} distractors are images of {benchmark.name} itself, as {min(both)}: name another set"
        )
    return replace(benchmark, distractors=(*benchmark.distractors, *extra))


def _check_inside(benchmark: Benchmark) -> None:
    """Raise `UserError` for a ground truth that names files outside its folder."""
    for file in (*benchmark.database, *(query.file for query in benchmark.queries)):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise UserError(
                f"{benchmark.root}: its ground truth names {shown(file)}, which leaves the folder"
            )


def distractor_files(what: str, data: Path) -> tuple[list[Path], list[str]]:
    """The images of a public distractor set under `data`, or of a folder, and what differs from what it should hold.

    What is there is counted and taken; the authors' list is only compared, for list and archives disagree. Raises
    `UserError` as `spelled`, and where there is no image.
    """
    what = spelled(what, DISTRACTORS, "distractor set")
    if what not in DISTRACTORS:
        return folder_distractors(Path(what)), []
    one = DISTRACTORS[what]
    folder = data / one.folder
    files = sorted(path for path in folder.glob(one.pattern) if path.is_file())
    if not files:
        raise UserError(
            f"{folder} holds no image of {what}: {one.remedy or f'get it with `dagf data get {what}`'}"
        )
    wrong = (
        [f"{len(files)} images (expected {one.count})"]
        if one.count not in (None, len(files))
        else []
    )
    if one.listed and (folder / one.listed).is_file():
        base = folder / one.pattern.partition("/")[0]
        here = {path.relative_to(base).as_posix() for path in files}
        lines = (folder / one.listed).read_text(encoding="utf-8", errors="replace").split("\n")
        listed = {line.strip().removeprefix(f"{base.name}/") for line in lines if line.strip()}
        for some, words in (
            (listed - here, "in its list are not here"),
            (here - listed, "are not in its list"),
        ):
            if some:
                wrong.append(f"{len(some)} images {words}, as {', '.join(sorted(some)[:3])}")
    return files, wrong
