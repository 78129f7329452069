"""The training loop, of one process or of several (docs/distributed.md).

Every batch and its augmentation are drawn from (seed, number of the batch) and the weights at the
start of its epoch, so a run that is killed and started again gives the same weights as an unbroken
one on the same CPU with the same number of threads. (A GPU repeats closely, not to the bit.)
"""

import io
import math
import pickle
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.parallel import DistributedDataParallel

from dagf.datasets.benchmark import TrainingSet
from dagf.devices import has_bfloat16, on_device
from dagf.distributed import Group, process_group
from dagf.errors import UserError
from dagf.files import atomic_path, file_sha256, write_json
from dagf.model.losses import make_loss
from dagf.model.network import AttentiveHead, RetrievalNet, StagedHead
from dagf.retrieval.extract import resized
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.provenance import machine
from dagf.study.runs import Run, RunStore, Untrained
from dagf.study.sampling import (
    ImageSource,
    MapSource,
    Sample,
    Source,
    landmark_batches,
    tuple_batches,
)

FIRST = 3  # steps whose losses a run's record keeps: by them a repetition is known at once
BEFORE_HEAD = "backbone.", "stage."  # parameters of a network
CLIP = 5.0  # largest gradient norm: one bad batch at a high rate must not decide a run


def train(
    config: RunConfig, data: TrainingSet, store: RunStore, cache: Path, weights: Path | None = None
) -> Run:
    """Return the run of `config`: found in the store, resumed where it was killed, or trained.

    cache: the folder of feature maps, for frozen backbones. weights: the file that
    `config.backbone.weights` names by its hash.

    Raises `UserError` when the gradient is no longer finite, with the step and what to change.
    """
    group = process_group()
    with store.claim(config) if group.rank == 0 else nullcontext():
        group.wait()  # the first process has the lock: what the store says is the same for all
        run = store.find(config)
        if run is None:
            net = on_device(Untrained(config, store, weights).network())
            source: Source = (
                MapSource(data, config.image, net, config.maps_id, cache)
                if config.frozen
                else ImageSource(data, config.image, config.train.augmentation)
            )
            _Loop(config, data, net, source, store.folder(config), group).run()
            run = Run(store.folder(config))
        group.wait()
        return run


class Objective(nn.Module):
    """What is minimised: the loss of a batch's descriptors.

    The backbone works in the precision of `spec` (`precision_here`); descriptors, which the head
    makes in float32, and the loss do not. taught: the mean cross-entropy of attention and exact
    mask is added.
    """

    def __init__(
        self,
        extract: RetrievalNet | AttentiveHead | StagedHead,
        spec: TrainSpec,
        classes: int,
        dimensions: int,
        taught: bool,
    ) -> None:
        super().__init__()
        self.extract, self.mixed, self.taught = extract, precision_here(spec) == "bfloat16", taught
        self.loss = make_loss(spec.loss, classes, dimensions, **spec.loss_options)

    def forward(self, batch: Tensor, labels: Tensor, pairs: tuple[Tensor, ...] | None) -> Tensor:
        """Input (B, ., H, W), landmarks (B,), pairs to learn from or None -> the loss."""
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.mixed):
            seen = self.extract.inspect(batch)
        loss: Tensor = self.loss(seen.descriptor, labels, pairs)
        if self.taught and seen.attention is not None:
            cells = seen.attention.shape[2], seen.attention.shape[3]
            exact = fn.adaptive_avg_pool2d(batch[:, -1:].float(), cells)
            loss = loss + fn.binary_cross_entropy(seen.attention, exact)
        return loss


def precision_here(spec: TrainSpec) -> str:
    """Return what a backbone works in: float32 where the machine has no bfloat16."""
    return spec.precision if has_bfloat16() else "float32"


