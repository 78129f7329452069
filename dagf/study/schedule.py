"""What has to be done before an answer can be given, and in which order: trunks, maps, trials, arms.

    trunk of a seed -> its maps (for heads) -> the trials of the first seed -> each arm of each seed, judged

Only what is missing is planned. A task starts as soon as what it needs is there, so no core waits for the slowest
trunk.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dagf.common import content_hash
from dagf.model.network import RetrievalNet
from dagf.study.config import RunConfig
from dagf.study.parallel import Task, pipeline
from dagf.study.runs import Run
from dagf.study.sources import MapSource
from dagf.study.training import train

if TYPE_CHECKING:
    from dagf.study.experiment import Study

Tasks = dict[Hashable, Task]


def shared_tasks(study: "Study", seeds: Sequence[int], frozen: bool) -> tuple[Tasks, dict[int, Hashable]]:
    """The trunks of the seeds and, for heads, their maps; and for each seed the task that its arms wait for."""
    tasks: Tasks = {}
    last: dict[int, Hashable] = {}
    for seed in seeds:
        config = study.trunk_config(seed)
        last[seed] = ("trunk", seed)
        missing = config is not None and not study.store.find(config)
        if config and missing:
            tasks[last[seed]] = Task(partial(train_one, study, config))
        if frozen and study.training is not None:
            trunk = config.id if config else study.trunk_id(seed)  # a pre-trained one is that of all seeds
            # What the maps of a trunk are called is known when it is trained; those of an earlier one are not its own.
            if ("maps", trunk) not in tasks and (missing or not study.maps_folder(study.trunk_id(seed)).exists()):
                tasks["maps", trunk] = Task(partial(cache_maps, study, seed), (last[seed],))
            last[seed] = ("maps", trunk)
    return tasks, last


def tasks_for(study: "Study", arms: Sequence[str], seeds: Sequence[int], sweep: bool, judged: bool = True) -> Tasks:
    """Everything that is missing for the arms of the seeds: their trials only, or (`judged`) themselves as well."""
    trials = {arm: study.trial_configs(arm, sweep) for arm in arms}
    first = study.profile.seeds[0]
    wanted = [first] if any(trials.values()) else []
    wanted += [seed for seed in seeds if seed not in wanted] if judged else []
    tasks, last = shared_tasks(study, wanted, sweep or study.profile.frozen)
    for arm, configs in trials.items():
        for rate, config in configs.items():
            if not study.store.find(config):
                tasks["trial", arm, rate] = Task(partial(train_one, study, config), (last[first],))
    for seed in seeds if judged else ():
        for arm in arms:
            tried = tuple(("trial", arm, rate) for rate in trials[arm])
            pending = any(key in tasks for key in tried)
            run = None if pending else study.store.find(study.chosen_config(arm, seed, sweep))
            if run is None:
                tasks["arm", arm, seed] = Task(partial(_train_and_judge, study, arm, seed, sweep), (last[seed], *tried))
            elif not study.has_answers(run):
                tasks["arm", arm, seed] = Task(partial(study.answers, run), (last[seed],))
    return tasks


def train_one(study: "Study", config: RunConfig) -> Run:
    """The run of a configuration of the study, trained if it is missing."""
    assert study.training is not None
    done = study.store.find(config)
    if done:
        return done
    cache = training_cache(study, config.seed) if config.frozen else study.cache
    return train(config, study.training, study.store, cache, study.weights, bar=False)


def trunk_run(study: "Study", seed: int) -> Run | None:
    """The run that gives the trunk of a seed, trained if it is missing; None where it is not trained here."""
    config = study.trunk_config(seed)
    if config and not study.store.find(config):
        pipeline(shared_tasks(study, [seed], frozen=False)[0], "trunks")
    return study.store.get(config.id) if config else None


def training_cache(study: "Study", seed: int) -> Path:
    """Where heads on the frozen trunk of a seed find their maps: they name them by its run, this by its weights."""
    return study.cache / content_hash(study.trunk_id(seed)) if study.trunk_config(seed) else study.cache


def map_source(study: "Study", net: RetrievalNet, seed: int) -> MapSource:
    """The feature maps of the training and validation images under the trunk of `net`, which is that of a seed."""
    assert study.training is not None
    trunk = study.trunk_config(seed)
    name = trunk.id if trunk else study.trunk_id(seed)
    return MapSource(study.training, study.profile.image, net, name, training_cache(study, seed))


def _train_and_judge(study: "Study", arm: str, seed: int, sweep: bool) -> None:
    study.answers(train_one(study, study.chosen_config(arm, seed, sweep)))  # judged here: side by side with the others


def cache_maps(study: "Study", seed: int) -> None:
    """The maps of one trunk: training, validation and test images."""
    study.training_maps(seed)
    study.seed_maps(seed)
