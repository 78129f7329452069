"""The study itself: which images, which arms, which seeds; everything that the notebooks and the command line ask.

    images (Toytown, or a folder of photographs) -> backbone of each seed -> arms -> judged queries -> tables

Every run comes from the run store, so a notebook asks for what it shows and only what is missing is trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from dagf.datasets.benchmark import Benchmark
from dagf.datasets.training_sets import TRAINING_SETS, TrainingSet
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.files import content_hash, file_sha256
from dagf.model.backbone import BackboneSpec
from dagf.model.network import MapEncoder, RetrievalNet, Variant
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.feature_maps import BenchmarkMaps, FeatureMaps, cache_benchmark
from dagf.retrieval.metrics import means
from dagf.retrieval.search import Descriptors, Rows
from dagf.study.checks import alike, check_spread
from dagf.study.config import HeadTraining, Profile, RunConfig, TrainSpec
from dagf.study.evaluation import evaluation_descriptors
from dagf.study.parallel import pipeline, side_by_side
from dagf.study.provenance import code_hash, evaluation_hash
from dagf.study.results import Results, read_results, write_results
from dagf.study.runs import Run, RunStore
from dagf.study.schedule import backbone_run, map_source, shared_tasks, tasks_for
from dagf.study.training import load_backbone
from dagf.toytown.generate import VERSION

Key = tuple[str, int]  # an arm and a seed


@dataclass(frozen=True)
class Study:
    """A profile with its images: what every notebook opens first (`dagf.study.opening.open_study`).

    training is None for photographs without training images; then every arm is used off the shelf.
    test_id: the hash of the test images. weights: the file of the backbone's weights, where it has one.
    toytown: the folder of the embedded benchmark, None for photographs.

    Arms are trained in two ways: the profile's `arms` (end to end, unless the profile is `frozen`), and with
    `sweep=True` its `sweep` of heads on the frozen maps of the same backbones.
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
        backbone = f"{self.backbone.name} {self.backbone.cut}".strip()
        facts = {
            "Images": self.test_id,
            "Backbone": backbone,
            "Backbone's weights": self.backbone.weights,
        }
        return facts | ({"Toytown version": str(VERSION)} if self.toytown else {})

    @property
    def backbone(self) -> BackboneSpec:
        """The backbone, its weights named by their hash rather than by where the file lies."""
        if self.weights is None:
            return self.profile.backbone
        return replace(self.profile.backbone, weights=f"sha256:{file_sha256(self.weights)[:12]}")

    def plan(self, heads: bool = False) -> HeadTraining:
        """The arms, their training and their validation trials: those of the sweep, or the profile's own."""
        if not heads:
            return HeadTraining(self.profile.arm_training, self.profile.arms, self.profile.rates)
        if self.profile.heads is None:
            raise UserError(f"profile {self.profile.name} has no sweep of heads on frozen maps")
        return replace(self.profile.heads, arms=self.profile.heads.arms or tuple(VARIANTS))

    def _config(
        self, made_of: Variant, spec: TrainSpec, seed: int, start: str = "", frozen: bool = False
    ) -> RunConfig:
        if self.training is None:
            raise UserError(f"{self.test.name} has no images of the role 'train' to train on")
        image, data = self.profile.image, self.training.id
        return RunConfig(
            made_of,
            self.backbone,
            image,
            spec,
            data,
            seed,
            start,
            frozen,
            code_hash("dagf.study.training"),
        )

    def backbone_config(self, seed: int) -> RunConfig | None:
        """The run that gives the backbone of a seed, under a neutral SPoC head; None where it is not trained here."""
        spec = self.profile.backbone_training
        return None if spec is None else self._config(variant("spoc"), spec, seed)

    def arm_config(
        self, arm: str, seed: int, heads: bool = False, rate: float | None = None
    ) -> RunConfig:
        """The run of one arm and seed: all arms of a seed start from the same backbone and get the same budget."""
        frozen, spec = heads or self.profile.frozen, self.plan(heads).training
        if frozen and not variant(arm).trainable:
            raise UserError(
                f"{arm} has nothing to train on a frozen backbone: use it off the shelf"
            )
        backbone = self.backbone_config(seed)
        spec = spec if rate is None else replace(spec, rate=rate)
        return self._config(variant(arm), spec, seed, backbone.id if backbone else "", frozen)

    def run(self, arm: str, seed: int | None = None, heads: bool = False) -> Run:
        """The trained run of one arm (of the first seed, unless another is named)."""
        seed = self.profile.seeds[0] if seed is None else seed
        self.arm_config(arm, seed, heads)  # refuses an arm that has nothing to train
        return self.train([arm], [seed], heads)[arm, seed]

    def train(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> dict[Key, Run]:
        """The runs of all arms and seeds (the plan's, unless named), by (arm, seed).

        What is missing is trained, each arm at the rate of its best validation trial, and its test queries are judged.
        """
        seeds, arms = seeds or self.profile.seeds, self._trained_arms(arms, heads)
        pipeline(tasks_for(self, arms, seeds, heads), "training")
        return {
            (arm, seed): self._trained(self.chosen_config(arm, seed, heads))
            for seed in seeds
            for arm in arms
        }

    def _trained(self, config: RunConfig) -> Run:
        run = self.store.get(config.id)
        run.check_start()
        return run

    def _trained_arms(self, arms: Sequence[str], heads: bool) -> list[str]:
        return [arm for arm in arms or self.plan(heads).arms if variant(arm).trainable or not heads]

    def trial_configs(self, arm: str, heads: bool = False) -> dict[float, RunConfig]:
        """The validation trials of an arm by learning rate, all on the first seed; none where there is no choice."""
        return {
            rate: self.arm_config(arm, self.profile.seeds[0], heads, rate)
            for rate in self.plan(heads).rates
        }

    def chosen_config(self, arm: str, seed: int, heads: bool = False) -> RunConfig:
        """The run of one arm and seed at the rate of the arm's best validation trial; the trials must be there."""
        scores = {
            rate: self._trained(config).record["validation_mAP"]
            for rate, config in self.trial_configs(arm, heads).items()
        }
        return self.arm_config(
            arm, seed, heads, max(scores, key=lambda rate: scores[rate]) if scores else None
        )

    def trials(self, arms: Sequence[str] = (), heads: bool = False) -> pd.DataFrame:
        """One row a validation trial, all on the first seed: arm, rate, validation mAP (per cent), whether chosen, run.

        Test queries play no part: a trial that is not chosen is never judged on them.
        """
        arms, seed = self._trained_arms(arms, heads), self.profile.seeds[0]
        pipeline(tasks_for(self, arms, (), heads, per_query=False), "trials")
        rows = [
            {
                "arm": arm,
                "method": VARIANTS[arm].title,
                "rate": rate,
                "validation mAP": self.store.get(config.id).record["validation_mAP"],
                "chosen": config == self.chosen_config(arm, seed, heads),
                "run": config.id,
            }
            for arm in arms
            for rate, config in self.trial_configs(arm, heads).items()
        ]
        return pd.DataFrame(
            rows, columns=["arm", "method", "rate", "validation mAP", "chosen", "run"]
        )

    def prepare(self, seeds: Sequence[int]) -> None:
        """Make the backbones of the seeds and their maps: whatever all heads on frozen backbones share."""
        pipeline(shared_tasks(self, seeds, frozen=True)[0], "backbones")

    def untrained(self, arm: str, seed: int | None = None) -> RetrievalNet:
        """The network of an arm before its first step, on the backbone of a seed (of the first, unless named)."""
        seed = self.profile.seeds[0] if seed is None else seed
        torch.manual_seed(
            seed
        )  # as in training: a backbone that nobody trained is drawn from its seed
        spec = (
            replace(self.profile.backbone, weights=str(self.weights))
            if self.weights
            else self.profile.backbone
        )
        net = RetrievalNet(spec, variant(arm))
        backbone = backbone_run(self, seed)
        if backbone:
            load_backbone(net, backbone.folder)
        return net.eval()

    def smaller(self, distractors: int) -> "Study":
        """The same study with the first `distractors` distractors only."""
        test = replace(self.test, distractors=self.test.distractors[:distractors])
        return replace(self, test=test, test_id=f"{self.test_id}-{len(test.distractors)}")

    def backbone_id(self, seed: int) -> str:
        """What names the backbone of a seed in the cache: its run with that one's weights, their hash, or its seed."""
        run, weights = backbone_run(self, seed), asdict(self.backbone)
        return (
            run.weights_id
            if run
            else content_hash(weights if self.backbone.pretrained else [weights, seed])
        )

    def maps_folder(self, backbone: str) -> Path:
        """Where the feature maps of the test benchmark under a backbone are kept."""
        return self.cache / content_hash(
            ["test", backbone, asdict(self.profile.evaluation_image), self.test_id]
        )

    def test_maps(self, net: RetrievalNet, backbone: str) -> BenchmarkMaps:
        """The feature maps of the test benchmark under a backbone that `backbone` names, computed once."""
        return cache_benchmark(
            on_device(net).backbone,
            self.test,
            self.profile.evaluation_image,
            self.maps_folder(backbone),
        )

    def training_maps(self, seed: int) -> FeatureMaps:
        """The feature maps of the training images under the backbone of a seed."""
        return map_source(self, on_device(self.untrained("spoc", seed)), seed).train

    def seed_maps(self, seed: int) -> BenchmarkMaps:
        """The feature maps of the test benchmark under the backbone of a seed."""
        return self.test_maps(self.untrained("spoc", seed), self.backbone_id(seed))

    def network(self, of: Run | Key) -> RetrievalNet:
        """The network of a trained run, or of the untrained (arm, seed)."""
        return self._asked(of)[1]()

    def descriptors(self, of: Run | Key) -> tuple[Rows, Descriptors]:
        """Of the test database (N, D) and queries (Q, D), by a trained run or the untrained head of an (arm, seed)."""
        folder, network, frozen = self._asked(of)
        net, profile = network(), self.profile
        torch.manual_seed(0)  # of a random mask
        if frozen and profile.scales == (1.0,) and not profile.whitening:
            return self.test_maps(net, frozen).extract(MapEncoder(net.head))
        name = of.weights_id if isinstance(of, Run) else folder.name
        return evaluation_descriptors(
            on_device(net), name, self.test, profile, self.cache / "shards"
        )

    def results(self, of: Run | Key) -> Results:
        """The test queries answered by a trained run, or by the untrained head of an (arm, seed); kept on disk."""
        files = self._files(of)
        if not files[-1].exists():
            rows, asked = self.descriptors(of)
            check_spread(files[-1].parent.name, rows, asked)
            write_results(self.test, rows, asked, files)
        return read_results(self.test, files, of.id if isinstance(of, Run) else "")

    def has_results(self, of: Run | Key) -> bool:
        """Whether the test queries are answered by it already."""
        return self._files(of)[-1].exists()

    def _asked(self, of: Run | Key) -> tuple[Path, Callable[[], RetrievalNet], str]:
        """Where the answers are kept, the network that gives them, and what names its backbone if that is frozen."""
        if isinstance(of, Run):
            of.verify()  # answers of other weights must not be taken for its own
            return of.folder, of.network, of.backbone_id if of.config.frozen else ""
        arm, seed = of
        backbone = self.backbone_id(seed)
        # Not the arm's name: what it stands for may change.
        name = content_hash([backbone, asdict(variant(arm)), evaluation_hash()])
        return self.cache / "off-the-shelf" / name, partial(self.untrained, arm, seed), backbone

    def _files(self, of: Run | Key) -> list[Path]:
        folder, one = self._asked(of)[0], self.profile
        weights = [of.weights_sum] if isinstance(of, Run) else []
        asked = [
            self.test_id,
            asdict(one.evaluation_image),
            one.scales,
            one.whitening,
            evaluation_hash(),
            *weights,
        ]
        return [folder / f"{kind}-{content_hash(asked)}.csv" for kind in ("positions", "judged")]

    def untrained_results(self, arm: str, seed: int | None = None) -> Results:
        """The test queries answered by an arm before its first step, on the backbone of a seed.

        Raises `UserError` where the backbone has learned nothing, or for an arm with attention: before training it is
        a constant, and judges nothing.
        """
        if not self.backbone.pretrained and self.profile.backbone_training is None:
            raise UserError(
                f"profile {self.profile.name} has no pre-trained backbone to use off the shelf"
            )
        if variant(arm).attentive:
            raise UserError(
                f"{arm} has an attention that must be trained first: it cannot be judged off the shelf"
            )
        return self.results((arm, self.profile.seeds[0] if seed is None else seed))

    def evaluate(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> dict[Key, Results]:
        """The answers of all arms and seeds, by (arm, seed): trained where there is something to train.

        In a sweep, an arm without parameters is used as it is on each seed's backbone.
        """
        seeds, arms = seeds or self.profile.seeds, arms or self.plan(heads).arms
        runs: dict[Key, Run] = self.train(arms, seeds, heads)
        asked = {(arm, seed): runs.get((arm, seed), (arm, seed)) for seed in seeds for arm in arms}
        missing = [of for of in asked.values() if not self.has_results(of)]
        side_by_side(self.results, missing, "answers")
        return {key: self.results(of) for key, of in asked.items()}

    def table(
        self, arms: Sequence[str] = (), seeds: Sequence[int] = (), heads: bool = False
    ) -> pd.DataFrame:
        """One row an arm, seed, query set and setting: mAP and mP@k in per cent, queries, and the run's ID."""
        evaluate = self.evaluate(arms, seeds, heads)
        for line in alike({key: results.positions for key, results in evaluate.items()}):
            print(f"Note: {line}.")  # in a notebook it stands above the table
        rows = [
            means(results.per_query)
            .reset_index()
            .assign(arm=arm, method=VARIANTS[arm].title, seed=seed, run=results.run)
            for (arm, seed), results in evaluate.items()
        ]
        return pd.concat(rows, ignore_index=True)

    def off_the_shelf_table(self, arms: Sequence[str] = ()) -> pd.DataFrame:
        """The same for arms off the shelf (the profile's `shelf`, unless named), which have no seed and no run."""
        rows = []
        for arm in arms or self.profile.off_the_shelf:
            found = means(self.untrained_results(arm).per_query).reset_index()
            rows.append(found.assign(arm=arm, method=VARIANTS[arm].title))
        return pd.concat(rows, ignore_index=True)
