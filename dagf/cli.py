"""The command line: thin. Every command says what it does in `--help`, with examples.

A user's mistake ends with one line and status 2, never with a traceback. What takes seconds to
import is imported in the commands that need it, so that `--help` answers at once.
"""

import errno
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import click

import dagf
from dagf import paths
from dagf.errors import UserError
from dagf.files import existing_file, write_text

EXAMPLES = """\
dagf report                                      the whole study on the embedded benchmark
dagf report --check                              which reports are stale
dagf report --only 03_attention_maps --force     one of them anew
dagf report --benchmark PHOTOS                   the study on your photographs
dagf report --benchmark A --benchmark B --train-on C   on several sets, one after the other
dagf backbones                                   train what its profiles start from (hours)
dagf backbones --trials                          how that was chosen on validation
dagf train dagf                                  train one variant
dagf train gem --profile smoke --seed 1
dagf evaluate dagf                               mAP of one variant
dagf evaluate gem --benchmark rparis6k --distractors r1m --off-the-shelf
dagf evaluate --golden                           whether the evaluator is right
dagf extract ~/photos                            descriptors of your images
dagf extract ~/photos --run 0c07 --output photos.index
dagf extract ~/photos --backbone resnet50 --weights resnet50.pth
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
PATH = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
Names = tuple[str, ...]
Precision = Literal["float16", "float32"]

option, argument = click.option, click.argument
seed_option = option("--seed", type=click.IntRange(0, 2**32 - 1), help="[the profile's first]")
json_option = option("--json", "as_json", is_flag=True, help="Print JSON.")
STUDY = {  # what names a study: a profile, and photographs with their weights
    "--train-on": ("SET", "Train on this set or folder (or several), not the benchmark."),
    "--weights": ("FILE", "Weights of the backbone (.pth or .safetensors)."),
    "--distractors": ("SET", "Add r1m, oxford100k or a folder's distractors."),
    "--benchmark": ("SET", "A public set (roxford5k, ...), folder or ground truth."),
    "--profile": ("NAME", "smoke, cpu, gpu, photographs, paper or a YAML file."),
}


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, (metavar, text) in STUDY.items():
        several = name in ("--distractors", "--train-on", "--benchmark")
        how: dict[str, Any] = {"multiple": True} if several else {"default": ""}
        command = option(name, metavar=metavar, help=text, **how)(command)
    return command


def studies(
    profile: str, benchmark: Names, distractors: Names, weights: str, train_on: Names
) -> list[dict[str, Any]]:
    """Return, for each benchmark, the options of `STUDY` as notebooks take them: whole paths.

    What is not given is what the profile says. Raise `UserError` for two sets whose reports would
    be one, and for a set to learn that is given twice.
    """
    from dagf.datasets.public import DISTRACTORS, called, spelled
    from dagf.study.profile import load_profile

    profile = profile or ("photographs" if benchmark else "cpu")
    own, file = load_profile(profile), paths.profile(profile)

    def told(given: Names, default: Names) -> list[str]:
        near = {name: file.parent / name for name in default}  # as seen from the profile
        return [*given] or [str(path) if path.exists() else name for name, path in near.items()]

    sets = [spelled(name) for name in told(benchmark, own.benchmarks)]
    if profile == "photographs" and not sets:
        raise UserError("the profile photographs needs photographs: name them with --benchmark")
    learned = [spelled(name) for name in told(train_on, own.train_on)]
    alike = [pair for pair in combinations(learned, 2) if len({*map(called, pair)}) == 1]
    if len(sets) > 1:
        from dagf.reports.freshness import output_for

        outputs = {one: output_for(profile, one) for one in sets}
        alike += [(a, b) for a, b in combinations(sets, 2) if outputs[a] == outputs[b]]
    for one, other in alike:
        raise UserError(f"{one} and {other} have one name in reports: rename one, or leave it out")
    behind = told(distractors, own.distractors)
    common = {
        "profile": str(file) if profile.endswith(file.suffix) else profile,
        "distractors": [spelled(name, DISTRACTORS, "distractor set") for name in behind],
        "weights": existing_file(weights) if weights else "",
        "train_on": learned,
    }
    return [{**common, "benchmark": one} for one in sets or [""]]


def one_study(**options: Any) -> Any:
    """Return the study that the options of `STUDY` name; raise `UserError` for several."""
    from dagf.study.study import open_study

    one, *more = studies(**options)
    if more:
        raise UserError(f"{1 + len(more)} benchmarks are named: name one with --benchmark")
    return open_study(**one)


class Command(click.Command):
    """A command whose help ends with its lines of `EXAMPLES`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = re.findall(rf"^dagf (?:data )?{self.name}\b.*$", EXAMPLES, re.MULTILINE)
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in lines))


