"""The study itself: which images, which arms, which seeds; everything that the notebooks and the command line ask.

    images (Toytown, or a folder of photographs) -> trunk of each seed -> arms -> judged queries -> tables

Every run comes from the run store, so a notebook asks for what it shows and only what is missing is trained.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

import pandas as pd
import torch

from dagf.benchmarks.folder import load_folder, read_labels, validation_split
from dagf.benchmarks.protocol import Benchmark
from dagf.benchmarks.toytown import generator_hash, load_toytown, make_toytown, toytown_training_images
from dagf.common import UserError, atomic_path, code_only, content_hash, file_sha256, progress
from dagf.model.network import MapEncoder, RetrievalNet
from dagf.model.trunks import TrunkSpec
from dagf.model.variants import VARIANTS, Variant, variant
from dagf.retrieval.descriptors import MultiScale, benchmark_scores, cache_benchmark
from dagf.retrieval.metrics import judge, means
from dagf.study import paths
from dagf.study.config import Profile, RunConfig, TrainSpec, load_profile, recipe_hash
from dagf.study.machine import cores
from dagf.study.runs import Run, RunStore
from dagf.study.sources import TrainingSet, trunk_id
from dagf.study.training import train

VALIDATION_SEED = 2023  # which instances of a photograph folder are held out


@dataclass(frozen=True)
class Study:
    """A profile with its images: what every notebook opens first.

    training is None for photographs without training images; then every arm is used off the shelf.
    test_id: the hash of the test images. weights: the file of the trunk's weights, where it has one.
    toytown: the folder of the embedded benchmark, None for photographs.
    """

    profile: Profile
    training: TrainingSet | None
    test: Benchmark
    test_id: str
    store: RunStore
    cache: Path
    weights: Path | None = None
    toytown: Path | None = None

    @property
    def title(self) -> str:
        """The name of the benchmark, for people."""
        return "Toytown" if self.toytown else self.test.name

    @property
    def facts(self) -> dict[str, str]:
        """What a reader needs to know which images and which trunk were measured."""
        trunk = f"{self.trunk.name} {self.trunk.cut}".strip()
        facts = {"Images": self.test_id, "Trunk": trunk, "Trunk's weights": self.trunk.weights}
        return facts | ({"Toytown generator": generator_hash()} if self.toytown else {})

    @property
    def trunk(self) -> TrunkSpec:
        """The trunk, its weights named by their hash rather than by where the file lies."""
        if self.weights is None:
            return self.profile.trunk
        return replace(self.profile.trunk, weights=f"sha256:{file_sha256(self.weights)[:12]}")

    def _config(self, made_of: Variant, spec: TrainSpec, seed: int, start: str = "", frozen: bool = False) -> RunConfig:
        if self.training is None:
            raise UserError(f"{self.test.name} has no images of the role 'train' to train on")
        image, data = self.profile.image, self.training.id
        return RunConfig(made_of, self.trunk, image, spec, data, seed, start, frozen, recipe_hash())

    def trunk_config(self, seed: int) -> RunConfig | None:
        """The run that gives the trunk of a seed, under a neutral SPoC head; None where it is not trained here."""
        spec = self.profile.trunk_training
        return None if spec is None else self._config(variant("spoc"), spec, seed)

    def arm_config(self, arm: str, seed: int) -> RunConfig:
        """The run of one arm and seed: all arms of a seed start from the same trunk and get the same budget."""
        if self.profile.frozen and not variant(arm).trainable:
            raise UserError(f"{arm} has nothing to train on a frozen trunk: use it off the shelf")
        trunk = self.trunk_config(seed)
        start = trunk.id if trunk else ""
        return self._config(variant(arm), self.profile.arm_training, seed, start, self.profile.frozen)

    def run(self, arm: str, seed: int | None = None) -> Run:
        """The trained run of one arm (of the first seed, unless another is named)."""
        seed = self.profile.seeds[0] if seed is None else seed
        return self.train([arm], [seed])[arm, seed]

    def train(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> dict[tuple[str, int], Run]:
        """The runs of all arms and seeds (the profile's, unless named), by (arm, seed).

        What is missing is trained, and its test queries are judged.
        """
        seeds, arms = seeds or self.profile.seeds, arms or self.profile.arms
        wanted = {(arm, seed): self.arm_config(arm, seed) for seed in seeds for arm in arms}
        self._train_all([config for config in map(self.trunk_config, seeds) if config])
        runs = self._train_all(list(wanted.values()))
        return dict(zip(wanted, runs, strict=True))

    def _train_all(self, configs: Sequence[RunConfig]) -> list[Run]:
        """Runs of one thread each, side by side: the same weights on any number of cores."""
        missing = list({config.id: config for config in configs if not self.store.find(config)}.values())
        workers = min(cores(), len(missing))
        if torch.cuda.is_available() or workers <= 1:
            for config in progress(missing, "training", unit="run"):
                _train_and_judge(self, config)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                jobs = pool.map(_train_and_judge, [self] * len(missing), missing)
                for _ in progress(jobs, "training", total=len(missing), unit="run"):
                    pass
        return [self.store.get(config.id) for config in configs]

    def untrained(self, arm: str) -> RetrievalNet:
        """The network of an arm off the shelf: a pre-trained trunk under a head before its first step."""
        torch.manual_seed(0)
        spec = replace(self.profile.trunk, weights=str(self.weights)) if self.weights else self.profile.trunk
        return RetrievalNet(spec, variant(arm)).eval()

    def judge_run(self, run: Run) -> pd.DataFrame:
        """Every test query judged with a trained run (see `dagf.retrieval.metrics.judge`); kept beside the run."""
        config = run.config
        frozen = trunk_id(config) if config.frozen else ""
        return self._judged(run.folder, run.network, frozen)

    def judge_untrained(self, arm: str) -> pd.DataFrame:
        """Every test query judged with an arm off the shelf.

        Raises `UserError` for an arm with attention: before training it is a constant, and judges nothing.
        """
        if not self.trunk.pretrained:
            raise UserError(f"profile {self.profile.name} has no pre-trained trunk to use off the shelf")
        if variant(arm).attentive:
            raise UserError(f"{arm} has an attention that must be trained first: it cannot be judged off the shelf")
        shelf = content_hash(asdict(self.trunk))
        name = content_hash([shelf, asdict(variant(arm))])  # not the arm's name: what it stands for may change
        return self._judged(self.cache / "off-the-shelf" / name, lambda: self.untrained(arm), shelf)

    def _judged(self, folder: Path, network: Callable[[], RetrievalNet], frozen: str) -> pd.DataFrame:
        profile = self.profile
        key = content_hash([self.test_id, asdict(profile.image), profile.scales, evaluation_hash()])
        path = folder / f"judged-{key}.csv"
        if not path.exists():
            net = network()
            if frozen and profile.scales == (1.0,):
                maps = self.cache / content_hash(["test", frozen, asdict(profile.image), self.test_id])
                scores = cache_benchmark(net.trunk, self.test, profile.image, maps).scores(MapEncoder(net.head))
            else:
                scores = benchmark_scores(MultiScale(placed(net), profile.scales), self.test, profile.image)[0]
            with atomic_path(path) as temporary:
                judge(self.test, scores).to_csv(temporary, index=False)
        return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])

    def table(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> pd.DataFrame:
        """One row an arm, seed, query set and setting: mAP and mP@k in per cent, queries, and the run's id."""
        rows = []
        for (arm, seed), run in self.train(arms, seeds).items():
            found = means(self.judge_run(run)).reset_index()
            rows.append(found.assign(arm=arm, method=VARIANTS[arm].title, seed=seed, run=run.id))
        return pd.concat(rows, ignore_index=True)

    def shelf_table(self, arms: Sequence[str] = ()) -> pd.DataFrame:
        """The same for arms off the shelf (the profile's `shelf`, unless named), which have no seed and no run."""
        rows = []
        for arm in arms or self.profile.shelf:
            found = means(self.judge_untrained(arm)).reset_index()
            rows.append(found.assign(arm=arm, method=VARIANTS[arm].title))
        return pd.concat(rows, ignore_index=True)


def _train_and_judge(study: Study, config: RunConfig) -> None:
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    assert study.training is not None
    with _one_thread():
        run = train(config, study.training, study.store, study.cache, study.weights, bar=False)
    study.judge_run(run)  # here rather than where it is asked for: side by side with the others


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread on CPUs, also for a run that is trained alone: more of them change the last bits of its weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if torch.cuda.is_available() else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def placed(net: RetrievalNet) -> RetrievalNet:
    """The network where it runs fastest here."""
    return net.to("cuda" if torch.cuda.is_available() else "cpu").to(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def evaluation_hash() -> str:
    """The hash of the code that turns a network and images into judged queries."""
    package = resources.files("dagf")
    files = ["benchmarks/protocol.py", "benchmarks/folder.py"]
    files += [f"retrieval/{name}.py" for name in ("images", "descriptors", "search", "metrics")]
    return content_hash([code_only((package / file).read_text(encoding="utf-8")) for file in files] + [recipe_hash()])


def open_study(
    profile: str = "cpu", benchmark: str = "", distractors: Sequence[str] = (), weights: str = "", train_on: str = ""
) -> Study:
    """The study of a profile on Toytown, or on a folder of photographs with a labels.csv (`benchmark`).

    distractors: further folders whose images are added to the database. weights: a file with the trunk's
    weights. train_on: the folder to train on, where it is not `benchmark` itself.

    Raises `UserError` for anything that does not exist or does not fit.
    """
    chosen = load_profile(profile)
    file = Path(weights) if weights else None
    if file and not file.is_file():
        raise UserError(f"weights file {weights} does not exist")
    # Maps and scores are named by the code that made them, too: a changed decoder must not meet old maps.
    store, cache = RunStore(paths.runs()), paths.data() / "cache" / evaluation_hash()
    if benchmark:
        test = load_folder(Path(benchmark), distractors=[Path(folder) for folder in distractors])
        _check_disjoint(Path(train_on or benchmark), Path(benchmark))
        training = photograph_training(Path(train_on or benchmark), chosen)
        sets = [[query.query_set, query.box] for query in test.queries]
        return Study(chosen, training, test, content_hash([files_hash(test), sets]), store, cache, file)
    if distractors or train_on:
        raise UserError("distractors and train_on belong to a benchmark of photographs; name its folder")
    root = make_toytown(chosen.drawing, paths.data())
    files, labels = toytown_training_images(root)
    validation = load_toytown(root, "validation")
    training = TrainingSet(tuple(files), tuple(labels), validation, root.name)
    return Study(chosen, training, load_toytown(root, "test"), root.name, store, cache, file, root)


def photograph_training(folder: Path, profile: Profile) -> TrainingSet | None:
    """Training images of a folder, with `held_out` of their instances kept for validation; None without any."""
    if not any(row.role == "train" for row in read_labels(folder)):
        return None
    kept, validation = validation_split(folder, profile.held_out, VALIDATION_SEED)
    names = sorted(set(kept.instances))
    labels = tuple(names.index(instance) for instance in kept.instances)
    everything = content_hash([files_hash(validation), [file_sha256(file) for file in kept.files], labels])
    return TrainingSet(tuple(kept.files), labels, validation, everything)


def _check_disjoint(learned_from: Path, tested_on: Path) -> None:
    learned = {row.instance for row in read_labels(learned_from) if row.role == "train"}
    asked = {row.instance for row in read_labels(tested_on) if row.role.startswith(("query", "database"))}
    if both := sorted(learned & asked):
        raise UserError(
            f"{tested_on}: {', '.join(both[:3])}{' ...' if both[3:] else ''} would be trained and tested on; "
            "an instance may have training images or test images, not both"
        )


def files_hash(benchmark: Benchmark) -> str:
    """The hash of a benchmark's images and ground truth."""
    queries = [benchmark.root / query.file for query in benchmark.queries]
    truth = [{label: rows.tolist() for label, rows in query.labels.items()} for query in benchmark.queries]
    return content_hash([[file_sha256(file) for file in [*benchmark.database_paths, *queries]], truth])
