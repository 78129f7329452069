r"""The training loop.

    dagf train dagf                                      one process
    torchrun --nproc-per-node 2 -m dagf train dagf       two processes on one machine
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        -m dagf train dagf

Every batch and its augmentation are drawn from (seed, number of the batch) and the weights at the
start of its epoch, so a run that is killed and started again gives the same weights as an unbroken
one on the same CPU with the same number of threads. (A GPU repeats closely, not to the bit.)
"""

import io
import math
import pickle
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.parallel import DistributedDataParallel

from dagf.console import progress
from dagf.datasets.training_sets import TrainingSet
from dagf.devices import on_device
from dagf.distributed import Group, process_group
from dagf.errors import UserError
from dagf.files import atomic_path, file_sha256, write_json
from dagf.model.losses import make_loss, make_miner
from dagf.model.network import RetrievalNet
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.provenance import machine
from dagf.study.runs import Run, RunStore
from dagf.study.sampling import LandmarkSampler, Sampler, TupleSampler
from dagf.study.sources import ImageSource, MapSource, Source

CLIP = 5.0  # largest gradient norm: one bad batch at a high rate must not decide a run


def train(
    config: RunConfig,
    data: TrainingSet,
    store: RunStore,
    cache: Path,
    weights: Path | None = None,
    bar: bool = True,
) -> Run:
    """Return the run of `config`: found in the store, resumed where it was killed, or trained.

    cache: the folder of feature maps, for frozen backbones. weights: the file that
    `config.backbone.weights` names by its hash.

    Raises `UserError` when the loss is no longer finite, with the step and what to change.
    """
    group = process_group()
    with store.claim(config) if group.rank == 0 else nullcontext():
        group.wait()  # the first process has the lock: what the store says is the same for all
        run = store.find(config)
        if run is None:
            torch.manual_seed(config.seed)
            net = on_device(initial_network(config, store, weights))
            source = make_source(config, data, net, cache)
            _Loop(config, data, net, source, store.folder(config), group).run(bar)
            run = Run(store.folder(config))
        group.wait()
        return run


def initial_network(
    config: RunConfig, store: RunStore, weights: Path | None = None
) -> RetrievalNet:
    """Return the network before its first step: a fresh head on the backbone to start from."""
    spec = replace(config.backbone, weights=str(weights)) if weights else config.backbone
    net = RetrievalNet(spec, config.variant)
    if config.start:
        store.get(config.start.partition("-")[0]).load_backbone(net)
    return net


def make_source(config: RunConfig, data: TrainingSet, net: RetrievalNet, cache: Path) -> Source:
    """Return the source that a configuration asks for."""
    if config.frozen:
        return MapSource(data, config.image, net, config.start_id, cache)
    return ImageSource(data, config.image, config.train.augmentation)


