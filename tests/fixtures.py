"""What tests share: a small set of photographs, and a training that takes a second."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from dagf.console import HEADLESS
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.decode import ImageSpec
from dagf.datasets.folder import load_folder
from dagf.devices import has_bfloat16
from dagf.errors import UserError
from dagf.model.backbone import BackboneSpec, make_backbone
from dagf.model.variants import variant
from dagf.study import parallel, training
from dagf.study.config import Mining, RunConfig, TrainSpec
from dagf.study.provenance import machine
from dagf.study.runs import Run, RunStore
from dagf.study.study import Study, open_study
from dagf.study.training import train
from tests.pictures import varied

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="it asks Linux which processes there are"
)
LOSS: dict[str, Any] = {"loss_options": {"margin": 0.2, "scale": 16.0}}
TINY = TrainSpec(epochs=2, steps=2, landmarks=4, views=2, augmentation="photograph", **LOSS)
TUPLES: dict[str, Any] = {  # changes of `TINY`: hard negatives are mined
    "epochs": 3,
    "mining": Mining(queries=4, pool=16, negatives=2),
    "loss": "TupleContrastiveLoss",
    "loss_options": {},
}
TRAINED, HELD = 4, 3  # instances to train on, and of the benchmark
JOB = """
import pickle, sys
from pathlib import Path
import torch
from dagf.study import training

class Loud(training._Loop):
    def run(self):
        print("trained here", flush=True)
        super().run()

training._Loop = Loud
torch.set_num_threads(1)
config, data, store, cache = pickle.loads(Path(sys.argv[1]).read_bytes())
print(training.train(config, data, store, cache).id, flush=True)
"""
PROFILE: dict[str, Any] = {
    "name": "tiny",
    "about": "for tests",
    "toytown": {
        "size": 48, "train_landmarks": 3, "train_views": 3, "validation_landmarks": 2,
        "test_landmarks": 2, "views": 4, "distractors": 3, "validation_distractors": 2,
    },
    "backbone": {"name": "small"},
    "image": {"size": 48},
    "backbone_training": {"epochs": 1, "steps": 1, "landmarks": 3, "views": 2},
    "arm_training": {"epochs": 1, "steps": 1, "landmarks": 3, "views": 2},
    "arms": ["spoc", "dagf"],
    "seeds": [0, 1],
    "held_out": 2,
}  # fmt: skip
FOLDER: dict[str, Any] = {  # changes of the profile: heads on photographs
    "image": {"size": 32, "mode": "squash"}, "backbone_training": None, "arm_training": None,
    "arms": ["gem", "dagf"], "heads": {
        "arms": ["gem", "dagf"],
        "training": {"epochs": 2, "steps": 2, "landmarks": 2, "views": 2},
    },
}  # fmt: skip
Opened = Callable[..., Study]
ARMS = ["mac", "spoc", "gem", "crow", "netvlad", "spatial", "channel", "attention", "dagf"]
FEW = {"train_landmarks": 4, "test_landmarks": 4, "views": 8, "distractors": 6}
TOY: dict[str, Any] = PROFILE | {
    "toytown": PROFILE["toytown"] | FEW,
    "arms": ["gem", "dagf"],
    "rates": [1e-3, 3e-3],
    "heads": {
        "arms": ARMS,
        "rates": [1e-3, 1e-1],
        "training": {"epochs": 1, "steps": 1, "landmarks": 3, "views": 2},
    },
}


def recorded_here(cpu: str, version: str) -> bool:
    """Whether a record's CPU and torch are these: CPUs of one name, with vp2intersect, differ."""
    here, newer = machine(1), torch.cpu.get_capabilities().get("avx512_vp2intersect", False)
    same = here["cpu"] == cpu and here["versions"]["torch"] == version and has_bfloat16()
    return same and not newer


def fails(says: str, call: Callable[..., object], *given: Any, **options: Any) -> None:
    """Check that the call is a user's mistake, and that one line says so."""
    with pytest.raises(UserError, match=says) as caught:
        call(*given, **options)
    assert "\n" not in str(caught.value)


