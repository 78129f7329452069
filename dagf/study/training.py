"""The training loop.

    dagf train dagf                                      one process
    torchrun --nproc-per-node 2 -m dagf train dagf       two processes on one machine
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m dagf train dagf

Every batch and its augmentation are drawn from (seed, number of the batch) and the weights at the start of its epoch,
so a run that is killed and started again gives the same weights as an unbroken one on the same CPU with the same number
of threads. (A GPU repeats closely, not to the bit.)
"""

import json
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.parallel import DistributedDataParallel

from dagf.console import progress
from dagf.datasets.training_sets import TrainingSet
from dagf.distributed import Group, process_group
from dagf.errors import UserError
from dagf.files import atomic_path, write_json
from dagf.model.losses import make_loss, make_miner
from dagf.model.network import RetrievalNet
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.mining import TupleSampler
from dagf.study.provenance import machine
from dagf.study.runs import Run, RunStore, read_weights
from dagf.study.sampling import LandmarkSampler, Sampler
from dagf.study.sources import Source, make_source

CLIP = 5.0  # largest gradient norm: one bad batch at a high rate must not decide a run


class Objective(nn.Module):
    """What is minimised: the loss of the descriptors of a batch, after the miner where there is one.

    The backbone works in the precision of `spec`; descriptors, which the head makes in float32, and loss do not.
    """

    def __init__(self, extract: nn.Module, spec: TrainSpec, classes: int, dimensions: int) -> None:
        super().__init__()
        self.extract = extract
        self.loss = make_loss(spec.loss, classes, dimensions, spec.loss_options)
        self.miner = make_miner(spec.miner, spec.miner_options) if spec.miner else None
        self.precision = None if spec.precision == "float32" else getattr(torch, spec.precision)

    def forward(
        self, batch: Tensor, labels: Tensor, pairs: tuple[Tensor, ...] | None = None
    ) -> Tensor:
        """Input (B, ., H, W), landmark numbers (B,), and the pairs to learn from where they are given -> the loss."""
        with torch.autocast(batch.device.type, self.precision) if self.precision else nullcontext():
            descriptors = self.extract(batch)
        mined = self.miner(descriptors, labels) if self.miner else pairs
        return self.loss(descriptors, labels, mined)


