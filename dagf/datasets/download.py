"""The public data sets of data/manifest.json, each under its name only when it is whole.

Unfinished work lies in data/downloads/NAME: the part of a file, whole files, and what has been
unpacked. A stopped download goes on from there; when the set is whole, it is moved to its place.
A ground truth that comes as a pickle is kept as JSON, too, which is what is read from then on.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from dagf.console import headless
from dagf.datasets.manifest import DataSet, RemoteFile, differences
from dagf.datasets.revisited import load_ground_truth
from dagf.datasets.unpack import unpack
from dagf.errors import UserError, choose
from dagf.files import file_sha256, read_json, write_json

DOWNLOADS = "downloads"
SOURCE = "source.json"  # in a set's folder: address, size and sha256 of each file it was made from
ATTEMPTS = 4  # without a new byte, at one mirror
PAUSE = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0
SPARE = 2**28  # bytes of the disk that are left alone
PASSING = {408, 429, 500, 502, 503, 504}
HEADERS = {"User-Agent": "dagf", "Accept-Encoding": "identity"}
Say = Callable[[str], Any]


def state(one: DataSet, data: Path) -> str:
    """Return 'here', 'begun' or 'not here'."""
    if _holds_something(data / one.folder):
        return "here"
    return "begun" if (data / DOWNLOADS / one.name).is_dir() else "not here"


def line(one: DataSet, data: Path) -> str:
    """Return what `dagf data list` says of a set: name, state, size if known, title."""
    size = sum(file.bytes for file in one.files)
    shown = f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB" if size else "?"
    return f"{one.name:20} {state(one, data):9} {shown:>9}  {one.title}"


def get(names: Iterable[str], sets: Mapping[str, DataSet], data: Path, say: Say = print) -> None:
    """Download the named sets and those they need into `data`; those that are here are checked.

    `say` is given one line for each thing that a person should know. Raise `UserError` for an
    unknown name, a file that no mirror has, a lack of room, and a set that is not as expected.
    """
    wanted = [sets[choose("data set", name, sets)] for name in names]
    for name in dict.fromkeys(name for one in wanted for name in (*one.needs, one.name)):
        one, home = sets[name], data / sets[name].folder
        if _holds_something(home):
            wrong = differences(one, home)
            if wrong and one.expected.exact:
                raise UserError(f"{home} has {'; '.join(wrong)}: move it away to get it again")
        else:
            try:
                wrong = _make(one, data, say)
            except OSError as error:
                raise UserError(
                    f"cannot write {error.filename or data}: {error.strerror}; mend that, then"
                    " start again"
                ) from error
        shutil.rmtree(data / DOWNLOADS / name, ignore_errors=True)
        say(f"{name}: here, in {home}")
        for remark in filter(None, (*wrong, one.notes)):
            say(f"{name}: {remark}")


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _make(one: DataSet, data: Path, say: Say) -> list[str]:
    """Fetch and unpack one file after the other, check the whole, and give it its name.

    Returns what is not as expected, where that is no reason to refuse the set.
    """
    work, target = data / DOWNLOADS / one.name, data / one.folder
    whole = work / "whole"
    work.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work.with_name(f"{work.name}.lock"), timeout=0):
            if _holds_something(target):  # another process was done just before
                return differences(one, target)
            whole.mkdir(parents=True, exist_ok=True)
            done = read_json(whole / SOURCE) if (whole / SOURCE).is_file() else {}
            left = [file for file in one.files if file.file not in done]
            _check_room(work, one.name, left)
            for file in left:
                done[file.file] = fetch(file, work, say)
                _lay_out(file, work / file.file, whole / file.into)
                write_json(whole / SOURCE, done)
                (work / file.file).unlink(missing_ok=True)
            wrong = differences(one, whole)
            if wrong and one.expected.exact:
                raise UserError(
                    f"{one.name} has {'; '.join(wrong)}: delete {work} to get it again, or correct"
                    " data/manifest.json if the set itself has changed"
                )
            for truth in whole.glob("gnd_*.pkl"):
                write_json(truth.with_suffix(".json"), load_ground_truth(truth))
            target.parent.mkdir(parents=True, exist_ok=True)
            whole.replace(target)
            return wrong
    except Timeout:
        raise UserError(
            f"{one.name} is being downloaded by another process: wait for it, or stop it"
        ) from None


def _lay_out(file: RemoteFile, path: Path, folder: Path) -> None:
    """Put what a fetched file holds into `folder`; one that is damaged is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    if file.archive in (None, "rar"):
        path.replace(folder / path.name)
        return
    try:
        if not unpack(path, folder, file.keep, file.flatten, file.strip):
            raise UserError(f"{path} holds no {file.keep}: get it again")
    except UserError:
        path.unlink()  # else the next start would take it for good
        raise


