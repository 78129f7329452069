"""The commands of `dagf data` that judge and convert a user's data: thin, as `dagf.cli`, whose group they join."""

from pathlib import Path

import click

from dagf.common import UserError


@click.command("check")
@click.argument("what", metavar="NAME-OR-FOLDER")
def check_data(what: str) -> None:
    """Check a public set by name, Toytown, or a folder of photographs: files, counts, labels, boxes.

    \b
    dagf data check roxford5k
    dagf data check r1m
    dagf data check data/toytown-0123456789ab
    dagf data check ~/photos
    """
    from dagf.study import paths
    from dagf.study.checking import check

    click.echo("\n".join(check(what, paths.data())))


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--from", "listing", type=click.Path(path_type=Path), help="A CSV; without it, sub-folders are instances."
)
@click.option("--column", "columns", multiple=True, metavar="OURS=THEIRS", help="What the CSV calls a column of ours.")
@click.option("--force", is_flag=True, help="Replace the ground truth that the folder has.")
def import_data(folder: Path, listing: Path | None, columns: tuple[str, ...], force: bool) -> None:
    """Make FOLDER a benchmark from other people's ground truth: folder names, a CSV, or a list of pairs.

    A CSV has the columns file and instance (and role), or query and positives (and junk), under any names.

    \b
    dagf data import PHOTOS
    dagf data import PHOTOS --from index.csv --column file=path --column instance=landmark_id
    dagf data import PHOTOS --from pairs.csv --force
    """
    from dagf.benchmarks.convert import convert

    pairs = [column.partition("=") for column in columns]
    known = ("file", "instance", "role", "query", "positives", "junk")
    for ours, _, theirs in pairs:
        if ours not in known or not theirs:
            raise UserError(f"--column {ours}={theirs}: expected OURS=THEIRS with one of {', '.join(known)}")
    click.echo("\n".join(convert(folder, listing, {ours: theirs for ours, _, theirs in pairs}, force)))