class Commands(click.Group):
    """A group whose commands end with one line when the user made a mistake."""

    command_class = Command
    group_class = type

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `UserError` or a fault of the disk becomes a line and status 2."""
        if sys.getfilesystemencoding() != "utf-8":  # a locale in which names and texts are others
            os.environ["PYTHONUTF8"] = "1"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for names that it cannot show
        try:
            return super().invoke(ctx)
        except UserError as error:
            line, status = str(error), 2
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # of a library; nobody reads what we print
                raise
            where = error.filename or "a file"
            line, status = f"{where}: {error.strerror}; mend that, start again", 2
        except KeyboardInterrupt:
            line, status = "stopped; start the same command again to go on from here", 130
        click.echo(f"dagf: {line}", err=True)
        sys.exit(status)


def say(text: str, err: bool = False) -> None:
    """Print, in the first process of torchrun only."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(text, err=err)


def say_table(table: Any, as_json: bool) -> None:
    as_text = table.to_string(index=False, float_format="{:.2f}".format)
    say(table.to_json(orient="records", indent=1) if as_json else as_text)


def say_run(run: Any) -> None:
    of = run.record
    say(
        f"run {run.id}: {of['variant']}, seed {of['seed']}, best epoch {of['best_epoch']}, "
        f"validation mAP {of['validation_mAP']:.1f}, {of['seconds']} s, "
        f"{paths.relative(run.folder)}"
    )


