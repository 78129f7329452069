"""The command line: thin. Every command says what it does in `--help`, with examples.

A user's mistake ends with one line and status 2, never with a traceback. What takes seconds to
import is imported in the commands that need it, so that `--help` answers at once.
"""

import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

import dagf
from dagf import paths
from dagf.errors import UserError, place_fault
from dagf.files import existing_file

PATH = click.Path(path_type=Path)
Names = tuple[str, ...]
EXAMPLES = """\
dagf report                                      the whole study on the embedded benchmark
dagf report --check                              which reports are stale
dagf report --only 03_attention_maps --force     one of them anew
dagf report --benchmark PHOTOS --weights FILE    the study on your photographs
dagf train dagf                                  train one variant
dagf train gem --profile smoke --seed 1
dagf evaluate dagf                               mAP of one variant
dagf evaluate gem --benchmark rparis6k --distractors r1m --off-the-shelf
dagf evaluate --golden                           whether the evaluator is right
dagf extract ~/photos                            descriptors of your images
dagf extract ~/photos --run 0c07 --output photos.index
dagf search ~/photos/castle.jpg --top 5          the most similar of them
dagf search ~/photos/castle.jpg --crop 300 200 900 1100 --html found.html
dagf export --run 0c07 model.onnx                a trained network for onnxruntime
dagf data list                                   what there is
dagf data make                                   draw the embedded benchmark
dagf data get roxford5k rparis6k                 download public data sets
dagf data check ~/photos                         files, counts, labels, boxes
dagf data import PHOTOS                          a benchmark of other people's ground truth
dagf data import PHOTOS --from index.csv --column file=path --column instance=landmark_id
"""
SEEDS = click.IntRange(0, 2**32 - 1)
seed_option = click.option("--seed", type=SEEDS, help="[the profile's first]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Command(click.Command):
    """A command whose help ends with its lines of `EXAMPLES`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        lines = re.findall(rf"^dagf (?:data )?{self.name}\b.*$", EXAMPLES, re.MULTILINE)
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in lines))


class Commands(click.Group):
    """A group whose commands end with one line when the user made a mistake."""

    command_class = Command
    group_class = type

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `UserError` or a fault of the disk becomes a line and status 2."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for names that it cannot show
        try:
            return super().invoke(ctx)
        except UserError as error:
            line, status = str(error), 2
        except OSError as error:
            fault = place_fault(error)
            if not fault:
                raise
            line, status = f"{error.filename or 'a file'}: {fault}; mend that, start again", 2
        except KeyboardInterrupt:
            line, status = "stopped; start the same command again to go on from here", 130
        click.echo(f"dagf: {line}", err=True)
        sys.exit(status)


def first_process() -> bool:
    """Whether this is the process of torchrun that prints and writes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str, err: bool = False) -> None:
    """Print, in the first process only."""
    if first_process():
        click.echo(text, err=err)


