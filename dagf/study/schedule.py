"""What has to be done before an answer can be given, and in which order: backbones, maps, trials, arms.

    backbone of a seed -> its maps (for heads) -> the trials of the first seed -> each arm of each seed, judged

Only what is missing is planned. A task starts as soon as what it needs is there, so no core waits for the slowest
backbone.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dagf.files import content_hash
from dagf.model.network import RetrievalNet
from dagf.study.config import RunConfig
from dagf.study.parallel import Task, pipeline
from dagf.study.runs import Run
from dagf.study.sources import MapSource
from dagf.study.training import train

if TYPE_CHECKING:
    from dagf.study.study import Study

Tasks = dict[Hashable, Task]


def shared_tasks(
    study: "Study", seeds: Sequence[int], frozen: bool
) -> tuple[Tasks, dict[int, Hashable]]:
    """The backbones of the seeds and, for heads, their maps; and for each seed the task that its arms wait for."""
    tasks: Tasks = {}
    last: dict[int, Hashable] = {}
    for seed in seeds:
        config = study.backbone_config(seed)
        last[seed] = ("backbone", seed)
        missing = config is not None and not study.store.find(config)
        if config and missing:
            tasks[last[seed]] = Task(partial(train_one, study, config))
        if frozen and study.training is not None:
            backbone = (
                config.id if config else study.backbone_id(seed)
            )  # a pre-trained one is that of all seeds
            # What the maps of a backbone are called is known when it is trained; those of an earlier one are not its own.
            if ("maps", backbone) not in tasks and (
                missing or not study.maps_folder(study.backbone_id(seed)).exists()
            ):
                tasks["maps", backbone] = Task(partial(cache_maps, study, seed), (last[seed],))
            last[seed] = ("maps", backbone)
    return tasks, last


def tasks_for(
    study: "Study", arms: Sequence[str], seeds: Sequence[int], heads: bool, per_query: bool = True
) -> Tasks:
    """Everything that is missing for the arms of the seeds: their trials only, or (`judged`) themselves as well."""
    trials = {arm: study.trial_configs(arm, heads) for arm in arms}
    first = study.profile.seeds[0]
    wanted = [first] if any(trials.values()) else []
    wanted += [seed for seed in seeds if seed not in wanted] if per_query else []
    tasks, last = shared_tasks(study, wanted, heads or study.profile.frozen)
    for arm, configs in trials.items():
        for rate, config in configs.items():
            if not study.store.find(config):
                tasks["trial", arm, rate] = Task(partial(train_one, study, config), (last[first],))
    for seed in seeds if per_query else ():
        for arm in arms:
            tried = tuple(("trial", arm, rate) for rate in trials[arm])
            pending = any(key in tasks for key in tried)
            run = None if pending else study.store.find(study.chosen_config(arm, seed, heads))
            if run is None:
                tasks["arm", arm, seed] = Task(
                    partial(_train_and_evaluate, study, arm, seed, heads), (last[seed], *tried)
                )
            elif not study.has_results(run):
                tasks["arm", arm, seed] = Task(partial(study.results, run), (last[seed],))
    return tasks


def train_one(study: "Study", config: RunConfig) -> Run:
    """The run of a configuration of the study, trained if it is missing."""
    assert study.training is not None
    done = study.store.find(config)
    if done:
        return done
    cache = training_cache(study, config.seed) if config.frozen else study.cache
    return train(config, study.training, study.store, cache, study.weights, bar=False)


def backbone_run(study: "Study", seed: int) -> Run | None:
    """The run that gives the backbone of a seed, trained if it is missing; None where it is not trained here."""
    config = study.backbone_config(seed)
    if config and not study.store.find(config):
        pipeline(shared_tasks(study, [seed], frozen=False)[0], "backbones")
    return study.store.get(config.id) if config else None


def training_cache(study: "Study", seed: int) -> Path:
    """Where heads on the frozen backbone of a seed find their maps: they name them by its run, this by its weights."""
    return (
        study.cache / content_hash(study.backbone_id(seed))
        if study.backbone_config(seed)
        else study.cache
    )


def map_source(study: "Study", net: RetrievalNet, seed: int) -> MapSource:
    """The feature maps of the training and validation images under the backbone of `net`, which is that of a seed."""
    assert study.training is not None
    backbone = study.backbone_config(seed)
    name = backbone.id if backbone else study.backbone_id(seed)
    return MapSource(study.training, study.profile.image, net, name, training_cache(study, seed))


def _train_and_evaluate(study: "Study", arm: str, seed: int, heads: bool) -> None:
    study.results(
        train_one(study, study.chosen_config(arm, seed, heads))
    )  # judged here: side by side with the others


def cache_maps(study: "Study", seed: int) -> None:
    """The maps of one backbone: training, validation and test images."""
    study.training_maps(seed)
    study.seed_maps(seed)