def shrink(batch: Tensor, spec: TrainSpec, step: int) -> Tensor:
    """Return images (B, 3, H, W), at two thirds of their sides in the first share of all steps."""
    return resized(batch, 2 / 3 if step < spec.shrunk * spec.epochs * spec.steps else 1)


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Return a linear warm-up, then a cosine down to 0 or exp(-decay * epoch), times the rate."""
    total = spec.epochs * spec.steps
    warm = max(1, round(spec.warmup * total))
    if step < warm:
        return spec.rate * (step + 1) / warm
    if spec.decay:
        return spec.rate * math.exp(-spec.decay * (step // spec.steps))
    return spec.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


@dataclass
class _Loop:
    """One run being trained. Only the process of rank 0 validates and writes."""

    config: RunConfig
    data: TrainingSet
    net: RetrievalNet
    source: Source
    folder: Path
    group: Group

    def __post_init__(self) -> None:
        self.spec, self.labels = self.config.train, torch.tensor(self.data.labels)
        self.device = next(self.net.parameters()).device
        learns = self.net.on_maps if self.config.frozen else self.net
        about = self.data.landmarks, self.net.dimensions, self.config.variant.taught
        self.objective = Objective(learns, self.spec, *about).to(self.device)
        named = self.net.named_parameters()
        in_head = {id(one) for name, one in named if not name.startswith(BEFORE_HEAD)}
        groups: list[dict[str, Any]] = [
            {
                "params": [one],
                # Of matrices and filters only: it would pull norms, biases, p and theta off.
                "weight_decay": self.spec.weight_decay if one.ndim >= 2 else 0.0,
                "times": self.spec.head_rate if id(one) in in_head else 1.0,
            }
            for one in self.objective.parameters()
            if one.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(groups)
        self.curves: list[dict[str, float]] = []
        self.first: list[float] = []
        self.seconds, self.state = 0.0, self.folder / "state.pt"

    def run(self) -> None:
        """Train what is left, validate after every epoch, keep the best, write the record last."""
        if self.state.exists():
            self._resume()
        several = self.group.size > 1
        model = DistributedDataParallel(self.objective) if several else self.objective
        for epoch in range(len(self.curves), self.spec.epochs):
            started = time.monotonic()
            loss = self._epoch(model, epoch)
            if self.group.rank == 0:
                self._keep(epoch, loss, started)
            self.group.wait()
        if self.group.rank == 0:
            self._finish()

    def _epoch(self, model: nn.Module, epoch: int) -> float:
        """Train for one epoch; return its mean loss."""
        spec, data, about = self.spec, self.data, (self.spec, self.config.seed, epoch)
        samples = (
            tuple_batches(data, *about, self.source, self.objective.extract, self.group)
            if spec.mining
            else landmark_batches(np.array(data.labels), *about, self.group)
        )
        losses = []
        for step in range(epoch * spec.steps, (epoch + 1) * spec.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = group["times"] * learning_rate(spec, step)
            self.optimizer.zero_grad()
            for number in range(step * spec.accumulate, (step + 1) * spec.accumulate):
                loss = self._loss(model, step, number, next(samples))
                torch.autograd.backward(loss / spec.accumulate)
                losses.append(loss.item())
                self.first = [*self.first, loss.item()][:FIRST]
            norm = nn.utils.clip_grad_norm_(self.objective.parameters(), CLIP)
            if not torch.isfinite(norm):
                raise UserError(
                    f"run {self.config.id} diverged at step {step + 1} of "
                    f"{spec.epochs * spec.steps}: lower train.rate (now {spec.rate:g}) or the "
                    "loss's scale. The last good epoch is kept"
                )
            self.optimizer.step()
        mean = torch.tensor(np.mean(losses), dtype=torch.float64, device=self.device)
        return self.group.total(mean).item() / self.group.size

    def _loss(self, model: nn.Module, step: int, number: int, sample: Sample) -> Tensor:
        """Return the loss of batch `number`, one of a step's."""
        stream = np.random.SeedSequence([self.config.seed, number, self.group.rank])
        torch.manual_seed(int(stream.generate_state(1)[0]))  # of neighbours unrelated
        rows, weight, pairs = sample
        batch = shrink(self.source.batch(rows), self.spec, step)
        batch = batch.to(self.device, memory_format=torch.channels_last)
        places = pairs and tuple(torch.from_numpy(one).to(self.device) for one in pairs)
        self.net.train()
        return weight * model(batch, self.labels[rows].to(self.device), places)

    def _keep(self, epoch: int, loss: float, started: float) -> None:
        """Validate; write the weights, where they are the best so far, and the state."""
        benchmark, setting = self.data.validation, self.data.validation.middle
        per_query = evaluate(benchmark, self.source.validate(self.objective.extract), [setting])
        score = float(mean_average_precision(per_query, setting.name))
        if score > max((row["validation_mAP"] for row in self.curves), default=-math.inf):
            weights = self.net.state_dict().items()
            with atomic_path(self.folder / "weights.safetensors") as temporary:
                temporary.write_bytes(save({key: one.cpu().contiguous() for key, one in weights}))
        rate = learning_rate(self.spec, (epoch + 1) * self.spec.steps - 1)
        row = {"epoch": epoch + 1, "loss": loss, "validation_mAP": score, "rate": rate}
        self.curves.append(row)
        self.seconds += time.monotonic() - started
        learned = self.objective.state_dict(), self.optimizer.state_dict()
        buffer = io.BytesIO()  # torch's own writer says nothing of a full disk
        torch.save((*learned, self.curves, self.seconds, self.first), buffer)
        with atomic_path(self.state) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def _resume(self) -> None:
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
            objective, optimizer, self.curves, self.seconds, self.first = state
            self.objective.load_state_dict(objective)
            self.optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise UserError(f"{self.state} is broken: delete it, training starts again") from error

    def _finish(self) -> None:
        with atomic_path(self.folder / "curves.csv") as path:
            pd.DataFrame(self.curves).to_csv(path, index=False)
        best = max(self.curves, key=lambda row: row["validation_mAP"])
        record = {
            "run": self.config.id,
            "variant": self.config.variant.title,
            "seed": self.config.seed,
            "best_epoch": best["epoch"],
            "validation_mAP": best["validation_mAP"],
            "validation_setting": self.data.validation.middle.name,
            "first_losses": self.first,
            "training_images": len(self.data.files),
            "landmarks": self.data.landmarks,
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "seconds": round(self.seconds, 1),
            "processes": self.group.size,
            "precision": precision_here(self.spec),
            "machine": machine(torch.get_num_threads()),
            "weights_sha256": file_sha256(self.folder / "weights.safetensors"),
        }
        write_json(self.folder / "record.json", record)
        self.state.unlink(missing_ok=True)