def check_ending(path: Path, *endings: str) -> None:
    """Raise `UserError` for a file of another kind: a slip must not overwrite a photograph."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{path} would be written: name a file that ends in {endings[0]}")


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
@option("--only", multiple=True, metavar="NOTEBOOK", help="This notebook: 02_training, ...")
@option("--force", is_flag=True, help="Run notebooks whose reports are fresh, too.")
@option("--check", is_flag=True, help="Run nothing: list stale reports, status 1 if any.")
@option("--jobs", type=click.IntRange(1), help="Notebooks run side by side.")
@option("--output", type=PATH, help="Folder of the reports. [reports/]")
def report(
    only: Names, force: bool, check: bool, jobs: int | None, output: Path | None, **study: Any
) -> None:
    """Run the notebooks and write the HTML reports; fresh ones are kept.

    Several benchmarks have their reports one after the other.
    """
    from dagf.reports.runner import check_reports, run_reports

    if output and output.is_file():
        raise UserError(f"{output} is no folder, and reports are several files: name another")
    every = studies(**study)
    if not check:
        for parameters in every:
            say(f"reports: {run_reports(parameters, only, force, jobs, output)}")
        return
    lines = list[str]()
    for parameters in every:
        of = f"{Path(parameters['benchmark']).name}, " if len(every) > 1 else ""
        stale = check_reports(parameters, only, output)
        lines += [f"{of}{name}: {reason}" for name, reason in stale.items()]
    say("\n".join([*lines, f"{len(lines)} stale" if lines else "all fresh"]))
    sys.exit(1 if lines else 0)


@main.command()
@option("--trials", is_flag=True, help="Make the validation trials instead.")
@json_option
def backbones(trials: bool, as_json: bool) -> None:
    """Train Toytown's backbones, which come with the project: hours. It goes on where it stopped.

    How: dagf/study/backbones.yaml. They are kept in data/backbones; what is there is not trained.
    """
    from dagf.study.backbones import make_backbones, make_trials

    if trials:
        say_table(make_trials(), as_json)
        return
    made = make_backbones()
    if as_json:
        say(json.dumps([run.record for run in made], indent=1))
        return
    for run in made:
        say_run(run)


@main.command()
@argument("variant")
@study_options
@seed_option
def train(variant: str, seed: int | None, **study: Any) -> None:
    """Train VARIANT (dagf, gem, spoc, ...) and say where the run lies.

    A trained one is not trained again. Several processes: docs/distributed.md.
    """
    opened = one_study(**study)
    say_run(opened.run(variant, seed))
    if opened.caveat:
        say(opened.caveat, err=True)


@main.command()
@argument("variant", default="")
@study_options
@seed_option
@option("--off-the-shelf", is_flag=True, help="The pretrained backbone, nothing trained.")
@option("--golden", is_flag=True, help="Check the evaluator; takes no VARIANT, no study.")
@json_option
def evaluate(
    variant: str, seed: int | None, off_the_shelf: bool, golden: bool, as_json: bool, **study: Any
) -> None:
    """mAP and mP@k of VARIANT on the test benchmark; it is trained first where it has not been.

    With --golden: our evaluator on the descriptors that the authors of the Revisited protocol
    publish, beside their own figures; status 1 where one differs.
    """
    from dagf.retrieval.metrics import means

    if golden:
        from dagf.analysis.golden import check_golden

        if variant or seed is not None or off_the_shelf or any(study.values()):
            raise UserError("--golden checks the evaluator itself: give it alone, or with --json")
        checked = check_golden()
        say_table(checked, as_json)
        wrong = checked[~checked["equal"]]
        if not as_json:
            say("(Of equal scores ours ranks negatives first: a tie may make it lower.)")
            outcome = f"FAIL: {len(wrong)} differ" if len(wrong) else "pass: all are equal"
            say(f"{outcome}, of {len(checked)} figures at two decimals")
        sys.exit(int(len(wrong) > 0))
    if not variant:
        raise UserError("name a variant to evaluate, for instance: dagf evaluate dagf")
    opened = one_study(**study)
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
@argument("images", nargs=-1, required=True, type=PATH)
@option("--run", default="", help="A run trained on photographs (its ID's first digits).")
@option("--backbone", default="", metavar="NAME", help="Without a run. [EfficientNet-Lite0]")
@option("--weights", default="", metavar="FILE", help="Of the backbone. [ImageNet's]")
@option("--output", default="photos.index", show_default=True, type=PATH, help="A folder.")
@option(
    "--precision",
    type=click.Choice(["float16", "float32"]),
    help="Of the descriptors on disk. [float32; from 100,000 images on float16]",
)
def extract(
    images: tuple[Path, ...],
    run: str,
    backbone: str,
    weights: str,
    output: Path,
    precision: Precision | None,
) -> None:
    """Descriptors of IMAGES (files and folders), kept in a folder for `dagf search`.

    Without a run nothing is trained: they are R-MAC on a network with ImageNet weights, by default
    EfficientNet-Lite0's, which come with the packages. A --backbone is one of torchvision's
    (resnet50) or timm's (timm:resnet50), downloaded once unless --weights names a file. Stopped and
    started again, it goes on where it was; later it extracts only from images that are new or were
    changed. Images that cannot be read are left out, and named; the status is then 1. Several
    processes: docs/distributed.md.
    """
    from dagf.collections.index import build, open_encoder
    from dagf.datasets.decode import find_images

    if run and (weights or backbone):
        raise UserError("a run has a backbone and weights of its own: leave them out, or --run")
    found = find_images(images)  # before the weights, which may have to be downloaded
    encoder = open_encoder(run, weights, backbone)
    began, damaged = time.perf_counter(), dict[Path, str]()
    collection, made = build(found.files, encoder, output, precision, damaged, fast=True)
    seconds = time.perf_counter() - began
    rate = f"{seconds:.1f} s, {made / seconds:.1f} images/s"
    say(f"{len(collection.files)} images in {output}: {made} extracted in {rate}")
    if (alike := collection.made_by.cosine) < 1:
        say(f"in eight bits: descriptors have a mean cosine of {alike:.4f} to those in float")
    for line in found.lines(damaged.values()):
        say(line, err=True)
    if found.unread or damaged:
        sys.exit(1)


@main.command()
@argument("photo", type=PATH)
@option("--index", default="photos.index", show_default=True, type=PATH)
@option("--crop", nargs=4, type=float, metavar="X1 Y1 X2 Y2", help="Search for this part.")
@option("--top", default=10, show_default=True, type=click.IntRange(1))
@option("--approximate", is_flag=True, help="Use a FAISS index, built the first time.")
@option(
    "--whiten/--plain",
    default=None,
    help="Under PCA of the index itself, or not. [from 100 images on, without a run: --whiten]",
)
@option("--html", type=PATH, help="Also write a page: what was found, and why.")
@json_option
def search(
    photo: Path,
    index: Path,
    crop: tuple[float, float, float, float] | None,
    top: int,
    approximate: bool,
    whiten: bool | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """The images of an index most similar to PHOTO, with their cosine similarity.

    --whiten takes out what all images of the index have in common, so that unlike ones have a
    cosine about 0. What it gains on photographs is in benchmarks/descriptors.csv.
    --approximate, for a million images, searches the descriptors as they are.
    """
    from dagf.collections.kept import AGAIN, Kept

    if html:
        check_ending(html, ".html", ".htm")
    if approximate and whiten:
        raise UserError(
            "the FAISS index holds the descriptors as they are: leave out --approximate, or "
            "--whiten"
        )
    kept = Kept.load(index)
    if kept.made_by.graph and not (html or approximate or "WORLD_SIZE" in os.environ):
        found = kept.whitened(whiten).search(photo, top, crop)
    else:  # what needs PyTorch
        from dagf.collections.index import Collection

        collection = Collection.load(index)
        if approximate:
            found = collection.approximate(photo, top, crop)
        else:
            collection = collection.whitened(whiten)
            found = collection.search(photo, top, crop)
        if html and os.environ.get("RANK", "0") == "0":
            from dagf.collections.page import render

            if gone := [file for file, _ in found if not Path(file).is_file()]:
                raise UserError(f"{gone[0]} is gone since the images were extracted: {AGAIN}")
            write_text(html, render(collection, photo, found, crop, template="search.html.j2"))
            say(f"what was found, and why: {html}", err=True)
    here = Path.cwd()
    found = [(os.path.relpath(one) if here in Path(one).parents else one, s) for one, s in found]
    rows = [{"file": file, "score": round(score, 4)} for file, score in found]
    lines = [f"{score:.4f}  {file}" for file, score in found]
    say(json.dumps(rows, indent=1) if as_json else "\n".join(lines))


@main.command()
@argument("output", type=PATH)
@option("--run", required=True, help="The run to export (its ID's first digits).")
def export(output: Path, run: str) -> None:
    """Write a trained run as the ONNX file OUTPUT, for batches and images of any size.

    It is compared with the network, by onnxruntime, before it is kept. Its metadata say how images
    are normalised.
    """
    from dagf.collections.export import write_onnx
    from dagf.study.runs import RunStore

    check_ending(output, ".onnx")
    say(write_onnx(RunStore(paths.runs()).get(run), output))


@main.group()
def data() -> None:
    """List, make, get, check and import data sets."""


@data.command("list")
def list_data() -> None:
    """The drawings of Toytown and the public data sets: which are here, how large a download is."""
    from dagf.datasets.download import line
    from dagf.datasets.public import read_manifest
    from dagf.study.profile import load_profile

    here = {folder.name: "another drawing" for folder in sorted(paths.data().glob("toytown-*"))}
    profiles = [load_profile(name) for name in paths.profile_names()]
    made_for = {
        f"toytown-{one.drawing.id}": f"{one.name} profile" for one in profiles if one.toytown
    }
    for name, whose in (here | made_for).items():
        say(f"{name}  {whose}, {'here' if name in here else 'not made'}")
    for one in read_manifest(paths.manifest()).values():
        say(line(one, paths.data()))


@data.command("make")
@option("--profile", default="cpu", show_default=True, help="Whose Toytown is drawn.")
@option("--control", is_flag=True, help="Without clutter, occlusion and changing scale.")
def make_data(profile: str, control: bool) -> None:
    """Draw Toytown, the embedded benchmark, for a profile."""
    from dagf.datasets.toytown import open_toytown
    from dagf.study.profile import load_profile
    from dagf.study.study import control_spec

    spec = load_profile(profile).drawing
    made = open_toytown(control_spec(spec) if control else spec, paths.data())
    say(paths.relative(made))


@data.command("get")
@argument("names", nargs=-1, required=True, metavar="NAME [NAME ...]")
def get_data(names: Names) -> None:
    """Download public data sets, and those that they need; a stopped download goes on."""
    from dagf.datasets.download import get
    from dagf.datasets.public import read_manifest

    get(names, read_manifest(paths.manifest()), paths.data(), say)


@data.command("check")
@argument("what", metavar="NAME-OR-FOLDER")
def check_data(what: str) -> None:
    """Check a public set, Toytown, or a folder of photographs: files, counts, labels, boxes.

    Every image of a benchmark or folder is decoded, and all damaged ones are named.
    """
    from dagf.datasets.checks import check

    say("\n".join(check(what, paths.data())))


@data.command("import")
@argument("folder", type=PATH)
@option("--from", "listing", type=FILE, help="A CSV; without it, sub-folders are instances.")
@option("--column", multiple=True, metavar="OURS=THEIRS", help="What the CSV calls a column.")
@option("--force", is_flag=True, help="Replace the ground truth that the folder has.")
def import_data(folder: Path, listing: Path | None, column: Names, force: bool) -> None:
    """Make FOLDER a benchmark from other people's ground truth: folder names, a CSV or pairs.

    A CSV has the columns file and instance (and role), or query and positives (and junk), under any
    names.
    """
    from dagf.datasets.convert import convert

    known = ("file", "instance", "role", "query", "positives", "junk")
    columns = {ours: theirs for ours, _, theirs in (pair.partition("=") for pair in column)}
    for ours, theirs in columns.items():
        if ours not in known or not theirs:
            raise UserError(
                f"--column {ours}={theirs}: expected OURS=THEIRS, one of {', '.join(known)}"
            )
    if columns and not listing:
        raise UserError("--column says what a CSV calls its columns: name the CSV with --from")
    say("\n".join(convert(folder, listing, columns, force)))
