"""The study: which images, which arms, which seeds, and all that notebooks and commands ask of it.

    images -> backbone of each seed -> trials of the first seed -> arms -> evaluation -> tables

Every run comes from the run store and every evaluation from the cache: only what is missing is
made, in stages, the jobs of a stage side by side.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dagf import paths
from dagf.datasets import checks
from dagf.datasets.benchmark import Benchmark, TrainingSet, joined
from dagf.datasets.contents import Contents, remembered
from dagf.datasets.folder import has_labels, has_truth, hold_out, numbered, read_labels
from dagf.datasets.images import has_mask
from dagf.datasets.public import CAVEATS, open_benchmark, open_training_set, place
from dagf.datasets.toytown import load_toytown, open_toytown, toytown_training
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.files import content_hash, existing_file, file_sha256
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.extract import BenchmarkMaps, FeatureMaps, cache_benchmark, with_masks
from dagf.retrieval.metrics import evaluate_positions, means
from dagf.retrieval.search import Descriptors, Rows
from dagf.study.cache import cached_arrays, cached_table, table_file
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.evaluation import EvaluationSpec, Results, centred, evaluation_descriptors, ranked
from dagf.study.parallel import side_by_side
from dagf.study.profile import Profile, load_profile, weights_file
from dagf.study.provenance import code_hash
from dagf.study.pyramid import OneScale
from dagf.study.runs import Head, Run, RunStore, Untrained
from dagf.study.sampling import MapSource
from dagf.study.training import train
from dagf.toytown.generate import VERSION, ToytownSpec

Key = tuple[str, int]  # an arm and a seed
Arms = Sequence[str]
Seeds = Sequence[int]
VALIDATION_SEED = 2023  # which instances of a photograph folder are held out
CONTROL_DISTRACTORS = 1000  # at most
TEST_ALONE: dict[str, Any] = {
    "train_landmarks": 0,
    "validation_landmarks": 0,
    "validation_distractors": 0,
}
TRAINED_BY = "dagf.study.training"
# Maps and results are named by this code, too: a changed decoder must not meet old maps.
CACHED_BY = "dagf.study.evaluation", "dagf.study.runs"


@dataclass(frozen=True)
class Study:
    """A profile with its images: what every notebook opens first (`open_study`).

    training is None for photographs without training images; then every arm is used off the shelf.
    test_id: the hash of the test images. distractors_id: of the distractors among them, whose maps
    several studies may share. weights: the file of the backbone's weights, where it has
    one. toytown: the folder of the embedded benchmark, None for photographs. backbones: other ones
    to start from than the profile's, by seed. `heads=True` asks for the profile's heads on frozen
    backbones, otherwise for the arms of its primary contrast.
    """

    profile: Profile
    training: TrainingSet | None
    test: Benchmark
    test_id: str
    distractors_id: str
    store: RunStore
    cache: Path
    weights: Path | None = None
    toytown: Path | None = None
    backbones: Mapping[int, Run] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name of the benchmark, for people."""
        return "Toytown" if self.toytown else self.test.name

    @property
    def learned_from(self) -> TrainingSet:
        """The training images; a `UserError` where there are none."""
        if self.training is None:
            raise UserError(f"{self.title} has no images of the role 'train' to train on")
        return self.training

    @property
    def masked(self) -> bool:
        """Whether it is exactly known where in some database images their instance is."""
        return any(has_mask(self.test.root / file) for file in self.test.database)

    @property
    def caveat(self) -> str:
        """What must stand beside every figure of what is trained here; '' where nothing must."""
        return CAVEATS.get(self.profile.training_set, "")

    @property
    def facts(self) -> dict[str, str]:
        """What a reader needs to know which images and which backbone were measured."""
        facts = {
            "Images": self.test_id,
            "Backbone": f"{self.backbone.name} {self.backbone.cut}".strip(),
            "Backbone's weights": self.backbone.weights,
        }
        return facts | ({"Toytown version": str(VERSION)} if self.toytown else {})

    @property
    def backbone(self) -> BackboneSpec:
        """The backbone of all heads, its weights named by their hash rather than by their place."""
        return self._backbone(heads=True)

    def _backbone(self, heads: bool) -> BackboneSpec:
        """Return the backbone that arms start from: heads that of the profile, primary arms one
        that ends before the last stage, where that is trained.
        """
        last = None if heads else self.profile.last_stage
        backbone = last or self.profile.backbone
        if self.weights is None:
            return backbone
        return replace(backbone, weights=f"sha256:{file_sha256(self.weights)[:12]}")

    @property
    def seed(self) -> int:
        """The first seed, with which validation trials are made."""
        return self.profile.seeds[0]

    def smaller(self, distractors: int) -> "Study":
        """Return the same study with the first `distractors` distractors only."""
        test = replace(self.test, distractors=self.test.distractors[:distractors])
        test_id, distractors_id = (
            f"{one}-{len(test.distractors)}" for one in (self.test_id, self.distractors_id)
        )
        return replace(self, test=test, test_id=test_id, distractors_id=distractors_id)

    def drawn(self, spec: ToytownSpec) -> "Study":
        """Return the same study on the test images of another Toytown."""
        root = open_toytown(spec, paths.data())
        test, name = load_toytown(root, "test"), root.name
        return replace(self, test=test, test_id=name, distractors_id=name, toytown=root)

    @property
    def centred(self) -> "Study":
        """The same study, its descriptors without what all of the database have in common."""
        return replace(self, profile=replace(self.profile, centred=True))

    # What decides a run.

    def _config(self, arm: str, seed: int, spec: TrainSpec, backbone: BackboneSpec) -> RunConfig:
        made, data, recipe = variant(arm), self.learned_from.id, code_hash(TRAINED_BY)
        image = replace(self.profile.image, truth="cells" if made.taught else made.truth)
        return RunConfig(made, backbone, image, spec, data, seed, recipe=recipe)

    def backbone_config(self, seed: int) -> RunConfig | None:
        """Return the run of a seed's backbone, under a SPoC head; None where none is trained."""
        spec = self.profile.backbone_training
        return None if spec is None else self._config("spoc", seed, spec, self.backbone)

    def arm_config(
        self, arm: str, seed: int, heads: bool = False, rate: float | None = None
    ) -> RunConfig:
        """Return the run of one arm and seed, at the plan's rate or another.

        All arms of a seed start from the same backbone, which is trained where it is missing, and
        get the same budget. A ceiling may be the run of another arm, evaluated with exact masks.
        """
        head_only, spec = heads or self.profile.frozen, self.profile.plan(heads).training
        if head_only and variant(arm).early:
            raise UserError(f"{arm} attends before the last map: train it end to end")
        if head_only and not variant(arm).trainable:
            raise UserError(
                f"{arm} has nothing to train on a frozen backbone: use it off the shelf"
            )
        spec = spec if rate is None else replace(spec, rate=rate)
        arm, backbone = variant(arm).learned_as or arm, self._backbone(heads)
        config = self._config(arm, seed, spec, backbone)
        return replace(config, start=self._start(seed), frozen=head_only or bool(backbone.stage))

    # What trains: backbones, their maps, trials, arms.

    def train(self, arms: Arms = (), seeds: Seeds = (), heads: bool = False) -> dict[Key, Run]:
        """Return the runs of all arms and seeds (the plan's, unless named), by (arm, seed).

        What is missing is trained, each arm at the rate of its best trial. As heads, arms without
        parameters have no run.
        """
        seeds = seeds or self.profile.seeds
        tried = self._tried(arms, seeds, heads)
        rates = {arm: _best_rate(trials) for arm, trials in tried.items()}
        keys = [(arm, seed) for seed in seeds for arm in tried]
        configs = [self.arm_config(arm, seed, heads, rates[arm]) for arm, seed in keys]
        runs = zip(keys, self._trained(configs, "training"), strict=True)
        return {(arm, seed): run.shown_as(variant(arm)) for (arm, seed), run in runs}

    def run(self, arm: str, seed: int | None = None, heads: bool = False) -> Run:
        """Return the trained run of one arm (of the first seed, unless another is named)."""
        seed = self.seed if seed is None else seed
        self.arm_config(arm, seed, heads)  # refuses an arm that has nothing to train
        return self.train([arm], [seed], heads)[arm, seed]

    def trials(self, arms: Arms = (), heads: bool = False) -> pd.DataFrame:
        """Return a row for each validation trial, all on the first seed.

        Columns: arm, method, rate, validation mAP (per cent), chosen, run. Test queries play no
        part: a trial that is not chosen is never evaluated on them.
        """
        rows = []
        for arm, trials in self._tried(arms, (), heads).items():
            for run in [] if variant(arm).learned_as else trials:
                rate, score = run.config.train.rate, run.record["validation_mAP"]
                chosen = rate == _best_rate(trials)
                rows.append((arm, VARIANTS[arm].title, rate, score, chosen, run.id))
        columns = ["arm", "method", "rate", "validation mAP", "chosen", "run"]
        return pd.DataFrame(rows, columns=columns)

    def train_backbones(self, seeds: Seeds) -> list[Run]:
        """Return the trained backbones of the seeds; none where none are trained on drawings."""
        configs = [config for seed in seeds if (config := self.backbone_config(seed))]
        return self._trained(configs, "backbones")

    def prepare(self, seeds: Seeds, heads: bool = True) -> None:
        """Train the backbones of the seeds, and make the feature maps that their arms share."""
        self.train_backbones([*dict.fromkeys(seeds)])
        if self.training and (heads or self.profile.frozen or self.profile.last_stage):
            bare = [self.untrained("spoc", seed, heads) for seed in seeds]
            without = {
                folder: head
                for head in bare
                if not (folder := self._maps_folder(head) / "queries").exists()  # the last ones
            }
            make = self.training_maps, self.test_maps
            jobs = [partial(maps, head) for head in without.values() for maps in make]
            side_by_side(lambda job: job(), jobs, "feature maps")

    def _tried(self, arms: Arms, seeds: Seeds, heads: bool) -> dict[str, list[Run]]:
        """Return the validation trials of the arms that can be trained, made where missing."""
        plan = self.profile.plan(heads)
        arms = [arm for arm in arms or plan.arms if variant(arm).trainable or not heads]
        if arms:
            self.prepare([self.seed, *seeds], heads)
        pairs = [(arm, rate) for arm in arms for rate in plan.rates]
        configs = [self.arm_config(arm, self.seed, heads, rate) for arm, rate in pairs]
        runs = iter(self._trained(configs, "trials"))
        return {arm: [next(runs) for _ in plan.rates] for arm in arms}

    def _trained(self, configs: Sequence[RunConfig], what: str) -> list[Run]:
        """Return the runs of configurations; those that are missing are trained side by side."""
        missing = [config for config in configs if not self.store.find(config)]
        about = self.store, self.cache, self.weights
        side_by_side(lambda config: train(config, self.learned_from, *about), missing, what)
        return [Run(self.store.folder(config)) for config in configs]

    def backbone_run(self, seed: int) -> Run | None:
        """Return the trained backbone of a seed; None where none is trained on drawings."""
        if self.backbones:
            return self.backbones[seed]
        if self.profile.kept_backbones:
            return kept_backbone(seed)
        return next(iter(self.train_backbones([seed])), None)

    def _start(self, seed: int) -> str:
        run = self.backbone_run(seed)
        return run.weights_id if run else ""

    # Feature maps.

    def untrained(self, arm: str, seed: int | None = None, heads: bool = True) -> Untrained:
        """Return an arm before its first step, on the backbone of a seed (of the first)."""
        seed = self.seed if seed is None else seed
        about = self.profile.image, TrainSpec(), "", seed, self._start(seed)
        config = RunConfig(variant(arm), self._backbone(heads), *about)
        return Untrained(config, self.store, self.weights)

    def bare(self, seed: int) -> Untrained:
        """Return the backbone of a seed, under a head without parameters."""
        return self.untrained("spoc", seed)

    def evaluation(self, head: OneScale) -> EvaluationSpec:
        """Return how the test images are described for a head: with what its ceiling knows."""
        spec = self.profile.evaluation
        return replace(spec, image=replace(spec.image, truth=head.variant.truth))

    def _maps_folder(self, head: OneScale, part: str = "test", of: str = "") -> Path:
        image = with_masks(self.evaluation(head).image)
        return self.cache / content_hash([part, head.backbone_id, image, of or self.test_id])

    def _distractors_folder(self, head: OneScale) -> Path:
        return self._maps_folder(head, "distractors", self.distractors_id)

    def test_maps(self, head: OneScale, net: RetrievalNet | None = None) -> BenchmarkMaps:
        """Return the feature maps of the test benchmark under a head's backbone (in `net`)."""
        net, image = net or on_device(head.network()), self.evaluation(head).image
        folders = self._maps_folder(head), self._distractors_folder(head)
        return cache_benchmark(net.backbone, self.test, image, *folders)

    def training_maps(self, head: OneScale) -> MapSource:
        """Return the maps of training and validation images under a head's backbone."""
        net, image = on_device(head.network()), self.profile.image
        return MapSource(self.learned_from, image, net, head.backbone_id, self.cache)

    # Evaluation on the test queries.

    def descriptors(self, head: Head) -> tuple[Rows, Descriptors]:
        """Return the descriptors of test database (N, D) and queries (Q, D)."""
        spec = self.evaluation(head)
        if head.frozen and spec.single:
            found: tuple[Rows, Descriptors] = self.map_descriptors(head)
        else:
            net, folder = on_device(head.network()), self.cache / "shards" / self.test_id
            found = evaluation_descriptors(net, head.weights_id, self.test, spec, folder)
        return centred(*found) if spec.centred else found

    def map_descriptors(self, head: OneScale) -> tuple[Descriptors, Descriptors]:
        """Return the same through cached maps: of one scale and not whitened.

        Kept in the cache, those of distractors for all benchmarks that share them.
        """
        own, distractors = self._maps_folder(head), self._distractors_folder(head)
        exact = self.evaluation(head).image.truth == "cells"

        def of_maps(folder: Path) -> list[Descriptors]:
            net = on_device(head.network())
            self.test_maps(head, net)
            torch.manual_seed(0)  # of a random mask
            return [FeatureMaps(folder, exact=exact).extract(net.on_maps)]

        def kept(folder: Path) -> Descriptors:
            name = content_hash([head.weights_id, *folder.parts[-2:], exact])
            return cached_arrays([self.cache / "descriptors" / name], partial(of_maps, folder))[0]

        rows = [kept(own / "database")]
        if self.test.distractors:
            rows.append(kept(distractors))
        return np.concatenate(rows), kept(own / "queries")

    def _file(self, head: Head, kind: str) -> Path:
        about = head.weights_id, self.test_id, self.evaluation(head)
        return table_file(self.cache / "results", kind, *about)

    def has_results(self, head: Head) -> bool:
        """Return whether the test queries are evaluated already."""
        return self._file(head, "per-query").exists()

    def results(self, head: Head) -> Results:
        """Return how a head, trained or not, ranks the test images."""
        what = f"run {head.id}" if head.id else "off the shelf"
        positions = cached_table(
            self._file(head, "positions"), lambda: ranked(what, self.test, *self.descriptors(head))
        )
        per_query = cached_table(
            self._file(head, "per-query"), lambda: evaluate_positions(self.test, positions)
        )
        return Results(per_query, positions, head.id)

    def untrained_results(self, arm: str, seed: int | None = None) -> Results:
        """Return the same of an arm before its first step, on the backbone of a seed.

        Raises `UserError` where the backbone has learned nothing, or for an arm with attention:
        before training it is a constant.
        """
        if not self.backbone.pretrained and not self.profile.own_backbones:
            raise UserError(
                f"profile {self.profile.name} has no pretrained backbone to use off the shelf"
            )
        if variant(arm).attentive:
            raise UserError(f"{arm} has an attention that must be trained first: train it")
        return self.results(self.untrained(arm, seed))

    def evaluate(
        self, arms: Arms = (), seeds: Seeds = (), heads: bool = False
    ) -> dict[Key, Results]:
        """Return the results of all arms and seeds, by (arm, seed), trained where they can be.

        As heads, an arm without parameters is used as it is on each seed's backbone.
        """
        seeds, arms = seeds or self.profile.seeds, arms or self.profile.plan(heads).arms
        runs = self.train(arms, seeds, heads)
        keys = [(arm, seed) for seed in seeds for arm in arms]
        found = {key: runs.get(key) or self.untrained(*key) for key in keys}
        missing = [head for head in found.values() if not self.has_results(head)]
        side_by_side(self.results, missing, "evaluating")
        return {key: self.results(head) for key, head in found.items()}

    def table(self, arms: Arms = (), seeds: Seeds = (), heads: bool = False) -> pd.DataFrame:
        """Return a row for each arm, seed, query set and setting: mAP, mP@k (per cent), run."""
        found = self.evaluate(arms, seeds, heads)
        rows = [
            _means(arm, results).assign(seed=seed, run=results.run)
            for (arm, seed), results in found.items()
        ]
        return pd.concat(rows, ignore_index=True)

    def off_the_shelf_table(self) -> pd.DataFrame:
        """Return the same for the profile's untrained arms: no seed and no run."""
        rows = [_means(arm, self.untrained_results(arm)) for arm in self.profile.off_the_shelf]
        return pd.concat(rows, ignore_index=True)


