"""Opening a study: which images a profile and the user's folders stand for, and what names them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dagf import paths
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.checks import check_apart_from, check_disjoint, copies, files_hash
from dagf.datasets.contents import Contents, remembered
from dagf.datasets.folder import has_labels, has_truth, read_labels, validation_split
from dagf.datasets.public import open_benchmark, place
from dagf.datasets.toytown import load_toytown, open_toytown, toytown_training
from dagf.datasets.training_sets import open_training_set
from dagf.errors import UserError
from dagf.files import content_hash
from dagf.study.profile import Profile, load_profile
from dagf.study.provenance import code_hash
from dagf.study.runs import RunStore
from dagf.study.study import Study
from dagf.toytown.generate import ToytownSpec

VALIDATION_SEED = 2023  # which instances of a photograph folder are held out
CONTROL_DISTRACTORS = 1000  # at most
# Maps and results are named by this code, too: a changed decoder must not meet old maps.
CACHED_BY = ("dagf.study.evaluation", "dagf.retrieval.feature_maps")


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
    chosen, data = load_profile(profile), paths.data()
    file = Path(weights) if weights else None
    if file and not file.is_file():
        raise UserError(f"weights file {weights} does not exist")
    cache = paths.cache() / code_hash(*CACHED_BY)
    open_with = partial(Study, chosen, store=RunStore(paths.runs()), cache=cache, weights=file)
    training = None
    if chosen.training_set:
        if train_on:
            raise UserError(f"profile {profile} trains on {chosen.training_set}: no --train-on")
        training = open_training_set(chosen.training_set, data, chosen.held_out)
    if benchmark:
        test, contents = open_benchmark(benchmark, data, distractors), remembered(data)
        home, source = (place(what, data) for what in (benchmark, train_on or benchmark))
        if has_labels(home):
            check_disjoint(source, home)
        if not training and (train_on or has_labels(source)):
            training = photograph_training(source, chosen, contents)
            if training:
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
        return open_with(training, test, test_id)
    if distractors or train_on:
        raise UserError("distractors and train_on belong to a benchmark of photographs; name it")
    if training:
        return open_with(training, training.validation, training.id)
    root = open_toytown(chosen.drawing, data)
    training = toytown_training(root)
    return open_with(training, load_toytown(root, "test"), root.name, toytown=root)


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


def control_spec(spec: ToytownSpec) -> ToytownSpec:
    """Return the control of a Toytown: its test landmarks without clutter, occlusion and scale."""
    none = {"train_landmarks": 0, "validation_landmarks": 0, "validation_distractors": 0}
    few = min(CONTROL_DISTRACTORS, spec.distractors)
    return replace(spec, nuisances=False, distractors=few, **none)


def control_of(study: Study) -> Study:
    """Return the same trained arms on the control Toytown.

    Raises `UserError` for a study of photographs.
    """
    if study.toytown is None:
        raise UserError("only Toytown has a control version of its images")
    root = open_toytown(control_spec(study.profile.drawing), paths.data())
    return replace(study, test=load_toytown(root, "test"), test_id=root.name, toytown=root)