def say_table(table: Any, as_json: bool) -> None:
    """Print a data frame, with two decimals or as JSON."""
    as_text = table.to_string(index=False, float_format="{:.2f}".format)
    say(table.to_json(orient="records", indent=1) if as_json else as_text)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a study: a profile, and photographs with their weights."""
    options = {
        "--train-on": ("SET", "Train on this set or folder, not the benchmark."),
        "--weights": ("FILE", "Weights of the backbone (.pth or .safetensors)."),
        "--distractors": ("SET", "Add r1m, oxford100k or a folder's distractors."),
        "--benchmark": ("SET", "A public set (roxford5k, ...) or folder of photos."),
        "--profile": ("NAME", "smoke, cpu, gpu, photographs, paper or a YAML file."),
    }
    for name, (metavar, text) in options.items():
        how: dict[str, Any] = {"multiple": True} if name == "--distractors" else {"default": ""}
        command = click.option(name, metavar=metavar, help=text, **how)(command)
    return command


def notebook_parameters(
    profile: str, benchmark: str, distractors: Names, weights: str, train_on: str
) -> dict[str, Any]:
    """Return the parameters of a study as notebooks take them: with whole paths."""
    from dagf.datasets.public import DISTRACTORS, spelled

    profile = profile or ("photographs" if benchmark else "cpu")
    if profile == "photographs" and not benchmark:
        raise UserError("the profile photographs needs photographs: name them with --benchmark")
    file = paths.profile(profile)
    return {
        "profile": str(file) if profile.endswith(file.suffix) else profile,
        "benchmark": spelled(benchmark) if benchmark else "",
        "distractors": [spelled(name, DISTRACTORS, "distractor set") for name in distractors],
        "weights": existing_file(weights) if weights else "",
        "train_on": spelled(train_on) if train_on else "",
    }


@click.group(
    cls=Commands,
    help=f"The study of Deep Attentive Global Features, and its tools.\n\n\b\n{EXAMPLES}",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(dagf.__version__, prog_name="dagf")
def main() -> None:
    """Run a command."""


@main.command()
@study_options
@click.option("--only", multiple=True, metavar="NOTEBOOK", help="This notebook: 02_training, ...")
@click.option("--force", is_flag=True, help="Run notebooks whose reports are fresh, too.")
@click.option("--check", is_flag=True, help="Run nothing: list stale reports, status 1 if any.")
@click.option("--jobs", type=click.IntRange(1), help="Notebooks run side by side.")
@click.option("--output", type=PATH, help="Folder of the reports. [reports/]")
def report(
    only: Names, force: bool, check: bool, jobs: int | None, output: Path | None, **study: Any
) -> None:
    """Run the notebooks and write the HTML reports; fresh ones are kept."""
    from dagf.reports.runner import check_reports, run_reports

    if output and output.is_file():
        raise UserError(f"{output} is no folder, and reports are several files: name another")
    parameters = notebook_parameters(**study)
    if not check:
        click.echo(f"reports: {run_reports(parameters, only, force, jobs, output)}")
        return
    stale = check_reports(parameters, only, output)
    lines = [f"{name}: {reason}" for name, reason in stale.items()]
    click.echo("\n".join([*lines, f"{len(stale)} stale" if stale else "all fresh"]))
    sys.exit(1 if stale else 0)


@main.command()
@click.argument("variant")
@study_options
@seed_option
def train(variant: str, seed: int | None, **study: Any) -> None:
    """Train VARIANT (dagf, gem, spoc, ...) and say where the run lies.

    A trained one is not trained again. Several processes: docs/distributed.md.
    """
    from dagf.study.study import open_study

    opened = open_study(**notebook_parameters(**study))
    run = opened.run(variant, seed)
    of = run.record
    say(
        f"run {run.id}: {of['variant']}, best epoch {of['best_epoch']}, validation mAP "
        f"{of['validation_mAP']:.1f}, {of['seconds']} s, {paths.relative(run.folder)}"
    )
    if opened.caveat:
        say(opened.caveat, err=True)


@main.command()
@click.argument("variant", default="")
@study_options
@seed_option
@click.option("--off-the-shelf", is_flag=True, help="The pretrained backbone, nothing trained.")
@click.option("--golden", is_flag=True, help="Check the evaluator; takes no VARIANT, no study.")
@json_option
def evaluate(
    variant: str, seed: int | None, off_the_shelf: bool, golden: bool, as_json: bool, **study: Any
) -> None:
    """mAP and mP@k of VARIANT on the test benchmark; it is trained first where it has not been.

    With --golden: our evaluator on the descriptors that the authors of the Revisited protocol
    publish, beside their own figures; status 1 where one differs.
    """
    if golden:
        from dagf.analysis.golden import TIES, check_golden, verdict

        if variant or seed is not None or off_the_shelf or any(study.values()):
            raise UserError("--golden checks the evaluator itself: give it alone, or with --json")
        checked = check_golden()
        say_table(checked, as_json)
        if not as_json:
            say(f"({TIES})\n{verdict(checked)}")
        sys.exit(int(not checked["equal"].all()))
    if not variant:
        raise UserError("name a variant to evaluate, for instance: dagf evaluate dagf")
    from dagf.retrieval.metrics import means
    from dagf.study.study import open_study

    opened = open_study(**notebook_parameters(**study))
    if off_the_shelf:
        results = opened.untrained_results(variant, seed)
    else:
        results = opened.results(opened.run(variant, seed))
    test = opened.test
    counts = f"{len(test.database)} database images, {len(test.distractors)} distractors"
    say(f"{test.name}: {counts}", err=True)
    if opened.caveat and not off_the_shelf:
        say(opened.caveat, err=True)
    say_table(means(results.per_query).reset_index(), as_json)


@main.command()
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--run", "run_id", help="A run trained on photographs (its ID's first digits).")
@click.option("--weights", metavar="FILE", help="Without a run: of MobileNetV2. [torchvision's]")
@click.option("--output", default="photos.index", show_default=True, type=PATH, help="A folder.")
@click.option(
    "--precision",
    type=click.Choice(["float16", "float32"]),
    help="Of the descriptors on disk. [float32; from 100,000 images on float16]",
)
def extract(
    images: tuple[Path, ...],
    run_id: str | None,
    weights: str | None,
    output: Path,
    precision: Literal["float16", "float32"] | None,
) -> None:
    """Descriptors of IMAGES (files and folders), kept in a folder for `dagf search`.

    Without a run nothing is trained: they are max windows, MAX-Mask and mean on a network with
    ImageNet weights, which are downloaded once unless a file is named. Stopped and started again,
    it goes on where it was; later it extracts only from images that are new or were changed.
    Several processes: docs/distributed.md.
    """
    from dagf.collections.encoders import open_encoder
    from dagf.collections.index import build, find_images

    if run_id is not None and weights:
        raise UserError("a run has weights of its own: leave out --weights, or --run")
    files = find_images(images)  # before the weights, which may have to be downloaded
    found = build(files, open_encoder(run_id or "", weights or ""), output, precision)
    rate = f"{found.seconds:.1f} s, {found.made / found.seconds:.1f} images/s"
    say(f"{len(found.descriptors)} images in {output}: {found.made} extracted in {rate}")


@main.command()
@click.argument("photo", type=PATH)
@click.option("--index", default="photos.index", show_default=True, type=PATH)
@click.option("--crop", nargs=4, type=float, metavar="X1 Y1 X2 Y2", help="Search for this part.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1))
@click.option("--approximate", is_flag=True, help="Use a FAISS index, built the first time.")
@click.option(
    "--whiten/--plain",
    default=None,
    help="Under PCA of the index itself, or not. [from 100 images on, without a run: --whiten]",
)
@click.option("--html", "page", type=PATH, help="Also write a page: what was found, and why.")
@json_option
def search(
    photo: Path,
    index: Path,
    crop: tuple[float, float, float, float] | None,
    top: int,
    approximate: bool,
    whiten: bool | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """The images of an index most similar to PHOTO, with their cosine similarity.

    --whiten takes out what all images of the index have in common, so that unlike ones have a
    cosine about 0. What it gains or costs on photographs is in benchmarks/results.json.
    --approximate, for a million images, searches the descriptors as they are.
    """
    from dagf.collections.index import Collection

    if page:
        check_ending(page, ".html", ".htm")
    collection = Collection.load(index)
    if not approximate or whiten:
        collection = collection.whitened(whiten)
    found = collection.search(photo, top, crop, approximate)
    if page and first_process():
        from dagf.collections.page import write_page

        write_page(page, collection, photo, found, crop)
        click.echo(f"what was found, and why: {page}", err=True)
    rows = [{"file": file, "score": round(score, 4)} for file, score in found]
    lines = [f"{score:.4f}  {file}" for file, score in found]
    say(json.dumps(rows, indent=1) if as_json else "\n".join(lines))


@main.command()
@click.argument("output", type=PATH)
@click.option("--run", "run_id", required=True, help="The run to export (its ID's first digits).")
def export(output: Path, run_id: str) -> None:
    """Write a trained run as the ONNX file OUTPUT, for batches and images of any size.

    It is compared with the network, by onnxruntime, before it is kept. Its metadata say how images
    are normalised.
    """
    from dagf.collections.export import write_onnx
    from dagf.study.runs import RunStore

    check_ending(output, ".onnx")
    made = write_onnx(RunStore(paths.runs()).get(run_id), output)
    click.echo(
        f"{output}: images (batch, 3, height, width) from {made.smallest_side} pixels a side on -> "
        f"descriptors (batch, {made.dimensions}); largest difference {made.difference:.0e}"
    )


def check_ending(path: Path, *endings: str) -> None:
    """Raise `UserError` for a file of another kind: a slip must not overwrite a photograph."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{path} would be written: name a file that ends in {endings[0]}")


