"""One file from the first mirror that has it, over HTTP(S): resumed where it stopped, verified before it is used."""

import hashlib
import http.client
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib import error as url_error
from urllib import request as url

from dagf.console import headless
from dagf.datasets.manifest import RemoteFile, web_address
from dagf.datasets.unpack import looks_like
from dagf.errors import UserError

ATTEMPTS = 4  # without a new byte, at one mirror
PAUSE = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0
SPARE = 2**28  # bytes of the disk that are left alone
_BLOCK = 2**18
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Source:
    """Where a file came from, and what it is: what a later reader needs to get the same one."""

    address: str
    bytes: int
    sha256: str


class _MirrorFault(Exception):
    """This mirror will not do; the next may."""


class _Interrupted(Exception):
    """It went wrong midway; the same mirror may go on."""


class _WebOnly(url.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if not web_address(newurl):
            fp.close()
            raise _MirrorFault("it redirects to an address that is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> url.OpenerDirector:
    """HTTP and HTTPS alone: the default opener would also read local files and FTP."""
    opener = url.OpenerDirector()
    for handler in (
        *(url.ProxyHandler(), url.UnknownHandler(), url.HTTPHandler(), url.HTTPSHandler()),
        *(url.HTTPDefaultErrorHandler(), _WebOnly(), url.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    return opener


def fetch(file: RemoteFile, path: Path) -> Source:
    """`path`, whole and verified, from the first of the file's mirrors that has it.

    What a stopped download left in `path.part` is gone on with. A file that somebody put at `path` by hand is
    verified like a downloaded one. Where the file came from stays in `path.part.json` until `forget`. Raises
    `UserError` when no mirror has the file, or the disk has no room.
    """
    faults = []
    part = path.with_name(f"{path.name}.part")
    try:
        md5 = _published_md5(file.md5_from) if file.md5_from else None
    except _MirrorFault as fault:
        raise UserError(
            f"cannot get the md5 of {file.file} ({fault}): start the same command again later"
        ) from None
    if path.is_file():
        try:
            digest = _verify(file, path, md5)
        except _MirrorFault as fault:
            raise UserError(
                f"{path} is not the file that was asked for ({fault}): delete it, start again"
            ) from None
        known = _recall(part)  # of a download that was stopped when it was whole
        origin = known["address"] if known.get("sha256") == digest else "put here by hand"
        return Source(origin, path.stat().st_size, digest)
    for number, address in enumerate(file.mirrors, 1):
        try:
            digest = _one_mirror(file, address, part, md5)
        except _MirrorFault as fault:
            faults.append(f"mirror {number}, {address.rpartition('/')[2]}: {fault}")
            continue
        known = _recall(part) | {"address": address, "sha256": digest}
        _state(part).write_text(json.dumps(known), encoding="utf-8")
        part.replace(path)
        return Source(address, path.stat().st_size, digest)
    raise UserError(
        f"cannot get {file.file} ({'; '.join(faults)}): start the same command again to go on, or put it at {path}"
    )


def _one_mirror(file: RemoteFile, address: str, part: Path, md5: str | None) -> str:
    """`part`, whole and verified; one that began with what an earlier run left, and proves wrong, is begun anew."""
    resumed = part.is_file()
    _download(file, address, part)
    try:
        return _verify(file, part, md5)
    except _MirrorFault:
        _forget(part)
        if not resumed:
            raise
    return _one_mirror(file, address, part, md5)


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _recall(part: Path) -> dict[str, Any]:
    try:
        value = json.loads(_state(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def forget(path: Path) -> None:
    """Remove what `fetch` knows of `path`: it has been put to use."""
    _forget(path.with_name(f"{path.name}.part"))


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _download(file: RemoteFile, address: str, part: Path) -> None:
    """`part` to its end from one mirror; a dropped connection is taken up again while new bytes come."""
    best, failures = 0, 0
    while True:
        try:
            return _request(file, address, part)
        except _Interrupted as why:
            size = part.stat().st_size if part.is_file() else 0
            failures = 0 if size > best else failures + 1
            best = max(best, size)
            if failures >= ATTEMPTS:
                raise _MirrorFault(str(why)) from None
            time.sleep(PAUSE * 2**failures)


def _request(file: RemoteFile, address: str, part: Path) -> None:
    known = _recall(part)
    same = known.get("address") == address
    have = part.stat().st_size if part.is_file() else 0
    # A piece of another version cannot be told from the right one but by a checksum, an ETag or, at least, the size.
    if not file.checked and not (same and (known.get("validator") or known.get("total"))):
        have = 0
    if have and have == (file.bytes or known.get("total")):
        return
    headers = {"User-Agent": "dagf", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if same and known.get("validator"):
            headers["If-Range"] = known["validator"]
    try:
        response = _opener().open(url.Request(address, headers=headers), timeout=TIMEOUT)
    except url_error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                _forget(part)
                raise _Interrupted("its size is not that of the part that is here") from None
            kind = _Interrupted if error.code in _PASSING else _MirrorFault
            raise kind(f"HTTP {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Interrupted(_short(error)) from None
    with response:
        if response.status not in (200, 206):
            raise _MirrorFault(f"HTTP {response.status}")
        start = have if response.status == 206 else 0
        total = None if response.length is None else start + response.length
        if response.status == 206:
            found = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "")
            )
            wrong = (
                not found
                or int(found[1]) != have
                or found[2] not in ("*", str(known.get("total") or found[2]))
            )
            if wrong or (
                found and found[2] != "*" and total is not None and int(found[2]) != total
            ):
                _forget(part)
                raise _Interrupted("it went on with another part than was asked for")
        if file.bytes and total and total != file.bytes:
            raise _MirrorFault(f"it has {total} bytes, expected {file.bytes}")
        _check_room(file, part, start, total)
        etag = response.headers.get("ETag", "")
        validator = (
            etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        )
        _store(
            file,
            response,
            part,
            start,
            total,
            {"address": address, "validator": validator, "total": total},
        )


def _store(
    file: RemoteFile,
    response: Any,
    part: Path,
    start: int,
    total: int | None,
    state: dict[str, Any],
) -> None:
    from tqdm.auto import tqdm

    size = start
    try:
        with part.open("ab" if start else "wb") as target:
            _state(part).write_text(json.dumps(state), encoding="utf-8")
            with tqdm(
                desc=file.file, total=total or file.known_bytes or None, initial=start, unit="B", unit_scale=True,
                unit_divisor=1024, disable=headless(), leave=False, delay=2,
            ) as bar:  # fmt: skip
                while block := _read(response):
                    target.write(block)
                    size += len(block)
                    bar.update(len(block))
                    if file.bytes and size > file.bytes:
                        break
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {part}: {error.strerror}; make room, then start the same command again"
        ) from error
    if total is not None and size < total:
        raise _Interrupted(f"the connection ended at {size} of {total} bytes")


def _read(response: Any) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Interrupted(_short(error)) from None


def _short(error: BaseException) -> str:
    return " ".join(str(getattr(error, "reason", error)).split())[:120] or type(error).__name__


def _check_room(file: RemoteFile, part: Path, start: int, total: int | None) -> None:
    """Room for the rest of the file and, of an archive of photographs, once more for what it holds."""
    size = total or file.known_bytes
    check_room(part.parent, file.file, size - start + (size if file.archive else 0))


def check_room(folder: Path, what: str, needed: int) -> None:
    """Raise `UserError` where the disk of `folder` has no room for `needed` bytes more."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and free < needed + SPARE:
        raise UserError(
            f"{what} needs about {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free: make room, "
            "then start the same command again"
        )


def _verify(file: RemoteFile, path: Path, expected_md5: str | None) -> str:
    """The sha256 of `path`; a fault where it is not the file that the manifest describes."""
    size = path.stat().st_size
    if file.bytes and size != file.bytes:
        raise _MirrorFault(f"it has {size} bytes, expected {file.bytes}")
    if size == 0:
        raise _MirrorFault("it is empty")
    if file.archive and not looks_like(path, file.archive):
        raise _MirrorFault(f"it is no {file.archive} archive")
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            sha256.update(block)
            if expected_md5:
                md5.update(block)
    if file.sha256 and sha256.hexdigest() != file.sha256:
        raise _MirrorFault("its sha256 is another")
    if expected_md5 and md5.hexdigest() != expected_md5:
        raise _MirrorFault("its md5 is another")
    return sha256.hexdigest()


def _published_md5(address: str) -> str:
    try:
        with _opener().open(
            url.Request(address, headers={"User-Agent": "dagf"}), timeout=TIMEOUT
        ) as response:
            text = response.read(4096).decode("ascii", errors="replace").lower()
    except url_error.HTTPError as error:
        with error:
            raise _MirrorFault(f"{address.rpartition('/')[2]}: HTTP {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorFault(f"{address.rpartition('/')[2]}: {_short(error)}") from None
    found = re.search(r"\b[0-9a-f]{32}\b", text)
    if not found:
        raise _MirrorFault(f"{address.rpartition('/')[2]} holds no md5")
    return found[0]
