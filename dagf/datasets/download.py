"""The public data sets of data/manifest.json, each under its name only when it is whole.

Unfinished work lies in data/downloads/NAME: the part of a file, whole files, and what has been
unpacked. A stopped download goes on from there; when the set is whole, it is moved to its place.
Its ground truth is then kept in our form, too, which is what is read from then on.
"""

import logging
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from dagf.console import progress
from dagf.datasets.convert import convert_public
from dagf.datasets.public import DataSet, RemoteFile, differences
from dagf.errors import UserError, choose
from dagf.files import file_sha256, read_json, write_json

DOWNLOADS = "downloads"
SOURCE = "source.json"  # in a set's folder: address, size and sha256 of each file it was made from
PAUSE = 1.0  # seconds before the second attempt at a mirror; doubled for each further one
TIMEOUT = 30.0
BLOCK = 2**20  # bytes: what a dropped connection loses at most
PASSING = (408, 429, 500, 502, 503, 504)
HEADERS = {"User-Agent": "dagf", "Accept-Encoding": "identity"}


def state(one: DataSet, data: Path) -> str:
    """Return 'here', 'begun' or 'not here'."""
    home = data / one.folder
    if home.is_dir() and any(home.iterdir()):
        return "here"
    return "begun" if (data / DOWNLOADS / one.name).is_dir() else "not here"


def line(one: DataSet, data: Path) -> str:
    """Return what `dagf data list` says of a set: name, state, size if known, title."""
    size = sum(file.bytes for file in one.files)
    shown = f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB" if size else "?"
    return f"{one.name:20} {state(one, data):9} {shown:>9}  {one.title}"


def get(
    names: Iterable[str], sets: Mapping[str, DataSet], data: Path, say: Callable[[str], Any] = print
) -> None:
    """Download the named sets and those they need into `data`; those that are here are checked.

    `say` is given one line for each thing that a person should know. Raise `UserError` for an
    unknown name, a file that no mirror has, and a set that is not as expected.
    """
    wanted = [sets[choose("data set", name, sets)] for name in names]
    for name in dict.fromkeys(name for one in wanted for name in (*one.needs, one.name)):
        one, work = sets[name], data / DOWNLOADS / name
        home = data / one.folder
        work.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(work.with_name(f"{name}.lock")):  # another process may be at it
            folder = home if state(one, data) == "here" else _fetched(one, work, say)
            if wrong := differences(one, folder):
                remedy = "move it away to get it again, or mend data/manifest.json"
                raise UserError(f"{folder} has {'; '.join(wrong)}: {remedy}")
            convert_public(name, folder)
            if folder != home:
                home.parent.mkdir(parents=True, exist_ok=True)
                folder.replace(home)
            shutil.rmtree(work, ignore_errors=True)
        say(f"{name}: here, in {home}")
        if one.notes:
            say(f"{name}: {one.notes}")


def _fetched(one: DataSet, work: Path, say: Callable[[str], Any]) -> Path:
    """Return a folder with the files of a set, each fetched and laid out unless it was before."""
    whole = work / "whole"
    whole.mkdir(parents=True, exist_ok=True)
    done = read_json(whole / SOURCE) if (whole / SOURCE).is_file() else {}
    for file in one.files:
        if file.file in done:
            continue
        done[file.file] = source = fetch(file, work)
        say(f"{file.file}: {source['bytes']} bytes, sha256 {source['sha256']}")
        path, folder = work / file.file, whole / file.into
        folder.mkdir(parents=True, exist_ok=True)
        if file.members:
            say(f"unpacking {path.name}")
            unpack(path, folder, file.members)
        else:
            path.replace(folder / path.name)
        write_json(whole / SOURCE, done)
        path.unlink(missing_ok=True)
    return whole


