"""The command line: thin. Every command says what it does in `--help`, with examples.

A user's mistake ends with one line and status 2, never with a traceback.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import dagf
from dagf.collection_cli import export, extract, search
from dagf.data_cli import data
from dagf.errors import UserError, name_fault, place_fault, printable
from dagf.files import existing_file
from dagf.study import profiles

SEEDS = click.IntRange(0, 2**32 - 1)

# Libraries that take seconds to import are imported in the commands that need them: --help and --check answer at once.


class Commands(click.Group):
    """A group whose commands end with one line when the user made a mistake."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `UserError`, a full or a closed disk, a name too long become a line and status 2."""
        if isinstance(
            sys.stdout, io.TextIOWrapper
        ):  # a file's name may have letters that the terminal lacks
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(printable(f"dagf: {error}", lines=True), err=True)
            sys.exit(2)
        except OSError as error:
            words, name = place_fault(error), name_fault(error)
            if not words and not name:
                raise
            place = printable(str(error.filename or "a file"))
            line = (
                f"cannot write {place}: {words}; mend that, start again"
                if words
                else f"{name}; name another"
            )
            click.echo(f"dagf: {line}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("dagf: stopped; start the same command again to go on from here", err=True)
            sys.exit(130)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a study: a profile, and photographs with their weights."""
    for option in (
        click.option(
            "--train-on",
            default="",
            metavar="SET",
            help="Train on this set or folder, not the benchmark.",
        ),
        click.option(
            "--weights",
            default="",
            metavar="FILE",
            help="Weights of the backbone (.pth or .safetensors).",
        ),
        click.option(
            "--distractors",
            multiple=True,
            metavar="SET",
            help="Add r1m, oxford100k or a folder's distractors.",
        ),
        click.option(
            "--benchmark",
            default="",
            metavar="SET",
            help="A public set (roxford5k, ...) or folder of photos.",
        ),
        click.option(
            "--profile",
            help="smoke, cpu, gpu, photographs, paper or a YAML file. [cpu; photographs: above]",
        ),
    ):
        command = option(command)
    return command


def _parameters(
    profile: str | None, benchmark: str, distractors: tuple[str, ...], weights: str, train_on: str
) -> dict[str, Any]:
    """The parameters of a study as notebooks take them: checked, and as whole paths, for they run elsewhere."""
    profile = profile or ("photographs" if benchmark else "cpu")
    file = profiles.find(profile)
    if profile == "photographs" and not benchmark:
        raise UserError(
            "the profile photographs needs photographs: name their folder with --benchmark"
        )
    if benchmark or train_on or distractors:
        from dagf.datasets.public import DISTRACTORS, spelled

        benchmark, train_on = (word and spelled(word) for word in (benchmark, train_on))
        distractors = tuple(spelled(word, DISTRACTORS, "distractor set") for word in distractors)
    return {
        "profile": str(file) if profile.endswith(file.suffix) else profile,
        "benchmark": benchmark,
        "distractors": list(distractors),
        "weights": existing_file(weights),
        "train_on": train_on,
    }


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dagf.__version__, prog_name="dagf")
def main() -> None:
    """Deep Attentive Global Features for image retrieval: the study and its tools.

    \b
    dagf report                      the whole study on the embedded benchmark
    dagf report --check              which reports are stale
    dagf data make                   draw the embedded benchmark
    dagf data get grocery            download a public data set
    dagf data import PHOTOS          make a benchmark of other people's ground truth
    dagf train dagf                  train one variant
    dagf evaluate dagf               mAP of one variant
    dagf extract FOLDER              descriptors of your images
    dagf search PHOTO                the most similar of them
    dagf export --run ID model.onnx  a trained network for onnxruntime
    """


@main.command()
@study_options
@click.option(
    "--only", multiple=True, metavar="NOTEBOOK", help="Run this notebook alone, e.g. 02_training."
)
@click.option("--force", is_flag=True, help="Run notebooks whose reports are fresh, too.")
@click.option(
    "--check", is_flag=True, help="Run nothing: list stale reports, status 1 if there are any."
)
@click.option("--jobs", type=click.IntRange(1), help="Notebooks run side by side.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the reports. [reports/]")
def report(
    only: tuple[str, ...],
    force: bool,
    check: bool,
    jobs: int | None,
    output: Path | None,
    **study: Any,
) -> None:
    """Run the notebooks and write the HTML reports; fresh ones are kept.

    \b
    dagf report                                        the cpu profile on Toytown
    dagf report --profile smoke                        minutes, no claims
    dagf report --only 03_attention_maps --force
    dagf report --benchmark PHOTOS --weights FILE      the study on your photographs
    """
    from dagf.reports.runner import check_reports, run_reports

    if output and output.exists() and not output.is_dir():
        raise UserError(
            f"{output} is no folder, and reports are several files: name another --output"
        )
    parameters = _parameters(**study)
    if not check:
        click.echo(f"reports: {run_reports(parameters, only, force, jobs, output=output)}")
        return
    stale = check_reports(parameters, only, output=output)
    for one in stale:
        click.echo(str(one))
    click.echo(f"{len(stale)} stale" if stale else "all fresh")
    sys.exit(1 if stale else 0)


@main.command()
@click.argument("variant")
@study_options
@click.option("--seed", type=SEEDS, help="[the profile's first]")
def train(variant: str, seed: int | None, **study: Any) -> None:
    """Train VARIANT (dagf, gem, spoc, mac, ...) and say where the run lies. Asked twice, trained once.

    \b
    dagf train dagf
    dagf train gem --profile smoke --seed 1
    dagf train dagf --benchmark PHOTOS --weights FILE
    torchrun --nproc-per-node 2 -m -- dagf train dagf --profile smoke
    """
    from dagf import paths
    from dagf.distributed import process_group
    from dagf.study.opening import open_study

    opened = open_study(**_parameters(**study))
    run = opened.run(variant, seed)
    if process_group().rank > 0:
        return
    record = run.record
    click.echo(
        f"run {run.id}: {record['variant']}, best epoch {record['best_epoch']}, "
        f"validation mAP {record['validation_mAP']:.1f}, {record['seconds']} s, {paths.relative(run.folder)}"
    )
    if opened.caveat:
        click.echo(opened.caveat, err=True)


@main.command()
@click.argument("variant", required=False)
@study_options
@click.option("--seed", type=SEEDS, help="[the profile's first]")
@click.option(
    "--off-the-shelf", is_flag=True, help="The pre-trained backbone, nothing trained here."
)
@click.option(
    "--golden", is_flag=True, help="Check the evaluator itself; takes neither VARIANT nor study."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    variant: str | None,
    seed: int | None,
    off_the_shelf: bool,
    golden: bool,
    as_json: bool,
    **study: Any,
) -> None:
    """mAP and mP@k of VARIANT on the test benchmark; it is trained first where it has not been.

    With --golden: our evaluator on the descriptors that the authors of the Revisited protocol publish, beside their
    own figures; status 1 where one differs.

    \b
    dagf evaluate gem --benchmark rparis6k --distractors r1m --off-the-shelf
    dagf evaluate dagf
    dagf evaluate gem --benchmark PHOTOS --weights FILE --off-the-shelf
    dagf evaluate --golden
    """
    if golden:
        from dagf.analysis.golden import report_golden

        if variant or seed is not None or off_the_shelf or any(study.values()):
            raise UserError(
                "--golden checks the evaluator on published descriptors: give it alone, or with --json"
            )
        sys.exit(report_golden(as_json, click.echo))
    if not variant:
        raise UserError("name a variant to evaluate, for instance: dagf evaluate dagf")
    from dagf.distributed import process_group
    from dagf.retrieval.metrics import means
    from dagf.study.opening import open_study

    opened = open_study(**_parameters(**study))
    results = (
        opened.untrained_results(variant, seed)
        if off_the_shelf
        else opened.results(opened.run(variant, seed))
    )
    if process_group().rank > 0:
        return
    test = opened.test
    click.echo(
        f"{test.name}: {len(test.database)} database images, {len(test.distractors)} distractors",
        err=True,
    )
    if opened.caveat and not off_the_shelf:
        click.echo(opened.caveat, err=True)
    table = means(results.per_query).reset_index()
    click.echo(
        table.to_json(orient="records", indent=1)
        if as_json
        else table.round(2).to_string(index=False)
    )


for command in (data, extract, search, export):
    main.add_command(command)
