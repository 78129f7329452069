"""The training loop.

    dagf train dagf                                      one process
    torchrun --nproc-per-node 2 -m dagf train dagf       two processes on one machine
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m dagf train dagf

Every step draws its batch and its augmentation from (seed, step) alone, so a run that is killed and started
again gives the same weights as an unbroken one on the same CPU with the same number of threads. (A GPU repeats
closely, not to the bit.)
"""

import atexit
import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.parallel import DistributedDataParallel

from dagf.common import UserError, atomic_path, progress, write_json
from dagf.model.losses import make_loss, make_miner
from dagf.model.network import RetrievalNet
from dagf.retrieval.metrics import judge, mean_average_precision
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.machine import machine
from dagf.study.runs import Run, RunStore, read_weights
from dagf.study.sources import Source, TrainingSet, make_source

CLIP = 5.0  # largest gradient norm: one bad batch at a high rate must not decide a run


@dataclass(frozen=True)
class Team:
    """The processes that train together: one, or those that torchrun started."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()


def team() -> Team:
    """The team of this process (NCCL between GPUs, gloo between CPUs), joined once and left when the process ends.

    Not joined anew for each run: torchrun's store would still hold the addresses of the first time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    return Team(dist.get_rank(), dist.get_world_size())


class Objective(nn.Module):
    """What is minimised: the loss of the descriptors of a batch, after the miner where there is one."""

    def __init__(self, describe: nn.Module, spec: TrainSpec, classes: int, dimensions: int) -> None:
        super().__init__()
        self.describe = describe
        self.loss = make_loss(spec.loss, classes, dimensions, spec.loss_options)
        self.miner = make_miner(spec.miner, spec.miner_options) if spec.miner else None

    def forward(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Input (B, ., H, W) and landmark numbers (B,) -> the loss, a scalar."""
        descriptors = self.describe(batch)
        return self.loss(descriptors, labels, self.miner(descriptors, labels) if self.miner else None)


def draw(labels: NDArray[np.int64], spec: TrainSpec, seed: int, step: int, who: Team = Team()) -> NDArray[np.int64]:
    """The rows of one batch: `landmarks` landmarks with `views` images each; a process takes its share of them."""
    rng = np.random.default_rng([seed, step])
    landmarks = np.unique(labels)
    chosen = rng.permutation(landmarks)[: spec.landmarks]
    rows = []
    for landmark in chosen:
        views = np.flatnonzero(labels == landmark)
        rows.append(rng.choice(views, spec.views, replace=len(views) < spec.views))
    return np.concatenate(rows[who.rank :: who.size])


def shrink(batch: Tensor, spec: TrainSpec, step: int) -> Tensor:
    """The images (B, 3, H, W) at two thirds of their sides in the first share `shrunk` of all steps."""
    if step >= spec.shrunk * spec.epochs * spec.steps:
        return batch
    size = [round(side * 2 / 3) for side in batch.shape[2:]]
    return fn.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Linear warm-up over the first share `warmup` of all steps, then a cosine down to 0."""
    total = spec.epochs * spec.steps
    warm = max(1, round(spec.warmup * total))
    if step < warm:
        return spec.rate * (step + 1) / warm
    return spec.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def train(
    config: RunConfig, data: TrainingSet, store: RunStore, cache: Path, weights: Path | None = None, bar: bool = True
) -> Run:
    """The run of `config`: found in the store, resumed where it was killed, or trained from its start.

    cache: the folder of feature maps, for frozen trunks. weights: the file that `config.trunk.weights`
    names by its hash.

    Raises `UserError` when the loss is no longer finite, with the step and what to change.
    """
    who = team()
    with store.claim(config) if who.rank == 0 else nullcontext():
        who.wait()  # the first process holds the lock now; what the store says is the same for all
        done = store.find(config)
        if done:
            who.wait()
            return done
        torch.manual_seed(config.seed)
        net = initial_network(config, store, weights).to(_device()).to(memory_format=torch.channels_last)
        source = make_source(config, data, net, cache)
        loop = _Loop(config, data, net, source, store.folder(config), who)
        loop.run(bar)
        who.wait()
        return store.get(config.id)


def initial_network(config: RunConfig, store: RunStore, weights: Path | None = None) -> RetrievalNet:
    """The network before its first step: a fresh head on a trunk that starts as the configuration says."""
    net = RetrievalNet(replace(config.trunk, weights=str(weights)) if weights else config.trunk, config.variant)
    if config.start:
        load_trunk(net, store.get(config.start).folder)
    return net


def load_trunk(net: RetrievalNet, folder: Path) -> None:
    """Give `net` the trunk of the finished run in `folder`."""
    tensors = read_weights(folder / "weights.safetensors")
    net.trunk.load_state_dict(
        {key.removeprefix("trunk."): value for key, value in tensors.items() if key.startswith("trunk.")}
    )


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class _Loop:
    """One run being trained. Only the process of rank 0 validates and writes."""

    def __init__(
        self, config: RunConfig, data: TrainingSet, net: RetrievalNet, source: Source, folder: Path, who: Team
    ) -> None:
        self.config, self.data, self.net, self.source, self.folder, self.who = config, data, net, source, folder, who
        self.spec = config.train
        self.labels = np.array(data.labels)
        self.device = next(net.parameters()).device
        self.objective = Objective(source.trained(net), self.spec, data.landmarks, net.dimensions).to(self.device)
        self.optimizer = torch.optim.AdamW(_groups(self.objective, self.spec.weight_decay), self.spec.rate)
        self.curves: list[dict[str, float]] = []
        self.seconds = 0.0
        self.state = folder / "state.safetensors"

    def run(self, bar: bool) -> None:
        """Train what is left, validate after every epoch, keep the best, write the record last."""
        if self.state.exists():
            self._resume()
        distributed = DistributedDataParallel(self.objective) if self.who.size > 1 else self.objective
        epochs = range(len(self.curves), self.spec.epochs)
        for epoch in progress(epochs, f"training {self.config.id}", unit="epoch") if bar else epochs:
            started = time.monotonic()
            loss = self._epoch(distributed, epoch)
            if self.who.rank == 0:
                self._validate_and_keep(epoch, loss, started)
            self.who.wait()
        if self.who.rank == 0:
            self._finish()

    def _epoch(self, model: nn.Module, epoch: int) -> float:
        losses = []
        for step in range(epoch * self.spec.steps, (epoch + 1) * self.spec.steps):
            torch.manual_seed(_stream(self.config.seed, step, self.who.rank))
            rows = draw(self.labels, self.spec, self.config.seed, step, self.who)
            batch = shrink(self.source.batch(rows), self.spec, step)
            batch = batch.to(self.device, memory_format=torch.channels_last)
            self.net.train()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.spec, step)
            loss = model(batch, torch.from_numpy(self.labels[rows]).to(self.device))
            if not torch.isfinite(loss):
                raise self._diverged(f"the loss is {loss.item()}", step)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.objective.parameters(), CLIP)
            self.optimizer.step()
            losses.append(loss.item())
        if not all(torch.isfinite(parameter).all() for parameter in self.objective.parameters()):
            raise self._diverged("a weight is no longer finite", step)
        return float(np.mean(losses))

    def _diverged(self, what: str, step: int) -> UserError:
        return UserError(
            f"run {self.config.id} diverged: {what} at step {step + 1} of {self.spec.epochs * self.spec.steps}; "
            f"lower train.rate (now {self.spec.rate:g}) or the loss's scale. What the last good epoch left is kept"
        )

    def _validate_and_keep(self, epoch: int, loss: float, started: float) -> None:
        benchmark = self.data.validation
        setting = benchmark.settings[len(benchmark.settings) // 2]  # Medium, or the only one
        judged = judge(benchmark, self.source.validate(self.net), [setting])
        score = mean_average_precision(judged, setting.name)
        rate = learning_rate(self.spec, (epoch + 1) * self.spec.steps - 1)
        best = max((row["validation_mAP"] for row in self.curves), default=-math.inf)
        self.curves.append({"epoch": epoch + 1, "loss": loss, "validation_mAP": score, "rate": rate})
        if score > best:
            _save(self.folder / "weights.safetensors", self.net.state_dict(), {})
        self.seconds += time.monotonic() - started
        self._save_state()

    def _save_state(self) -> None:
        tensors = {f"objective.{key}": value for key, value in self.objective.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        _save(self.state, tensors, {"curves": self.curves, "seconds": self.seconds})

    def _resume(self) -> None:
        tensors = read_weights(self.state)
        with safe_open(self.state, "pt") as opened:
            kept = json.loads(opened.metadata()["json"])
        parts: dict[str, dict[str, Tensor]] = {"objective": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.objective.load_state_dict(parts["objective"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.curves, self.seconds = kept["curves"], kept["seconds"]

    def _finish(self) -> None:
        with atomic_path(self.folder / "curves.csv") as path:
            pd.DataFrame(self.curves).to_csv(path, index=False)
        best = max(self.curves, key=lambda row: row["validation_mAP"])
        record: dict[str, Any] = {
            "variant": self.config.variant.title,
            "seed": self.config.seed,
            "best_epoch": int(best["epoch"]),
            "validation_mAP": best["validation_mAP"],
            "validation_setting": self.data.validation.settings[len(self.data.validation.settings) // 2].name,
            "training_images": len(self.data.files),
            "landmarks": self.data.landmarks,
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "seconds": round(self.seconds, 1),
            "processes": self.who.size,
            "machine": machine(torch.get_num_threads()),
        }
        write_json(self.folder / "record.json", record)
        self.state.unlink(missing_ok=True)


def _stream(*numbers: int) -> int:
    """A seed from several numbers, so that neighbouring steps and ranks are unrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and filters only: it would pull norms, biases, p and theta off their meaning."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _save(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Tensors and JSON in one safetensors file, so that one rename makes both true at once."""
    with atomic_path(path) as temporary:
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(plain, temporary, metadata={"json": json.dumps(values)})