def shrink(batch: Tensor, spec: TrainSpec, step: int) -> Tensor:
    """The images (B, 3, H, W) at two thirds of their sides in the first share `shrunk` of all steps."""
    if step >= spec.shrunk * spec.epochs * spec.steps:
        return batch
    size = [round(side * 2 / 3) for side in batch.shape[2:]]
    return fn.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Linear warm-up over the first share `warmup` of all steps, then a cosine down to 0, or exp(-decay * epoch)."""
    total = spec.epochs * spec.steps
    warm = max(1, round(spec.warmup * total))
    if step < warm:
        return spec.rate * (step + 1) / warm
    if spec.decay:
        return spec.rate * math.exp(-spec.decay * (step // spec.steps))
    return spec.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def train(
    config: RunConfig,
    data: TrainingSet,
    store: RunStore,
    cache: Path,
    weights: Path | None = None,
    bar: bool = True,
) -> Run:
    """The run of `config`: found in the store, resumed where it was killed, or trained from its start.

    cache: the folder of feature maps, for frozen backbones. weights: the file that `config.backbone.weights`
    names by its hash.

    Raises `UserError` when the loss is no longer finite, with the step and what to change.
    """
    group = process_group()
    with store.claim(config) if group.rank == 0 else nullcontext():
        group.wait()  # the first process holds the lock now; what the store says is the same for all
        done = store.find(config)
        if done:
            group.wait()
            return done
        torch.manual_seed(config.seed)
        net = (
            initial_network(config, store, weights)
            .to(_device())
            .to(memory_format=torch.channels_last)
        )
        source = make_source(config, data, net, cache)
        loop = _Loop(config, data, net, source, store.folder(config), group)
        loop.run(bar)
        group.wait()
        return store.get(config.id)


def initial_network(
    config: RunConfig, store: RunStore, weights: Path | None = None
) -> RetrievalNet:
    """The network before its first step: a fresh head on a backbone that starts as the configuration says."""
    net = RetrievalNet(
        replace(config.backbone, weights=str(weights)) if weights else config.backbone,
        config.variant,
    )
    if config.start:
        load_backbone(net, store.get(config.start).folder)
    return net


def load_backbone(net: RetrievalNet, folder: Path) -> None:
    """Give `net` the backbone of the finished run in `folder`."""
    tensors = read_weights(folder / "weights.safetensors")
    net.backbone.load_state_dict(
        {
            key.removeprefix("backbone."): value
            for key, value in tensors.items()
            if key.startswith("backbone.")
        }
    )


def _device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


class _Loop:
    """One run being trained. Only the process of rank 0 validates and writes."""

    def __init__(
        self,
        config: RunConfig,
        data: TrainingSet,
        net: RetrievalNet,
        source: Source,
        folder: Path,
        group: Group,
    ) -> None:
        self.config, self.data, self.net, self.source, self.folder, self.group = (
            config,
            data,
            net,
            source,
            folder,
            group,
        )
        self.spec = config.train
        self.labels = np.array(data.labels)
        self.sampler: Sampler = (
            TupleSampler(data, self.spec, config.seed, source, group)
            if self.spec.mining
            else LandmarkSampler(self.labels, self.spec, config.seed, group)
        )
        self.device = next(net.parameters()).device
        self.objective = Objective(
            source.trained(net), self.spec, data.landmarks, net.dimensions
        ).to(self.device)
        self.optimizer = torch.optim.AdamW(
            _groups(self.objective, self.spec.weight_decay), self.spec.rate
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.spec.precision == "float16"
        )
        self.curves: list[dict[str, float]] = []
        self.seconds = 0.0
        self.state = folder / "state.safetensors"

    def run(self, bar: bool) -> None:
        """Train what is left, validate after every epoch, keep the best, write the record last."""
        if self.state.exists():
            self._resume()
        distributed = (
            DistributedDataParallel(self.objective) if self.group.size > 1 else self.objective
        )
        epochs = range(len(self.curves), self.spec.epochs)
        for epoch in (
            progress(epochs, f"training {self.config.id}", unit="epoch") if bar else epochs
        ):
            started = time.monotonic()
            loss = self._epoch(distributed, epoch)
            if self.group.rank == 0:
                self._validate_and_keep(epoch, loss, started)
            self.group.wait()
        if self.group.rank == 0:
            self._finish()

    def _epoch(self, model: nn.Module, epoch: int) -> float:
        self.sampler.start(epoch, self.net)
        losses = []
        for step in range(epoch * self.spec.steps, (epoch + 1) * self.spec.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.spec, step)
            self.optimizer.zero_grad()
            losses += [self._backward(model, step, part) for part in range(self.spec.accumulate)]
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), CLIP)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if not all(torch.isfinite(parameter).all() for parameter in self.objective.parameters()):
            raise self._diverged("a weight is no longer finite", step)
        mean = torch.tensor(np.mean(losses), dtype=torch.float64, device=self.device)
        return self.group.total(mean).item() / self.group.size

    def _backward(self, model: nn.Module, step: int, part: int) -> float:
        """Add the gradients of one of a step's batches; its loss."""
        number = step * self.spec.accumulate + part
        torch.manual_seed(_stream(self.config.seed, number, self.group.rank))
        rows, weight, pairs = self.sampler.draw(number)
        batch = shrink(self.source.batch(rows), self.spec, step)
        batch = batch.to(self.device, memory_format=torch.channels_last)
        self.net.train()
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        places = pairs and tuple(torch.from_numpy(one).to(self.device) for one in pairs)
        last = part + 1 == self.spec.accumulate  # the processes average their gradients once a step
        with (
            model.no_sync()
            if isinstance(model, DistributedDataParallel) and not last
            else nullcontext()
        ):
            loss = weight * model(batch, labels, places)
            if not torch.isfinite(loss):
                raise self._diverged(f"the loss is {loss.item()}", step)
            self.scaler.scale(loss / self.spec.accumulate).backward()
        return loss.item()

    def _diverged(self, what: str, step: int) -> UserError:
        return UserError(
            f"run {self.config.id} diverged: {what} at step {step + 1} of {self.spec.epochs * self.spec.steps}; "
            f"lower train.rate (now {self.spec.rate:g}) or the loss's scale. What the last good epoch left is kept"
        )

    def _validate_and_keep(self, epoch: int, loss: float, started: float) -> None:
        benchmark, setting = self.data.validation, self.data.validation.middle
        per_query = evaluate(benchmark, self.source.validate(self.net), [setting])
        score = mean_average_precision(per_query, setting.name)
        rate = learning_rate(self.spec, (epoch + 1) * self.spec.steps - 1)
        best = max((row["validation_mAP"] for row in self.curves), default=-math.inf)
        self.curves.append(
            {"epoch": epoch + 1, "loss": loss, "validation_mAP": score, "rate": rate}
        )
        if score > best:
            _save(self.folder / "weights.safetensors", self.net.state_dict(), {})
        self.seconds += time.monotonic() - started
        self._save_state()

    def _save_state(self) -> None:
        tensors = {f"objective.{key}": value for key, value in self.objective.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        kept = {"curves": self.curves, "seconds": self.seconds, "scaler": self.scaler.state_dict()}
        _save(self.state, tensors, kept)

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
        self.scaler.load_state_dict(kept["scaler"])
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
            "validation_setting": self.data.validation.middle.name,
            "training_images": len(self.data.files),
            "landmarks": self.data.landmarks,
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "seconds": round(self.seconds, 1),
            "processes": self.group.size,
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
