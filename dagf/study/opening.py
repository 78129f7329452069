"""Opening a study: which images a profile and the user's folders stand for, and what names them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dagf import paths
from dagf.console import progress
from dagf.datasets.benchmark import Benchmark, TrainingSet
from dagf.datasets.checks import check_apart_from, copies, rows_to_read
from dagf.datasets.contents import Contents, remembered
from dagf.datasets.folder import has_labels, has_truth, read_labels, validation_split
from dagf.datasets.manifest import list_differences, read_manifest
from dagf.datasets.public import open_benchmark, place
from dagf.datasets.toytown import load_toytown, open_toytown, toytown_training_images
from dagf.datasets.training_sets import TRAINING_SETS
from dagf.errors import UserError, choose
from dagf.files import content_hash
from dagf.study.profile import Profile, load_profile
from dagf.study.provenance import evaluation_hash
from dagf.study.runs import RunStore
from dagf.study.study import Study
from dagf.toytown.generate import ToytownSpec

VALIDATION_SEED = 2023  # which instances of a photograph folder are held out


def open_study(
    profile: str = "cpu",
    benchmark: str = "",
    distractors: Sequence[str] = (),
    weights: str = "",
    train_on: str = "",
) -> Study:
    """Return the study of a profile on Toytown, or on photographs.

    benchmark: a public set's name or a folder. distractors: public distractor sets, or folders,
    whose images are added to the database. weights: a file with the backbone's weights. train_on:
    the folder to train on, where it is not `benchmark` itself. A profile with a training set trains
    on that one; without a `benchmark` it is evaluated on the set's validation split.

    Raises `UserError` for anything that does not exist or does not fit, and for a photograph that
    is trained and tested on; notes a query that is in the database under another name, and a copy
    of a right image that counts as wrong, for published sets have such images.
    """
    chosen = load_profile(profile)
    file = Path(weights) if weights else None
    if file and not file.is_file():
        raise UserError(f"weights file {weights} does not exist")
    # Maps and results are named by the code, too: a changed decoder must not meet old maps.
    store, cache = RunStore(paths.runs()), paths.cache() / evaluation_hash()
    public = public_training(chosen) if chosen.training_set else None
    if public and train_on:
        raise UserError(f"profile {profile} trains on {chosen.training_set}: leave --train-on out")
    if benchmark:
        test = open_benchmark(benchmark, paths.data(), distractors)
        home, source = (place(what, paths.data()) for what in (benchmark, train_on or benchmark))
        if has_labels(home):
            _check_disjoint(source, home)
        own, contents = has_labels(source), remembered(paths.data())
        training = public or (
            photograph_training(source, chosen, contents) if train_on or own else None
        )
        if training and not public:
            held = training.validation
            chosen_by = [held.root / file for file in held.files]
            check_apart_from([*training.files, *chosen_by], test, contents)
        # The public sets are as their authors made them, but not what was put behind them.
        for line in copies(test, contents, 0 if has_truth(home) else len(test.database)):
            note = f"Note: {line}: `dagf data check {benchmark}`"
            print(note, file=sys.stderr)  # stdout may be JSON
        sets = [[query.query_set, query.box] for query in test.queries]
        test_id = content_hash([files_hash(test, contents), sets])
        contents.save()
        return Study(chosen, training, test, test_id, store, cache, file)
    if distractors or train_on:
        raise UserError("distractors and train_on belong to a benchmark of photographs; name it")
    if public:
        return Study(chosen, public, public.validation, public.id, store, cache, file)
    root = drawn(chosen.drawing)
    files, labels = toytown_training_images(root)
    validation = load_toytown(root, "validation")
    training = TrainingSet(tuple(files), tuple(labels), validation, root.name)
    return Study(chosen, training, load_toytown(root, "test"), root.name, store, cache, file, root)


def drawn(spec: ToytownSpec) -> Path:
    """Return the folder of a Toytown, which is drawn where it is missing.

    Raises `UserError` where its files were changed.
    """
    return open_toytown(spec, paths.data())


def public_training(profile: Profile) -> TrainingSet:
    """Return the public set that a profile trains on; a `UserError` says how to get it."""
    name = choose("training set", profile.training_set, TRAINING_SETS)
    source = TRAINING_SETS[name]
    folder = paths.data() / source.folder
    if not folder.is_dir():
        raise UserError(
            f"profile {profile.name} trains on {name}, which is not in {folder}: "
            f"run `dagf data get {name}`"
        )
    one = read_manifest(paths.manifest())[name]
    if wrong := list_differences(one, folder):
        raise UserError(
            f"{folder} has {'; '.join(wrong)}: get it again with `dagf data get {name}`"
        )
    return source.load(folder, profile.held_out)


def photograph_training(folder: Path, profile: Profile, contents: Contents) -> TrainingSet | None:
    """Return the training images of a folder, some instances held out for validation.

    None where the folder has none.
    """
    if "train" not in read_labels(folder)["role"].tolist():
        return None
    files, labels, validation = validation_split(folder, profile.held_out, VALIDATION_SEED)
    check_apart_from(files, validation, contents)
    sums = [contents.sha256(file) for file in files]
    everything = content_hash([files_hash(validation, contents), sums, labels])
    return TrainingSet(tuple(files), tuple(labels), validation, everything)


def _check_disjoint(learned_from: Path, tested_on: Path) -> None:
    learned, tested = read_labels(learned_from), read_labels(tested_on)
    learned = learned[learned["role"] == "train"]
    tested = tested[tested["role"].str.startswith(("query", "database"))]
    if both := sorted({*learned["instance"]} & {*tested["instance"]}):
        raise UserError(
            f"{tested_on}: {', '.join(both[:3])}{' ...' if both[3:] else ''} would be trained and "
            "tested on; an instance may have training images or test images, not both"
        )


def files_hash(benchmark: Benchmark, contents: Contents) -> str:
    """Return the hash of a benchmark's images and ground truth."""
    queries = [benchmark.root / query.file for query in benchmark.queries]
    truth = [
        {label: rows.tolist() for label, rows in query.labels.items()}
        for query in benchmark.queries
    ]
    read = rows_to_read(benchmark)
    many = len(read) < len(benchmark.database_paths)
    sizes = [[file.name, file.stat().st_size] for file in benchmark.distractors] if many else []
    found = [
        contents.sha256(file) for file in progress([*read, *queries], f"{benchmark.name}: reading")
    ]
    return content_hash([found, truth, *sizes])


def control_spec(spec: ToytownSpec, distractors: int = 1000) -> ToytownSpec:
    """Return the control of a Toytown: its test landmarks without clutter, occlusion and scale."""
    few = {"train_landmarks": 0, "validation_landmarks": 0, "validation_distractors": 0}
    return replace(spec, nuisances=False, distractors=min(distractors, spec.distractors), **few)


def control_of(study: Study, distractors: int = 1000) -> Study:
    """Return the same trained arms on the control Toytown.

    Raises `UserError` for a study of photographs.
    """
    if study.toytown is None:
        raise UserError("only Toytown has a control version of its images")
    root = drawn(control_spec(study.profile.drawing, distractors))
    return replace(study, test=load_toytown(root, "test"), test_id=root.name, toytown=root)