@main.group()
def data() -> None:
    """List, make, get, check and import data sets."""


@data.command("list")
def list_data() -> None:
    """The drawings of Toytown and the public data sets: which are here, how large a download is."""
    from dagf.datasets.download import line
    from dagf.datasets.manifest import read_manifest
    from dagf.study.profile import load_profile

    here = {folder.name: "" for folder in sorted(paths.data().glob("toytown-*"))}
    profiles = [load_profile(name) for name in paths.profile_names()]
    made_for = {f"toytown-{one.drawing.id}": one.name for one in profiles if one.toytown}
    for name, profile in (here | made_for).items():
        whose = f"{profile} profile" if profile else "another drawing"
        click.echo(f"{name}  {whose}, {'here' if name in here else 'not made'}")
    for one in read_manifest(paths.manifest()).values():
        click.echo(line(one, paths.data()))


@data.command("make")
@click.option("--profile", default="cpu", show_default=True, help="Whose Toytown is drawn.")
@click.option("--control", is_flag=True, help="Without clutter, occlusion and changing scale.")
def make_data(profile: str, control: bool) -> None:
    """Draw Toytown, the embedded benchmark, for a profile."""
    from dagf.datasets.toytown import open_toytown
    from dagf.study.profile import load_profile
    from dagf.study.study import control_spec

    spec = load_profile(profile).drawing
    made = open_toytown(control_spec(spec) if control else spec, paths.data())
    click.echo(paths.relative(made))


