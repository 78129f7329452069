"""What files hold, as sha256: a file is read again only if its size or times have changed."""

import json
import os
from contextlib import suppress
from pathlib import Path

from dagf.errors import UserError
from dagf.files import content_hash, file_sha256, read_json, walk, write_text


class Contents:
    """The sha256 of files, each read once; `save` remembers them in the file `kept`."""

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept
        self._known: dict[str, list[int | str]] = {}  # path -> size, two times in ns, sha256
        self._new = False
        if kept and kept.is_file():
            with suppress(UserError):  # a broken one is made again
                self._known = read_json(kept)

    def sha256(self, file: Path) -> str:
        """Return the sha256 of a file, as 64 hex digits; raise `UserError` if it is unreadable."""
        name = str(file.absolute())
        try:
            stat = file.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            if self._known.get(name, [])[:-1] != stamp:
                self._known[name] = [*stamp, file_sha256(file)]
                self._new = True
        except OSError as error:
            raise UserError(
                f"cannot read {file} ({error.strerror}): make it readable, or take it away"
            ) from error
        return str(self._known[name][-1])

    def folder_hash(self, folder: Path) -> str:
        """Return the hash of names and contents in a folder, hidden files apart; '' without one."""
        if not folder.is_dir():
            return ""
        found, known = walk(folder), list[list[str]]()
        for path, why in found.unread.items():
            raise UserError(f"cannot read {path} ({why}): make it readable, or take it away")
        for path in sorted(found.files):
            known.append([path.relative_to(folder).as_posix(), self.sha256(path)])
        for path in found.links:  # what is not followed still gives files their names
            leads = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
            known.append([path.relative_to(folder).as_posix(), leads])
        return content_hash(known)

    def save(self) -> None:
        """Remember what was found; where nothing can be written, files are read again."""
        if self._kept and self._new:
            with suppress(OSError, UserError):
                write_text(self._kept, json.dumps(self._known))
            self._new = False


def remembered(data: Path) -> Contents:
    """Return the contents that studies, checks and reports of one data folder share."""
    return Contents(data / "cache" / "contents.json")
