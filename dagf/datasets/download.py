"""Getting the public data sets of data/manifest.json: each appears under its name only when it is whole.

Unfinished work lies in data/downloads/NAME: the part of a file, whole files, and archives already unpacked. A stopped
download goes on from there; when the set is whole, it is moved to its place and the folder is removed. A ground truth
that comes as a pickle is kept as JSON, too, which is what is read from then on.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from dagf.datasets.manifest import UNPACKED, DataSet, RemoteFile, differences
from dagf.datasets.revisited import keep_as_json
from dagf.datasets.transfer import check_room, fetch, forget
from dagf.datasets.unpack import extract
from dagf.errors import UserError, choose
from dagf.files import atomic_folder, read_json, write_json

DOWNLOADS = "downloads"
SOURCE = (
    "source.json"  # in the set's folder: the address, size and sha256 of each file it was made from
)

Say = Callable[[str], None]


def state(one: DataSet, data: Path) -> str:
    """'here', 'begun' or 'not here'."""
    if _holds_something(data / one.folder):
        return "here"
    return "begun" if (data / DOWNLOADS / one.name).is_dir() else "not here"


def get(names: Iterable[str], sets: Mapping[str, DataSet], data: Path, say: Say = print) -> None:
    """Download the named sets and those they need into the folder `data`; those that are here are checked only.

    `say` is given one line for each thing that a person should know. Raises `UserError` for an unknown name, a set
    that no mirror has, a lack of room, and anything that is not as the manifest says.
    """
    for one in _with_needs([sets[choose("data set", name, sets)] for name in names], sets):
        if not _holds_something(data / one.folder):
            _make(one, data, say)
        else:
            wrong = differences(one, data / one.folder)
            if not wrong:  # left by a kill just before the end
                shutil.rmtree(data / DOWNLOADS / one.name, ignore_errors=True)
            if wrong and one.expected.exact:
                raise UserError(
                    f"{data / one.folder} has {'; '.join(wrong)}: move it away to get it again"
                )
            say(f"{one.name}: here, in {data / one.folder}")
            _remark(one, wrong, say)


def _with_needs(wanted: Iterable[DataSet], sets: Mapping[str, DataSet]) -> list[DataSet]:
    order: dict[str, DataSet] = {}
    for one in wanted:
        for name in (*one.needs, one.name):
            order.setdefault(name, sets[name])
    return list(order.values())


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _make(one: DataSet, data: Path, say: Say) -> None:
    work = data / DOWNLOADS / one.name
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work.with_name(f"{work.name}.lock"), timeout=0):
            if _holds_something(data / one.folder):  # another process has just made it
                shutil.rmtree(work, ignore_errors=True)
                return
            work.mkdir(exist_ok=True)  # which may have removed this one
            left = [file for file in one.files if not _unpacked(work, file).is_dir()]
            archives = [file.known_bytes for file in left if file.archive in UNPACKED]
            there = sum(path.stat().st_size for path in work.glob("*.part"))
            check_room(
                work,
                one.name,
                sum(file.known_bytes for file in left) + max(archives, default=0) - there,
            )
            for file in left:
                _prepare(file, work, say)
            _finish(one, work, data / one.folder, say)
    except Timeout:
        raise UserError(
            f"{one.name} is being downloaded by another process: wait for it, or stop it"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or work}: {error.strerror}; mend that, then start again"
        ) from error


def _unpacked(work: Path, file: RemoteFile) -> Path:
    return work / f"{file.file}.unpacked"


def _prepare(file: RemoteFile, work: Path, say: Say) -> None:
    """Fetch one file and lay what it holds out in a folder of its own, in the layout of the set."""
    path = work / file.file
    source = fetch(file, path)
    known = "" if file.checked else " (in no manifest: recorded)"
    say(f"{file.file}: {source.bytes} bytes, sha256 {source.sha256}{known}")
    with atomic_folder(_unpacked(work, file)) as folder:
        inside = folder / file.into
        inside.mkdir(parents=True, exist_ok=True)
        write_json(folder / SOURCE, asdict(source))
        if file.archive in UNPACKED:
            try:
                made = extract(
                    path,
                    file.archive,
                    inside,
                    keep=file.keep,
                    flatten=file.flatten,
                    strip=file.strip,
                )
                if not made:
                    raise UserError(
                        f"{path} holds no {file.keep}: it is another archive than expected, get it again"
                    )
            except UserError:
                path.unlink()  # else the next start would take it for good
                forget(path)
                raise
            path.unlink()
        else:
            path.replace(inside / path.name)
    forget(path)


def _finish(one: DataSet, work: Path, target: Path, say: Say) -> None:
    """Bring the parts together, check the whole, and give it its name."""
    whole = work / "whole"
    whole.mkdir(exist_ok=True)
    sources = {file.file: read_json(_unpacked(work, file) / SOURCE) for file in one.files}
    for file in one.files:
        folder = _unpacked(work, file)
        for path in sorted(
            folder.rglob("*")
        ):  # a file that was moved before a kill is no longer there
            if path.is_file() and path != folder / SOURCE:
                place = whole / path.relative_to(folder)
                if place.exists():
                    raise UserError(
                        f"{one.name}: two of its archives hold {place.name}; delete {work} and start again"
                    )
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
    wrong = differences(one, whole)
    if wrong and one.expected.exact:
        raise UserError(
            f"{one.name} has {'; '.join(wrong)}: delete {work} to get it again, or correct data/manifest.json if the "
            "set itself has changed"
        )
    for truth in whole.glob("gnd_*.pkl"):
        keep_as_json(truth)
    write_json(whole / SOURCE, sources)
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.replace(target)
    shutil.rmtree(work, ignore_errors=True)
    say(f"{one.name}: whole, in {target}")
    _remark(one, wrong, say)


def _remark(one: DataSet, wrong: list[str], say: Say) -> None:
    for line in (*wrong, *([one.notes] if one.notes else [])):
        say(f"{one.name}: {line}")


def line(one: DataSet, data: Path) -> str:
    """What `dagf data list` says of a set: name, state, size as far as it is known, title."""
    size = sum(file.known_bytes for file in one.files)
    shown = f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB" if size else "?"
    return f"{one.name:20} {state(one, data):9} {shown:>9}  {one.title}"
