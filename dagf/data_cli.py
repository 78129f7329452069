"""The commands of `dagf data`: thin, as `dagf.cli`, whose group they join."""

from collections.abc import Iterable
from pathlib import Path

import click

from dagf.errors import UserError, printable


@click.group()
def data() -> None:
    """List, make, get, check and import data sets."""


@data.command("list")
def list_data() -> None:
    """The drawings of Toytown and the public data sets: which are here, and how large a download is.

    \b
    dagf data list
    """
    from dagf import paths
    from dagf.datasets.download import line
    from dagf.datasets.manifest import read_manifest

    sets = read_manifest(paths.data() / "manifest.json")
    click.echo("\n".join([*_drawings(), *(line(one, paths.data()) for one in sets.values())]))


def _drawings() -> list[str]:
    """Return a line for each profile's Toytown, made or not, and for any other one that is here."""
    from dagf import paths
    from dagf.datasets.toytown import toytown_spec
    from dagf.study import profiles
    from dagf.study.config import load_profile

    named = [load_profile(name) for name in profiles.names()]
    profile_of = {f"toytown-{one.drawing.id}": one.name for one in named if one.toytown}
    here = {folder.name: folder for folder in sorted(paths.data().glob("toytown-*"))}
    lines = [
        f"{name}  {profile} profile, {'here' if name in here else 'not made'}"
        for name, profile in profile_of.items()
    ]
    for name in sorted(here.keys() - profile_of.keys()):
        spec = toytown_spec(here[name])
        kind = "" if spec.nuisances else ", control"
        count = f"{spec.test_landmarks} test landmarks, {spec.distractors} distractors"
        lines.append(f"{name}  {spec.size} px, {count}{kind}, here")
    return lines


@data.command("make")
@click.option(
    "--profile", default="cpu", show_default=True, help="The profile whose Toytown is drawn."
)
@click.option(
    "--control", is_flag=True, help="The version without clutter, occlusion and changing scale."
)
def make_data(profile: str, control: bool) -> None:
    """Draw Toytown, the embedded benchmark, for a profile.

    \b
    dagf data make
    dagf data make --profile smoke --control
    """
    from dagf import paths
    from dagf.datasets.toytown import open_toytown
    from dagf.study.config import load_profile
    from dagf.study.opening import control_spec

    spec = load_profile(profile).drawing
    spec = control_spec(spec) if control else spec
    click.echo(paths.relative(open_toytown(spec, paths.data())))


@data.command("get")
@click.argument("names", nargs=-1, metavar="NAME [NAME ...]")
def get_data(names: tuple[str, ...]) -> None:
    """Download public data sets, and those that they need, into data/; a stopped download goes on when asked again.

    \b
    dagf data get roxford5k rparis6k
    """
    from dagf import paths
    from dagf.datasets.download import get
    from dagf.datasets.manifest import read_manifest

    if not names:
        raise UserError("name a data set to get: `dagf data list` shows them")
    get(names, read_manifest(paths.data() / "manifest.json"), paths.data(), click.echo)


@data.command("check")
@click.argument("what", metavar="NAME-OR-FOLDER")
def check_data(what: str) -> None:
    """Check a public set by name, Toytown, or a folder of photographs: files, counts, labels, boxes.

    \b
    dagf data check roxford5k
    dagf data check r1m
    dagf data check data/toytown-0123456789ab
    dagf data check ~/photos
    """
    from dagf import paths
    from dagf.datasets.checks import check

    click.echo(_lines(check(what, paths.data())))


@data.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "listing",
    type=click.Path(path_type=Path),
    help="A CSV; without it, sub-folders are instances.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    help="What the CSV calls a column of ours.",
)
@click.option("--force", is_flag=True, help="Replace the ground truth that the folder has.")
def import_data(folder: Path, listing: Path | None, columns: tuple[str, ...], force: bool) -> None:
    """Make FOLDER a benchmark from other people's ground truth: folder names, a CSV, or a list of pairs.

    A CSV has the columns file and instance (and role), or query and positives (and junk), under any names.

    \b
    dagf data import PHOTOS
    dagf data import PHOTOS --from index.csv --column file=path --column instance=landmark_id
    dagf data import PHOTOS --from pairs.csv --force
    """
    from dagf.datasets.convert import convert

    pairs = [column.partition("=") for column in columns]
    known = ("file", "instance", "role", "query", "positives", "junk")
    for ours, _, theirs in pairs:
        if ours not in known or not theirs:
            raise UserError(
                f"--column {ours}={theirs}: expected OURS=THEIRS with one of {', '.join(known)}"
            )
    click.echo(_lines(convert(folder, listing, {ours: theirs for ours, _, theirs in pairs}, force)))


def _lines(said: Iterable[str]) -> str:
    """Lines for a terminal: the name of a file may hold what ends a line or moves the cursor."""
    return "\n".join(map(printable, said))
