"""The study: which images, which arms, which seeds, and all that notebooks and commands ask of it.

    images -> backbone of each seed -> trials of the first seed -> arms -> evaluation -> tables

Every run comes from the run store and every evaluation from the cache: only what is missing is
made, in stages, the jobs of a stage side by side.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from dagf.datasets.benchmark import Benchmark, TrainingSet
from dagf.datasets.training_sets import TRAINING_SETS
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.files import content_hash, file_sha256
from dagf.model.backbone import BackboneSpec
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.feature_maps import BenchmarkMaps, cache_benchmark
from dagf.retrieval.metrics import evaluate_positions, means
from dagf.retrieval.search import Descriptors, Rows
from dagf.study.cache import cached_table, table_file
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.evaluation import Results, evaluation_descriptors, ranked
from dagf.study.parallel import side_by_side
from dagf.study.profile import ArmPlan, Profile
from dagf.study.provenance import code_hash
from dagf.study.runs import Head, Run, RunStore, Untrained
from dagf.study.sources import MapSource
from dagf.study.training import train
from dagf.toytown.generate import VERSION

Key = tuple[str, int]  # an arm and a seed


@dataclass(frozen=True)
class Study:
    """A profile with its images: what every notebook opens first (`dagf.study.opening.open_study`).

    training is None for photographs without training images; then every arm is used off the shelf.
    test_id: the hash of the test images. weights: the file of the backbone's weights, where it has
    one. toytown: the folder of the embedded benchmark, None for photographs. `heads=True` asks for
    the profile's heads on frozen backbones, otherwise for the arms of its primary contrast.
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
    def caveat(self) -> str:
        """What must stand beside every figure of what is trained here; '' where nothing must."""
        return TRAINING_SETS[self.profile.training_set].caveat if self.profile.training_set else ""

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
        """The backbone, its weights named by their hash rather than by where the file lies."""
        if self.weights is None:
            return self.profile.backbone
        return replace(self.profile.backbone, weights=f"sha256:{file_sha256(self.weights)[:12]}")

    @property
    def seed(self) -> int:
        """The first seed, with which validation trials are made."""
        return self.profile.seeds[0]

    def smaller(self, distractors: int) -> "Study":
        """Return the same study with the first `distractors` distractors only."""
        test = replace(self.test, distractors=self.test.distractors[:distractors])
        return replace(self, test=test, test_id=f"{self.test_id}-{len(test.distractors)}")

    def plan(self, heads: bool = False) -> ArmPlan:
        """Return the arms, their training and the rates of their validation trials."""
        return self.profile.plan(heads)

    # What decides a run.

    def _config(
        self, arm: str, seed: int, spec: TrainSpec, start: str = "", frozen: bool = False
    ) -> RunConfig:
        if self.training is None:
            raise UserError(f"{self.test.name} has no images of the role 'train' to train on")
        image, recipe = self.profile.image, code_hash("dagf.study.training")
        about = variant(arm), self.backbone, image, spec, self.training.id, seed
        return RunConfig(*about, start, frozen, recipe)

    def backbone_config(self, seed: int) -> RunConfig | None:
        """Return the run of a seed's backbone, under a SPoC head; None where none is trained."""
        spec = self.profile.backbone_training
        return None if spec is None else self._config("spoc", seed, spec)

    def arm_config(
        self, arm: str, seed: int, heads: bool = False, rate: float | None = None
    ) -> RunConfig:
        """Return the run of one arm and seed.

        All arms of a seed start from the same backbone, which is trained where it is missing, and
        get the same budget.
        """
        frozen, spec = heads or self.profile.frozen, self.plan(heads).training
        if frozen and not variant(arm).trainable:
            raise UserError(
                f"{arm} has nothing to train on a frozen backbone: use it off the shelf"
            )
        spec = spec if rate is None else replace(spec, rate=rate)
        return self._config(arm, seed, spec, self._start(seed), frozen)

    def trial_configs(self, arm: str, heads: bool = False) -> dict[float, RunConfig]:
        """Return an arm's validation trials by rate; none where there is no choice."""
        rates = self.plan(heads).rates
        return {rate: self.arm_config(arm, self.seed, heads, rate) for rate in rates}

    def chosen_config(self, arm: str, seed: int, heads: bool = False) -> RunConfig:
        """Return the run of an arm and seed at the rate of its best trial, which must be there."""
        scores = {
            rate: self._trained(config).record["validation_mAP"]
            for rate, config in self.trial_configs(arm, heads).items()
        }
        best = max(scores, key=lambda rate: scores[rate]) if scores else None
        return self.arm_config(arm, seed, heads, best)

    # What trains: backbones, their maps, trials, arms.

    def train(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> dict[Key, Run]:
        """Return the runs of all arms and seeds (the plan's, unless named), by (arm, seed).

        What is missing is trained and evaluated, each arm at the rate of its best trial. As heads,
        arms without parameters have no run.
        """
        seeds, arms = seeds or self.profile.seeds, self._try_rates(arms, seeds, heads)
        keys = [(arm, seed) for seed in seeds for arm in arms]
        configs = {(arm, seed): self.chosen_config(arm, seed, heads) for arm, seed in keys}
        runs = {key: self.store.find(config) for key, config in configs.items()}
        missing = [
            configs[key] for key, run in runs.items() if not run or not self.has_results(run)
        ]
        side_by_side(self._train_and_evaluate, missing, "training")
        return {key: self._trained(config) for key, config in configs.items()}

    def run(self, arm: str, seed: int | None = None, heads: bool = False) -> Run:
        """Return the trained run of one arm (of the first seed, unless another is named)."""
        seed = self.seed if seed is None else seed
        self.arm_config(arm, seed, heads)  # refuses an arm that has nothing to train
        return self.train([arm], [seed], heads)[arm, seed]

    def trials(self, arms: Sequence[str] = (), heads: bool = False) -> pd.DataFrame:
        """Return a row for each validation trial, all on the first seed.

        Columns: arm, method, rate, validation mAP (per cent), chosen, run. Test queries play no
        part: a trial that is not chosen is never evaluated on them.
        """
        rows = [
            {
                "arm": arm,
                "method": VARIANTS[arm].title,
                "rate": rate,
                "validation mAP": self._trained(config).record["validation_mAP"],
                "chosen": config == self.chosen_config(arm, self.seed, heads),
                "run": config.id,
            }
            for arm in self._try_rates(arms, (), heads)
            for rate, config in self.trial_configs(arm, heads).items()
        ]
        columns = ["arm", "method", "rate", "validation mAP", "chosen", "run"]
        return pd.DataFrame(rows, columns=columns)

    def prepare(self, seeds: Sequence[int], maps: bool = True) -> None:
        """Train the backbones of the seeds, and make their feature maps, which heads share."""
        configs = [self.backbone_config(seed) for seed in dict.fromkeys(seeds)]
        missing = [one for one in configs if one and not self.store.find(one)]
        side_by_side(self._train, missing, "backbones")
        if maps and self.training:
            heads = {self._maps_folder(head): head for head in map(self.bare, seeds)}
            without = [head for folder, head in heads.items() if not folder.exists()]
            side_by_side(self._make_maps, without, "feature maps")

    def _try_rates(self, arms: Sequence[str], seeds: Sequence[int], heads: bool) -> list[str]:
        """Return the arms that can be trained, once their validation trials are there."""
        arms = [arm for arm in arms or self.plan(heads).arms if variant(arm).trainable or not heads]
        if arms:
            self.prepare([self.seed, *seeds], heads or self.profile.frozen)
            configs = [one for arm in arms for one in self.trial_configs(arm, heads).values()]
            missing = [config for config in configs if not self.store.find(config)]
            side_by_side(self._train, missing, "validation trials")
        return arms

    def _train(self, config: RunConfig) -> Run:
        assert self.training is not None
        return train(config, self.training, self.store, self.cache, self.weights)

    def _trained(self, config: RunConfig) -> Run:
        run = self.store.find(config)
        assert run is not None
        return run

    def _train_and_evaluate(self, config: RunConfig) -> None:
        self.results(self.store.find(config) or self._train(config))

    def _start(self, seed: int) -> str:
        """Return what names the trained backbone of a seed, which is trained if it is missing."""
        if (config := self.backbone_config(seed)) is None:
            return ""
        if not self.store.find(config):
            self.prepare([seed], maps=False)
        return self._trained(config).weights_id

    # Feature maps.

    def untrained(self, arm: str, seed: int | None = None) -> Untrained:
        """Return an arm before its first step, on the backbone of a seed (of the first)."""
        seed, made_of = self.seed if seed is None else seed, variant(arm)
        start = self._start(seed)
        return Untrained(made_of, self.backbone, seed, start, self.store, self.weights)

    def bare(self, seed: int) -> Untrained:
        """Return the backbone of a seed, under a head without parameters."""
        return self.untrained("spoc", seed)

    def _maps_folder(self, head: Head) -> Path:
        image = asdict(self.profile.evaluation_image)
        return self.cache / content_hash(["test", head.backbone_id, image, self.test_id])

    def test_maps(self, head: Head) -> BenchmarkMaps:
        """Return the feature maps of the test benchmark under a head's backbone."""
        backbone, image = on_device(head.network()).backbone, self.profile.evaluation_image
        return cache_benchmark(backbone, self.test, image, self._maps_folder(head))

    def training_maps(self, head: Head) -> MapSource:
        """Return the maps of training and validation images under a head's backbone."""
        assert self.training is not None
        net, image = on_device(head.network()), self.profile.image
        return MapSource(self.training, image, net, head.backbone_id, self.cache)

    def _make_maps(self, head: Head) -> None:
        self.training_maps(head)
        self.test_maps(head)

    # Evaluation on the test queries.

    def descriptors(self, head: Head) -> tuple[Rows, Descriptors]:
        """Return the descriptors of test database (N, D) and queries (Q, D)."""
        net, spec = on_device(head.network()), self.profile.evaluation
        maps = self.test_maps(head) if head.frozen and spec.single else None
        torch.manual_seed(0)  # of a random mask
        if maps:
            return maps.extract(net.head)
        folder = self.cache / "shards"
        return evaluation_descriptors(net, head.weights_id, self.test, spec, folder)

    def _file(self, head: Head, kind: str) -> Path:
        about = head.weights_id, self.test_id, self.profile.evaluation
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
        if not self.backbone.pretrained and self.profile.backbone_training is None:
            raise UserError(
                f"profile {self.profile.name} has no pretrained backbone to use off the shelf"
            )
        if variant(arm).attentive:
            raise UserError(f"{arm} has an attention that must be trained first: train it")
        return self.results(self.untrained(arm, seed))

    def evaluate(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> dict[Key, Results]:
        """Return the results of all arms and seeds, by (arm, seed), trained where they can be.

        As heads, an arm without parameters is used as it is on each seed's backbone.
        """
        seeds, arms = seeds or self.profile.seeds, arms or self.plan(heads).arms
        runs = self.train(arms, seeds, heads)
        keys = [(arm, seed) for seed in seeds for arm in arms]
        found = {key: runs.get(key) or self.untrained(*key) for key in keys}
        missing = [head for head in found.values() if not self.has_results(head)]
        side_by_side(self.results, missing, "evaluating")
        return {key: self.results(head) for key, head in found.items()}

    def table(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> pd.DataFrame:
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


def _means(arm: str, results: Results) -> pd.DataFrame:
    table = means(results.per_query).reset_index()
    return table.assign(arm=arm, method=VARIANTS[arm].title)