def fetch(file: RemoteFile, folder: Path) -> dict[str, Any]:
    """Fetch a file into `folder` from the first mirror that has it; return address, bytes, sha256.

    One that is there already (put there by hand, say) is only verified. Raise `UserError` when no
    mirror has it.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    path, faults = folder / file.file, []
    for url in file.mirrors:
        try:
            known = file.sha256
            if file.md5_from:  # a text with the digits somewhere
                told = requests.get(file.md5_from, headers=HEADERS, timeout=TIMEOUT)
                told.raise_for_status()
                digits = re.search(r"\b[0-9a-f]{32}\b", told.text.lower())
                if not digits:
                    raise ValueError(f"{file.md5_from} has no md5")
                known = f"md5:{digits[0]}"
            pooch.retrieve(url, known, file.file, folder, downloader=resume)
        except (requests.RequestException, ValueError) as error:  # pooch's for another checksum
            faults.append(f"{url}: {' '.join(str(error).split())[:200]}")
            continue
        note = folder / f"{file.file}.part.json"
        address = read_json(note)["url"] if note.is_file() else "put here by hand"
        return {"address": address, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    raise UserError(
        f"cannot get {file.file} ({'; '.join(faults)}): start the same command again to go on, or"
        f" put it at {path}"
    )


def resume(url: str, output_file: str, _: object = None) -> None:
    """Download `url` to `output_file`, going on with what an earlier attempt left beside it.

    A downloader for `pooch.retrieve`. A dropped connection is taken up again while new bytes come.
    """
    part = Path(output_file).with_name(f"{url.rpartition('/')[2]}.part")
    with requests.Session() as session:
        retry = Retry(total=4, backoff_factor=PAUSE, status_forcelist=PASSING)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        before = -1
        while True:
            try:
                _request(session, url, part)
                break
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                size = part.stat().st_size if part.is_file() else 0
                if size <= before:
                    raise
                before = size
    part.replace(output_file)


def _request(session: requests.Session, url: str, part: Path) -> None:
    """Append what `part` lacks, if its note (url, version) says that it is of the same file."""
    note = part.with_name(f"{part.name}.json")
    known = read_json(note) if note.is_file() and part.is_file() else {}
    have = part.stat().st_size if known.get("url") == url and known["version"] else 0
    wanted = {"Range": f"bytes={have}-", "If-Range": known["version"]} if have else {}
    with session.get(url, headers=HEADERS | wanted, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing is beyond what we have
            return
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.HTTPError("a web page in place of the file", response=response)
        etag = response.headers.get("ETag", "W/")
        version = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        blocks = int(response.headers.get("Content-Length", 0)) // BLOCK or None
        with part.open("ab" if response.status_code == 206 else "wb") as target:
            write_json(note, {"url": url, "version": version})
            for block in progress(response.iter_content(BLOCK), part.stem, blocks, "MiB"):
                target.write(block)


def unpack(archive: Path, folder: Path, members: str) -> None:
    """Unpack the files of a zip or (compressed) tar that match a pattern, under its group's name.

    By the libraries' safe extraction, so that no name leaves the folder; links are left out. A
    .tar.gz inside is unpacked, too, in its place. Raise `UserError` for a broken archive, which is
    deleted.
    """
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        try:
            if archive.suffix == ".zip":
                shutil.unpack_archive(archive, temporary)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(temporary, filter=_with_our_modes)
                    while tar.fileobj and tar.fileobj.read(2**20):
                        pass  # to its end, where gzip has the checksum
            for inner in [*Path(temporary).rglob("*.tar.gz")]:
                unpack(inner, inner.parent, "(.+)")
        except Exception as error:  # the libraries raise nearly anything on broken bytes
            if isinstance(error, OSError) and error.errno:  # of the disk
                raise
            archive.unlink()
            reason = " ".join(str(error).split())
            raise UserError(f"{archive} cannot be unpacked ({reason}): get it again") from error
        for path in Path(temporary).rglob("*"):
            found = re.fullmatch(members, path.relative_to(temporary).as_posix())
            if found and path.is_file() and not path.is_symlink():
                target = folder / found[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)


def _with_our_modes(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    """Filter as "data" does; who may read a file is for the umask to say, not for the archive."""
    return tarfile.data_filter(member, path).replace(mode=None)  # type: ignore[arg-type]