def _check_room(folder: Path, what: str, files: list[RemoteFile]) -> None:
    archives = [file.bytes for file in files if file.archive]
    there = sum(path.stat().st_size for path in folder.glob("*.part"))
    needed = sum(file.bytes for file in files) + max(archives, default=0) - there
    free = shutil.disk_usage(folder).free
    if needed > 0 and free < needed + SPARE:
        raise UserError(
            f"{what} needs about {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are"
            " free: make room, then start the same command again"
        )


def fetch(file: RemoteFile, folder: Path, say: Say) -> dict[str, Any]:
    """Fetch a file into `folder` from the first mirror that has it; return address, bytes, sha256.

    One that is there already (put there by hand, say) is only verified. Raise `UserError` when no
    mirror has it.
    """
    path, part, faults = folder / file.file, folder / f"{file.file}.part", []
    pooch.get_logger().setLevel(logging.WARNING)
    for url in file.mirrors:
        try:
            known = f"md5:{_published_md5(file.md5_from)}" if file.md5_from else file.sha256
            pooch.retrieve(url, known, file.file, folder, downloader=resume)
        except (requests.RequestException, ValueError) as error:
            if not isinstance(error, requests.RequestException):  # pooch: another checksum
                part.unlink(missing_ok=True)
            faults.append(f"{url}: {' '.join(str(error).split())[:200]}")
            continue
        part.unlink(missing_ok=True)
        note = _note(part)
        address = read_json(note)["url"] if note.is_file() else "put here by hand"
        size, sha256 = path.stat().st_size, file_sha256(path)
        say(
            f"{file.file}: {size} bytes, sha256 {sha256}"
            f"{'' if known else ' (in no manifest: recorded)'}"
        )
        return {"address": address, "bytes": size, "sha256": sha256}
    raise UserError(
        f"cannot get {file.file} ({'; '.join(faults)}): start the same command again to go on, or"
        f" put it at {path}"
    )


def _published_md5(url: str) -> str:
    response = requests.get(url, headers=HEADERS, timeout=TIMEOUT)
    response.raise_for_status()
    found = re.search(r"\b[0-9a-f]{32}\b", response.text.lower())
    if not found:
        raise ValueError(f"{url} holds no md5")
    return found[0]


def resume(url: str, output_file: str, _: object = None) -> None:
    """Download `url` to `output_file`, going on with what an earlier attempt left beside it.

    A downloader for `pooch.retrieve`. A dropped connection is taken up again while new bytes come.
    """
    part = Path(output_file).with_name(f"{url.rpartition('/')[2]}.part")
    best, failures = 0, 0
    while True:
        try:
            _request(url, part)
            break
        except requests.RequestException as error:
            size = part.stat().st_size if part.is_file() else 0
            failures = 0 if size > best else failures + 1
            best = max(best, size)
            status = 0 if error.response is None else error.response.status_code
            if (status and status not in PASSING) or failures >= ATTEMPTS:
                raise
            time.sleep(PAUSE * 2**failures)
    Path(output_file).unlink(missing_ok=True)
    try:
        Path(output_file).hardlink_to(part)  # kept until it is verified, which takes a while
    except OSError:  # a file system without links
        part.replace(output_file)


def _note(part: Path) -> Path:
    """Return the file that says of which version a part is: url, validator, total."""
    return part.with_name(f"{part.name}.json")


def _request(url: str, part: Path) -> None:
    note = _note(part)
    known = read_json(note) if note.is_file() and part.is_file() else {}
    have = part.stat().st_size if known.get("url") == url and known["version"] else 0
    if have and have == known["total"]:
        return
    wanted = {"Range": f"bytes={have}-", "If-Range": known["version"]} if have else {}
    with requests.get(url, headers=HEADERS | wanted, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.HTTPError("a web page in place of the file", response=response)
        have = have if response.status_code == 206 else 0
        length, etag = response.headers.get("Content-Length"), response.headers.get("ETag", "W/")
        total = have + int(length) if length else None
        version = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        write_json(note, {"url": url, "version": version if total else None, "total": total})
        with (
            part.open("ab" if have else "wb") as target,
            tqdm(
                *(None, part.stem, total), initial=have, unit="B", unit_scale=True, leave=False,
                delay=2, disable=headless(),
            ) as bar,
        ):  # fmt: skip
            for block in response.iter_content(2**14):  # what a dropped connection loses
                target.write(block)
                bar.update(len(block))
    if total and part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection ended before {total} bytes")