def _best_rate(trials: Sequence[Run]) -> float | None:
    """The rate of the best trial by validation; None where there is no choice."""
    best = max(trials, key=lambda run: run.record["validation_mAP"], default=None)
    return best.config.train.rate if best else None


def _means(arm: str, results: Results) -> pd.DataFrame:
    table = means(results.per_query).reset_index()
    return table.assign(arm=arm, method=VARIANTS[arm].title)


def open_study(
    profile: str = "cpu",
    benchmark: str = "",
    distractors: Sequence[str] = (),
    weights: str = "",
    train_on: Sequence[str] = (),
) -> Study:
    """Return the study of a profile on Toytown, or on photographs.

    benchmark: a public set's name, a folder or a ground truth. distractors: public distractor
    sets, or folders, whose images are added to the database. weights: a file with the backbone's
    weights, in place of the profile's. train_on: the folders to train on, where it is not that of
    `benchmark`. A profile with a training set trains on that one; without a `benchmark` it is
    evaluated on the set's validation split.

    Raises `UserError` for anything that does not exist or does not fit, and for a photograph that
    is trained and tested on; notes a query that is in the database under another name, and a copy
    of a right image that counts as wrong, for published sets have such images.
    """
    chosen, data = load_profile(profile), paths.data()
    if weights and chosen.kept_backbones:
        raise UserError(f"profile {profile} starts from kept backbones: leave --weights out")
    named = weights_file(profile, weights)
    file = Path(existing_file(named)) if named else None
    cache = paths.cache() / code_hash(*CACHED_BY)
    open_with = partial(
        Study, chosen, store=RunStore(paths.runs(), paths.backbones()), cache=cache, weights=file
    )
    training = None
    if chosen.training_set:
        if train_on:
            raise UserError(f"profile {profile} trains on {chosen.training_set}: no --train-on")
        training = open_training_set(chosen.training_set, data, chosen.held_out)
    if benchmark:
        test, contents = open_benchmark(benchmark, data, distractors), remembered(data)
        home = place(benchmark, data)
        sources = [place(what, data) for what in train_on or [benchmark]]
        for folder in {home, *sources}:
            checks.check_boxes(folder)
        for source in sources if has_labels(home) else ():
            checks.check_disjoint(source, home)
        if not training and (train_on or has_labels(home)):
            training = photograph_training(sources, chosen.held_out, test, contents)
        # The public sets are as their authors made them, but not what was put behind them.
        for line in checks.copies(test, contents, 0 if has_truth(home) else len(test.database)):
            # Not to stdout, which may be JSON.
            print(f"Note: {line}: `dagf data check {benchmark}`", file=sys.stderr)
        sets = [[query.query_set, query.box] for query in test.queries]
        test_id = content_hash([checks.files_hash(test, contents), sets])
        distractors_id = checks.distractors_hash(test, contents)
        contents.save()
        return open_with(training, test, test_id, distractors_id)
    if distractors or train_on:
        raise UserError("distractors and train_on belong to a benchmark of photographs; name it")
    if training:
        return open_with(training, training.validation, training.id, training.id)
    root = open_toytown(chosen.drawing, data)
    training = toytown_training(root)
    return open_with(training, load_toytown(root, "test"), root.name, root.name, toytown=root)