@dataclass
class Code:
    """Touches a file when it is unpickled."""

    file: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def photograph(instance: int, view: int, size: int = 32) -> Image.Image:
    """Stripes: colours, direction and width of the instance, phase and light of the view."""
    kind, seen = np.random.default_rng([7, instance]), np.random.default_rng([8, instance, view])
    first, second = kind.integers(0, 256, (2, 3))
    angle, width, phase = kind.uniform(0, np.pi), kind.uniform(4, 9), seen.uniform(0, 6)
    y, x = np.mgrid[:size, :size]
    across = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / width
    stripes = np.sin(across + phase)[..., None] > 0
    pixels = np.where(stripes, first, second) * seen.uniform(0.8, 1.0)
    pixels += seen.normal(0, 6, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photographs(
    folder: Path, train_instances: int = TRAINED, views: int = 5, first: int = 0
) -> Path:
    """A folder with labels.csv: training instances, and a benchmark of `HELD` others.

    first: the number of the first instance; photographs of other instances are other photographs.
    """
    (folder / "jpg").mkdir(parents=True)
    lines = ["file,instance,role"]
    for instance in range(first, first + train_instances + HELD):
        for view in range(views):
            name = f"jpg/{instance}-{view}.jpg"
            photograph(instance, view).save(folder / name, quality=92)
            role = "query" if view == 0 else "database"
            role = "train" if instance < first + train_instances else role
            lines.append(f"{name},i{instance},{role}")
    for number in range(2):
        photograph(100 + number, 0).save(folder / f"jpg/other-{number}.jpg")
        lines.append(f"jpg/other-{number}.jpg,,distractor")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def mobilenet(file: Path, seed: int) -> Path:
    """A file with the weights of some MobileNetV2, for the descriptor off the shelf."""
    torch.manual_seed(seed)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), file)
    return file


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`write_photographs`, once; not to be changed."""
    return write_photographs(tmp_path_factory.mktemp("photographs") / "shots")


@pytest.fixture(scope="session")
def data(photographs: Path) -> TrainingSet:
    """Four instances with five images each to train on, and three others to validate on."""
    return training_set(photographs)


def training_set(photographs: Path) -> TrainingSet:
    """The training images of `write_photographs`, validated on its benchmark."""
    labels = tuple(label for label in range(TRAINED) for _ in range(5))
    files = (photographs / f"jpg/{label}-{row % 5}.jpg" for row, label in enumerate(labels))
    return TrainingSet(tuple(files), labels, load_folder(photographs), "tiny-photographs")


@pytest.fixture
def paired(data: TrainingSet) -> TrainingSet:
    """The tiny photographs with neighbouring views as pairs."""
    rows = range(len(data.files) - 1)
    pairs = tuple((row, row + 1) for row in rows if data.labels[row] == data.labels[row + 1])
    return replace(data, pairs=pairs)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, as the study trains: the same bits everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Jobs are done here: worker processes take seconds to start."""
    monkeypatch.setattr(parallel, "cores", lambda: 1)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook that somebody looks at."""
    monkeypatch.delenv(HEADLESS, raising=False)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that a study trains from here on, in order."""
    configs: list[RunConfig] = []
    whole = training.train

    def counted(config: RunConfig, *rest: Any, **options: Any) -> Any:
        configs.append(config)
        return whole(config, *rest, **options)

    monkeypatch.setattr("dagf.study.study.train", counted)
    return configs


def configured(arm: str = "dagf", **changes: Any) -> RunConfig:
    """A run of the small backbone on `data`, with changes of it and of its training."""
    fields = TrainSpec.__dataclass_fields__.keys() & changes.keys()
    training = replace(TINY, **{key: changes.pop(key) for key in fields})
    parts = variant(arm), BackboneSpec(), ImageSpec(32), training
    return replace(RunConfig(*parts, "tiny-photographs", 0, recipe="tested"), **changes)