class Objective(nn.Module):
    """What is minimised: the loss of a batch's descriptors, after the miner where there is one.

    The backbone works in the precision of `spec`; descriptors, which the head makes in float32, and
    the loss do not.
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
        """Input (B, ., H, W), landmarks (B,), pairs to learn from where given -> the loss."""
        with torch.autocast(batch.device.type, self.precision) if self.precision else nullcontext():
            descriptors = self.extract(batch)
        mined = self.miner(descriptors, labels) if self.miner else pairs
        return self.loss(descriptors, labels, mined)


def shrink(batch: Tensor, spec: TrainSpec, step: int) -> Tensor:
    """Return images (B, 3, H, W), at two thirds of their sides in the first share of all steps."""
    if step >= spec.shrunk * spec.epochs * spec.steps:
        return batch
    size = [round(side * 2 / 3) for side in batch.shape[2:]]
    return fn.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Return a linear warm-up, then a cosine down to 0 or exp(-decay * epoch), times the rate."""
    total = spec.epochs * spec.steps
    warm = max(1, round(spec.warmup * total))
    if step < warm:
        return spec.rate * (step + 1) / warm
    if spec.decay:
        return spec.rate * math.exp(-spec.decay * (step // spec.steps))
    return spec.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


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
        self.config, self.data, self.net, self.source = config, data, net, source
        self.folder, self.group, self.spec = folder, group, config.train
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
        groups = _groups(self.objective, self.spec.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, self.spec.rate)
        half = self.spec.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.curves: list[dict[str, float]] = []
        self.seconds = 0.0
        self.state = folder / "state.pt"

    def run(self, bar: bool) -> None:
        """Train what is left, validate after every epoch, keep the best, write the record last."""
        if self.state.exists():
            self._resume()
        model: nn.Module = self.objective
        if self.group.size > 1:
            model = DistributedDataParallel(self.objective)
        epochs = range(len(self.curves), self.spec.epochs)
        shown = progress(epochs, f"training {self.config.id}", unit="epoch") if bar else epochs
        for epoch in shown:
            started = time.monotonic()
            loss = self._epoch(model, epoch)
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
        """Add the gradients of one of a step's batches; return its loss."""
        number = step * self.spec.accumulate + part
        torch.manual_seed(_stream(self.config.seed, number, self.group.rank))
        rows, weight, pairs = self.sampler.draw(number)
        batch = shrink(self.source.batch(rows), self.spec, step)
        batch = batch.to(self.device, memory_format=torch.channels_last)
        self.net.train()
        labels = torch.from_numpy(self.labels[rows]).to(self.device)
        places = pairs and tuple(torch.from_numpy(one).to(self.device) for one in pairs)
        last = part + 1 == self.spec.accumulate  # the processes average their gradients once a step
        alone = isinstance(model, DistributedDataParallel) and not last
        with model.no_sync() if alone else nullcontext():  # type: ignore[operator]
            loss = weight * model(batch, labels, places)
            if not torch.isfinite(loss):
                raise self._diverged(f"the loss is {loss.item()}", step)
            self.scaler.scale(loss / self.spec.accumulate).backward()
        return loss.item()

    def _diverged(self, what: str, step: int) -> UserError:
        steps = self.spec.epochs * self.spec.steps
        return UserError(
            f"run {self.config.id} diverged: {what} at step {step + 1} of {steps}; lower train.rate"
            f" (now {self.spec.rate:g}) or the loss's scale. What the last good epoch left is kept"
        )

    def _validate_and_keep(self, epoch: int, loss: float, started: float) -> None:
        benchmark, setting = self.data.validation, self.data.validation.middle
        per_query = evaluate(benchmark, self.source.validate(self.net), [setting])
        score = float(mean_average_precision(per_query, setting.name))
        rate = learning_rate(self.spec, (epoch + 1) * self.spec.steps - 1)
        best = max((row["validation_mAP"] for row in self.curves), default=-math.inf)
        self.curves.append(
            {"epoch": epoch + 1, "loss": loss, "validation_mAP": score, "rate": rate}
        )
        if score > best:
            weights = self.net.state_dict()
            with atomic_path(self.folder / "weights.safetensors") as temporary:
                save_file({key: one.cpu().contiguous() for key, one in weights.items()}, temporary)
        self.seconds += time.monotonic() - started
        self._save_state()

    def _save_state(self) -> None:
        state = {"run": self.config.id, "curves": self.curves, "seconds": self.seconds}
        for name in ("objective", "optimizer", "scaler"):
            state[name] = getattr(self, name).state_dict()
        buffer = io.BytesIO()  # torch's own writer says nothing of a full disk
        torch.save(state, buffer)
        with atomic_path(self.state) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def _resume(self) -> None:
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise UserError(f"{self.state} is broken: delete it, training starts again") from error
        if state["run"] != self.config.id:
            raise UserError(
                f"{self.state} is of another run, {state['run']}: delete it, training starts again"
            )
        for name in ("objective", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        self.curves, self.seconds = state["curves"], state["seconds"]

    def _finish(self) -> None:
        with atomic_path(self.folder / "curves.csv") as path:
            pd.DataFrame(self.curves).to_csv(path, index=False)
        best = max(self.curves, key=lambda row: row["validation_mAP"])
        record: dict[str, Any] = {
            "run": self.config.id,
            "variant": self.config.variant.title,
            "seed": self.config.seed,
            "best_epoch": best["epoch"],
            "validation_mAP": best["validation_mAP"],
            "validation_setting": self.data.validation.middle.name,
            "training_images": len(self.data.files),
            "landmarks": self.data.landmarks,
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "seconds": round(self.seconds, 1),
            "processes": self.group.size,
            "machine": machine(torch.get_num_threads()),
            "weights_sha256": file_sha256(self.folder / "weights.safetensors"),
        }
        write_json(self.folder / "record.json", record)
        self.state.unlink(missing_ok=True)


def _stream(*numbers: int) -> int:
    """A seed from several numbers, so that neighbouring steps and ranks are unrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and filters only: it would pull norms, biases, p and theta off."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