def kept_backbones() -> dict[int, Run]:
    """Return the kept backbones by seed."""
    runs = [Run(file.parent) for file in paths.backbones().glob("*/record.json")]
    return dict(sorted((run.config.seed, run) for run in runs))


def kept_backbone(seed: int) -> Run:
    """Return the kept backbone of a seed. Raises `UserError` where there is none."""
    found = kept_backbones()
    if seed not in found:
        known = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"no backbone of seed {seed} in {paths.backbones()} (seeds there: {known}): train it "
            "with `dagf backbones`"
        )
    return found[seed]


def photograph_training(
    folders: Sequence[Path], held_out: int, test: Benchmark, contents: Contents
) -> TrainingSet | None:
    """Return the training images of folders, some instances of each held out for validation.

    None where there are none. Raises `UserError` for one that is tested on, in `test`, too, and for
    one that two folders have: it would be trained as two instances.
    """
    files, labels, held = list[Path](), list[int](), list[Benchmark]()
    known = dict[str, tuple[Path, Path]]()  # what an image holds -> its folder, the image
    for folder in folders:
        rows = read_labels(folder).query("role == 'train'").sort_values("file")
        if len(rows):
            name = f"{folder.resolve().name}-validation"
            rows, validation = hold_out(name, folder, rows, held_out, VALIDATION_SEED)
            own, numbers = numbered(folder, rows)
            for file in (*own, *(validation.root / name for name in validation.files)):
                home, first_file = known.setdefault(contents.sha256(file), (folder, file))
                if home != folder:
                    raise UserError(
                        f"{file} is also, as {first_file}, in another folder to train on: leave "
                        "one of the folders out, or one of the two images"
                    )
            first = len({*labels})
            files, labels = [*files, *own], [*labels, *(number + first for number in numbers)]
            held.append(validation)
    if not held:
        return None
    validation = held[0] if len(held) == 1 else joined(held)
    checks.check_apart_from(files, validation, contents)
    chosen_by = [validation.root / file for file in validation.files]
    checks.check_apart_from([*files, *chosen_by], test, contents)
    return checks.training_set(files, labels, validation, contents)


def control_spec(spec: ToytownSpec) -> ToytownSpec:
    """Return the control of a Toytown: its test landmarks without clutter, occlusion and scale."""
    few = min(CONTROL_DISTRACTORS, spec.distractors)
    return replace(spec, nuisances=False, distractors=few, **TEST_ALONE)


def control_of(study: Study) -> Study:
    """Return the same trained arms on the control Toytown.

    Raises `UserError` for a study of photographs.
    """
    if study.toytown is None:
        raise UserError("only Toytown has a control version of its images")
    return study.drawn(control_spec(study.profile.drawing))
