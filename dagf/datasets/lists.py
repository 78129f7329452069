"""Lists in CSV files: labels that a person writes, and those that come with the public sets."""

import csv
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dagf.errors import UserError

MAX_BYTES = 256 * 2**20  # the largest known list, of Google Landmarks v2, is below 100 MB


def check_size(path: Path, remedy: str = "") -> None:
    """Raise `UserError` for what is no regular file, for it might never end, or is larger than any list.

    Raises `OSError` where there is nothing.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is no regular file: {remedy or 'put a text file there'}")
    if about.st_size > MAX_BYTES:
        wrong = f"{path} has {about.st_size} bytes, too many for a list (limit {MAX_BYTES})"
        raise UserError(f"{wrong}: {remedy or 'check the file'}")


def read_csv(
    path: Path,
    columns: Sequence[str],
    renamed: Mapping[str, str] | None = None,
    delimiter: str = ",",
    remedy: str = "",
) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV with a header: their number, and the cells by column, without spaces around them.

    `renamed` maps columns of the file to other names. Raises `UserError`, one line with the file and the remedy (of a
    list that nobody writes by hand the given one), where it lacks one of `columns` or has one twice, a line has too
    few or too many cells, or the file cannot be read.
    """
    try:
        check_size(path, remedy)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True, delimiter=delimiter)
            header = [
                (renamed or {}).get(column.strip(), column.strip())
                for column in reader.fieldnames or []
            ]
            reader.fieldnames = header
            if twice := [
                column for column, count in Counter(header).items() if column and count > 1
            ]:
                wrong = f"{path} has the column {twice[0]} {Counter(header)[twice[0]]} times"
                raise UserError(f"{wrong}; {remedy or 'give it once, and others another name'}")
            if not set(columns) <= set(header):
                found = f"has the columns {', '.join(header)}" if header else "is empty"
                wanted = f"its first line must be {','.join(columns)}"
                raise UserError(f"{path} {found}: {wanted}, {remedy or 'with commas'}")
            for cells in reader:
                if None in cells or None in cells.values():
                    wrong = f"{path}, line {reader.line_num}: too many or too few cells"
                    raise UserError(f"{wrong}; {remedy or 'quote a name that contains a comma'}")
                yield reader.line_num, {column: cell.strip() for column, cell in cells.items()}
    except FileNotFoundError:
        wanted = remedy or f"write one line '{','.join(columns)}' for each image"
        raise UserError(f"{path} does not exist: {wanted}") from None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; {remedy or 'it must be a readable text file'}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}): {remedy or 'save it again as UTF-8'}"
        ) from None
    except csv.Error as error:
        # the reader stands behind the last good line; an unclosed quote runs on to the file's end
        wrong = f"{path}, line {reader.line_num + 1}: {error}"
        raise UserError(f"{wrong}; {remedy or 'mend this line and its quotes'}") from None