@data.command("get")
@click.argument("names", nargs=-1, required=True, metavar="NAME [NAME ...]")
def get_data(names: tuple[str, ...]) -> None:
    """Download public data sets, and those that they need; a stopped download goes on."""
    from dagf.datasets.download import get
    from dagf.datasets.manifest import read_manifest

    get(names, read_manifest(paths.manifest()), paths.data(), click.echo)


@data.command("check")
@click.argument("what", metavar="NAME-OR-FOLDER")
def check_data(what: str) -> None:
    """Check a public set, Toytown, or a folder of photographs: files, counts, labels, boxes."""
    from dagf.datasets.checks import check

    click.echo("\n".join(check(what, paths.data())))


@data.command("import")
@click.argument("folder", type=PATH)
@click.option("--from", "listing", type=PATH, help="A CSV; without it, sub-folders are instances.")
@click.option("--column", multiple=True, metavar="OURS=THEIRS", help="What the CSV calls a column.")
@click.option("--force", is_flag=True, help="Replace the ground truth that the folder has.")
def import_data(folder: Path, listing: Path | None, column: tuple[str, ...], force: bool) -> None:
    """Make FOLDER a benchmark from other people's ground truth: folder names, a CSV or pairs.

    A CSV has the columns file and instance (and role), or query and positives (and junk), under any
    names.
    """
    from dagf.datasets.convert import convert

    known = ("file", "instance", "role", "query", "positives", "junk")
    columns = {}
    for pair in column:
        ours, _, theirs = pair.partition("=")
        if ours not in known or not theirs:
            raise UserError(f"--column {pair}: expected OURS=THEIRS, one of {', '.join(known)}")
        columns[ours] = theirs
    click.echo("\n".join(convert(folder, listing, columns, force)))