@dataclass(frozen=True)
class Workshop:
    """A run store of a test's own, with the means to train in it."""

    root: Path
    data: TrainingSet

    @property
    def store(self) -> RunStore:
        return RunStore(self.root / "runs")

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def train(self, config: RunConfig, **options: Any) -> Run:
        """Train here, in this process."""
        return train(config, self.data, self.store, self.cache, **options)

    def interrupt(self, config: RunConfig, after: int) -> None:
        """Train, and stop in the validation that follows `after` finished epochs."""
        whole, epochs = training.evaluate, iter(range(after))

        def stop(*given: Any) -> Any:
            if next(epochs, None) is None:
                raise KeyboardInterrupt
            return whole(*given)

        with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(training, "evaluate", stop)
            self.train(config)

    def together(self, config: RunConfig, before: str = "") -> "subprocess.CompletedProcess[str]":
        """Train by two processes, after the code `before`."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "job.py").write_text(before + JOB)
        job = pickle.dumps((config, self.data, self.store, self.cache))
        (self.root / "job.pickle").write_bytes(job)
        return torchrun(self.root, "job.py", "job.pickle")


def torchrun(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """Start two processes of a script, with one thread each, and wait for them."""
    options = ("--standalone", "--nproc-per-node", "2")
    command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300
    )


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 240
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def same_bits(first: Run, second: Run) -> bool:
    """Whether two runs have the same weights and curves, to the bit."""
    ours, theirs = (load_file(run.folder / "weights.safetensors") for run in (first, second))
    curves = [(run.folder / "curves.csv").read_bytes() for run in (first, second)]
    equal = ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)
    return equal and curves[0] == curves[1]


@pytest.fixture
def workshop(tmp_path: Path, data: TrainingSet, one_thread: None) -> Workshop:
    """An empty run store."""
    return Workshop(tmp_path / "workshop", data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: TrainingSet) -> Run:
    """A finished run of `dagf` on the tiny photographs."""
    return Workshop(tmp_path_factory.mktemp("finished"), data).train(configured())


def empty_project(root: Path) -> Path:
    """A folder that is taken for the project's."""
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").touch()
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project's folder, named by DAGF_ROOT, with 37 photographs; no test changes them."""
    root = empty_project(tmp_path_factory.mktemp("home") / "project")
    write_photographs(root / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(root))
        patched.setattr(parallel, "cores", lambda: 1)
        yield root


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of several sizes."""
    return varied(tmp_path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, named by DAGF_ROOT."""
    root = empty_project(tmp_path / "project")
    monkeypatch.setenv("DAGF_ROOT", str(root))
    monkeypatch.delenv("DAGF_RESULTS", raising=False)
    return root


@pytest.fixture
def backbone_weights(tmp_path: Path) -> str:
    """A file with the weights of some small backbone."""
    torch.manual_seed(5)
    torch.save(make_backbone(BackboneSpec())[0].state_dict(), tmp_path / "backbone.pth")
    return str(tmp_path / "backbone.pth")


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., str]:
    """Writes a tiny profile with some fields changed (None leaves a field out); its file's name."""

    def write(**changes: Any) -> str:
        values = {key: value for key, value in (PROFILE | changes).items() if value is not None}
        path = tmp_path / f"profile-{len(list(tmp_path.glob('profile-*')))}.yaml"
        path.write_text(json.dumps(values))  # JSON is YAML
        return str(path)

    return write


@pytest.fixture
def heads_on(project: Path, profile: Callable[..., str]) -> Opened:
    """Opens the study of heads on photographs; changes are of its profile."""

    def opened(
        benchmark: object,
        weights: str = "",
        distractors: Sequence[Path] = (),
        train_on: Sequence[Path] = (),
        **changes: Any,
    ) -> Study:
        others, learned_from = ([*map(str, folders)] for folders in (distractors, train_on))
        name = profile(**FOLDER | changes)
        return open_study(name, str(benchmark), others, weights, learned_from)

    return opened


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project folder of `toy`, for what asks where the project is."""
    root = empty_project(tmp_path_factory.mktemp("toy") / "project")
    (root / "toy.yaml").write_text(json.dumps(TOY))
    return root


def copied(study: Study, root: Path) -> Study:
    """The study with a store and a cache of its own, which begin as copies."""
    shutil.copytree(study.store.root, root / "runs")
    shutil.copytree(study.cache, root / "cache")
    return replace(study, store=RunStore(root / "runs"), cache=root / "cache")


@pytest.fixture
def at_toy(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the project of `toy`."""
    monkeypatch.setenv("DAGF_ROOT", str(toy_root))


@pytest.fixture(scope="session")
def toy(toy_root: Path) -> Study:
    """A tiny Toytown study, trained once a session; whoever trains more copies its store."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(toy_root))
        patched.setattr(parallel, "cores", lambda: 1)
        study = open_study(str(toy_root / "toy.yaml"))
        study.evaluate()
        study.evaluate(heads=True)
        return study
