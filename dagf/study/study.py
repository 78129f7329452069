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

from dagf.datasets.benchmark import Benchmark
from dagf.datasets.training_sets import TRAINING_SETS, TrainingSet
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.files import content_hash, file_sha256
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet, Variant
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.feature_maps import BenchmarkMaps, FeatureMaps
from dagf.retrieval.metrics import evaluate_positions, means
from dagf.retrieval.search import Descriptors, Rows
from dagf.study.cache import cached_table, table_file
from dagf.study.config import RunConfig, TrainSpec, drawn_backbone
from dagf.study.evaluation import (
    Results,
    alike,
    benchmark_maps,
    evaluation_descriptors,
    maps_folder,
    ranked,
)
from dagf.study.parallel import side_by_side
from dagf.study.profile import ArmPlan, Profile
from dagf.study.provenance import code_hash
from dagf.study.runs import Run, RunStore
from dagf.study.sources import MapSource
from dagf.study.training import train
from dagf.toytown.generate import VERSION

Key = tuple[str, int]  # an arm and a seed
Of = Run | Key  # what is evaluated: a trained run, or an arm before its first step


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
        self, made_of: Variant, spec: TrainSpec, seed: int, start: str = "", frozen: bool = False
    ) -> RunConfig:
        if self.training is None:
            raise UserError(f"{self.test.name} has no images of the role 'train' to train on")
        image, recipe = self.profile.image, code_hash("dagf.study.training")
        return RunConfig(
            made_of, self.backbone, image, spec, self.training.id, seed, start, frozen, recipe
        )

    def backbone_config(self, seed: int) -> RunConfig | None:
        """Return the run of a seed's backbone, under a SPoC head; None where none is trained."""
        spec = self.profile.backbone_training
        return None if spec is None else self._config(variant("spoc"), spec, seed)

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
        backbone = self._backbone_run(seed)
        spec = spec if rate is None else replace(spec, rate=rate)
        return self._config(
            variant(arm), spec, seed, backbone.weights_id if backbone else "", frozen
        )

    def trial_configs(self, arm: str, heads: bool = False) -> dict[float, RunConfig]:
        """Return an arm's validation trials by rate; none where there is no choice."""
        return {
            rate: self.arm_config(arm, self.seed, heads, rate) for rate in self.plan(heads).rates
        }

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
        seeds, arms = seeds or self.profile.seeds, self._trained_arms(arms, heads)
        self._train_trials(arms, seeds, heads)
        configs = {
            (arm, seed): self.chosen_config(arm, seed, heads) for seed in seeds for arm in arms
        }
        missing = [config for config in configs.values() if not self._evaluated(config)]
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
        arms = self._trained_arms(arms, heads)
        if self.plan(heads).rates:
            self._train_trials(arms, (), heads)
        rows = [
            {
                "arm": arm,
                "method": VARIANTS[arm].title,
                "rate": rate,
                "validation mAP": self._trained(config).record["validation_mAP"],
                "chosen": config == self.chosen_config(arm, self.seed, heads),
                "run": config.id,
            }
            for arm in arms
            for rate, config in self.trial_configs(arm, heads).items()
        ]
        columns = ["arm", "method", "rate", "validation mAP", "chosen", "run"]
        return pd.DataFrame(rows, columns=columns)

    def prepare(self, seeds: Sequence[int], maps: bool = True) -> None:
        """Train the backbones of the seeds, and make their feature maps, which heads share."""
        configs = {seed: self.backbone_config(seed) for seed in dict.fromkeys(seeds)}
        missing = [one for one in configs.values() if one and not self.store.find(one)]
        side_by_side(self._train, missing, "backbones")
        if maps and self.training:
            seed_of = {self.backbone_id(seed): seed for seed in reversed(configs)}
            without = [seed_of[name] for name in seed_of if not self._maps_folder(name).exists()]
            side_by_side(self._make_maps, without, "feature maps")

    def _train_trials(self, arms: Sequence[str], seeds: Sequence[int], heads: bool) -> None:
        if arms:
            self.prepare([self.seed, *seeds], heads or self.profile.frozen)
            configs = [one for arm in arms for one in self.trial_configs(arm, heads).values()]
            missing = [config for config in configs if not self.store.find(config)]
            side_by_side(self._train, missing, "validation trials")

    def _trained_arms(self, arms: Sequence[str], heads: bool) -> list[str]:
        return [arm for arm in arms or self.plan(heads).arms if variant(arm).trainable or not heads]

    def _train(self, config: RunConfig) -> Run:
        assert self.training is not None
        return train(config, self.training, self.store, self.cache, self.weights, bar=False)

    def _trained(self, config: RunConfig) -> Run:
        run = self.store.find(config)
        assert run is not None
        return run

    def _evaluated(self, config: RunConfig) -> bool:
        run = self.store.find(config)
        return run is not None and self.has_results(run)

    def _train_and_evaluate(self, config: RunConfig) -> None:
        self.results(self.store.find(config) or self._train(config))

    def _backbone_run(self, seed: int) -> Run | None:
        """The run that gives the backbone of a seed, trained if it is missing."""
        if (config := self.backbone_config(seed)) is None:
            return None
        if not self.store.find(config):
            self.prepare([seed], maps=False)
        return self._trained(config)

    # Backbones and their feature maps.

    def backbone_id(self, seed: int) -> str:
        """Return what names the weights of the backbone of a seed in the cache."""
        run = self._backbone_run(seed)
        return run.weights_id if run else drawn_backbone(self.backbone, seed)

    def untrained(self, arm: str, seed: int | None = None) -> RetrievalNet:
        """Return an arm before its first step, on the backbone of a seed (of the first)."""
        seed = self.seed if seed is None else seed
        torch.manual_seed(seed)  # as in training: an untrained backbone is drawn from its seed
        spec = self.profile.backbone
        net = RetrievalNet(
            replace(spec, weights=str(self.weights)) if self.weights else spec, variant(arm)
        )
        if run := self._backbone_run(seed):
            run.load_backbone(net)
        return net.eval()

    def _maps_folder(self, backbone: str) -> Path:
        return maps_folder(backbone, self.profile.evaluation_image, self.test_id, self.cache)

    def test_maps(self, net: RetrievalNet, backbone: str) -> BenchmarkMaps:
        """Return the feature maps of the test benchmark under a backbone of that name."""
        image = self.profile.evaluation_image
        return benchmark_maps(net, backbone, self.test, self.test_id, image, self.cache)

    def seed_maps(self, seed: int) -> BenchmarkMaps:
        """Return the feature maps of the test benchmark under the backbone of a seed."""
        return self.test_maps(self.untrained("spoc", seed), self.backbone_id(seed))

    def map_source(self, net: RetrievalNet, seed: int) -> MapSource:
        """Return the maps of training and validation images; `net` has the backbone of the seed."""
        assert self.training is not None
        backbone, image = self.backbone_id(seed), self.profile.image
        return MapSource(self.training, image, on_device(net), backbone, self.cache)

    def training_maps(self, seed: int) -> FeatureMaps:
        """Return the feature maps of the training images under the backbone of a seed."""
        return self.map_source(self.untrained("spoc", seed), seed).train

    def _make_maps(self, seed: int) -> None:
        self.training_maps(seed)
        self.seed_maps(seed)

    # Evaluation on the test queries.

    def network(self, of: Of) -> RetrievalNet:
        """Return the network of a trained run, or of the untrained (arm, seed)."""
        return of.network() if isinstance(of, Run) else self.untrained(*of)

    def _names(self, of: Of) -> tuple[str, str]:
        """What names a network, and its backbone where that is frozen ('' where it is not)."""
        if isinstance(of, Run):
            return of.weights_id, of.backbone_id if of.config.frozen else ""
        arm, seed = of
        backbone = self.backbone_id(seed)
        # Not by the arm's name: what it stands for may change.
        return content_hash([backbone, asdict(variant(arm))]), backbone

    def descriptors(self, of: Of) -> tuple[Rows, Descriptors]:
        """Return the descriptors of test database (N, D) and queries (Q, D)."""
        (name, frozen), net, spec = self._names(of), self.network(of), self.profile.evaluation
        torch.manual_seed(0)  # of a random mask
        if frozen and spec.single:
            return self.test_maps(net, frozen).extract(net.head)
        folder = self.cache / "shards"
        return evaluation_descriptors(on_device(net), name, self.test, spec, folder)

    def _file(self, of: Of, kind: str) -> Path:
        name, spec = self._names(of)[0], self.profile.evaluation
        return table_file(self.cache / "results", kind, name, self.test_id, spec)

    def has_results(self, of: Of) -> bool:
        """Return whether the test queries are evaluated already."""
        return self._file(of, "per-query").exists()

    def results(self, of: Of) -> Results:
        """Return how a trained run, or an untrained (arm, seed), ranks the test images."""
        run = of.id if isinstance(of, Run) else ""
        what = f"run {run}" if run else f"{of[0]} off the shelf"  # type: ignore[index]
        positions = cached_table(
            self._file(of, "positions"), lambda: ranked(what, self.test, *self.descriptors(of))
        )
        per_query = cached_table(
            self._file(of, "per-query"), lambda: evaluate_positions(self.test, positions)
        )
        return Results(per_query, positions, run)

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
        return self.results((arm, self.seed if seed is None else seed))

    def evaluate(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> dict[Key, Results]:
        """Return the results of all arms and seeds, by (arm, seed), trained where they can be.

        As heads, an arm without parameters is used as it is on each seed's backbone.
        """
        seeds, arms = seeds or self.profile.seeds, arms or self.plan(heads).arms
        runs = self.train(arms, seeds, heads)
        keys = [(arm, seed) for seed in seeds for arm in arms]
        asked: dict[Key, Of] = {key: runs.get(key, key) for key in keys}
        missing = [of for of in asked.values() if not self.has_results(of)]
        side_by_side(self.results, missing, "evaluating")
        return {key: self.results(of) for key, of in asked.items()}

    def table(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> pd.DataFrame:
        """Return a row for each arm, seed, query set and setting: mAP, mP@k (per cent), run."""
        found = self.evaluate(arms, seeds, heads)
        for line in alike({key: results.positions for key, results in found.items()}):
            print(f"Note: {line}.")  # in a notebook it stands above the table
        rows = [
            _means(arm, results).assign(seed=seed, run=results.run)
            for (arm, seed), results in found.items()
        ]
        return pd.concat(rows, ignore_index=True)

    def off_the_shelf_table(self, arms: Sequence[str] = ()) -> pd.DataFrame:
        """Return the same for untrained arms (the profile's, unless named): no seed and no run."""
        arms = arms or self.profile.off_the_shelf
        rows = [_means(arm, self.untrained_results(arm)) for arm in arms]
        return pd.concat(rows, ignore_index=True)


def _means(arm: str, results: Results) -> pd.DataFrame:
    table = means(results.per_query).reset_index()
    return table.assign(arm=arm, method=VARIANTS[arm].title)
