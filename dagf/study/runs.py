"""The run store: one folder a run, named by the hash of its configuration. Trained once.

A finished run holds

    config.json            every value that decided it
    weights.safetensors    the best epoch by validation mAP
    curves.csv             epoch, loss, validation mAP, learning rate
    record.json            its scores, durations, versions, CPU and threads

and an unfinished one `state.pt`, from which the next start goes on as if nothing had happened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from safetensors.torch import load_file

from dagf.errors import UserError
from dagf.files import content_hash, file_sha256, read_json, write_json
from dagf.model.network import RetrievalNet, Variant
from dagf.model.pooling import POOLINGS
from dagf.study.config import RunConfig, read_fields

AGAIN = "delete its folder and train again"


@dataclass(frozen=True)
class Run:
    """A finished run on disk. Broken files, and weights of another run, raise `UserError`.

    shown: the variant, of the same parameters, as which its network is evaluated: a ceiling.
    """

    folder: Path
    shown: Variant | None = None

    @property
    def id(self) -> str:
        """The hash of its configuration, which is its folder's name."""
        return self.folder.name

    @property
    def config(self) -> RunConfig:
        """Every value that decided it."""
        file = self.folder / "config.json"
        return read_fields(RunConfig, read_json(file, AGAIN), str(file))

    @property
    def variant(self) -> Variant:
        """The descriptor that its network gives."""
        return self.shown or self.config.variant

    @property
    def record(self) -> dict[str, Any]:
        """Scores, durations, versions and machine."""
        record: dict[str, Any] = read_json(self.folder / "record.json", AGAIN)
        return record

    @property
    def curves(self) -> pd.DataFrame:
        """One row an epoch: epoch, loss, validation mAP (per cent), rate."""
        return pd.read_csv(self.folder / "curves.csv")

    @property
    def frozen(self) -> bool:
        """Whether its backbone stayed as it was, so that cached maps serve it."""
        return self.config.frozen

    @property
    def weights_id(self) -> str:
        """What names its weights, and all that is cached of them: trained again it has others."""
        shown = f"-{content_hash(self.shown)}" if self.shown else ""
        return f"{self.id}-{self.record['weights_sha256'][:12]}{shown}"

    @property
    def backbone_id(self) -> str:
        """What names the weights of its backbone, which many runs on a frozen one share."""
        return self.config.maps_id if self.frozen else self.weights_id

    def shown_as(self, variant: Variant) -> "Run":
        """Return the run as one of this variant, of which it has the parameters."""
        return self if variant == self.variant else Run(self.folder, variant)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors of its network; those that it was recorded with."""
        file = self.folder / "weights.safetensors"
        if not file.is_file() or file_sha256(file) != self.record["weights_sha256"]:
            raise UserError(f"{file} is not what was trained: put it back, or {AGAIN}")
        tensors: dict[str, torch.Tensor] = load_file(file)
        return tensors

    def network(self) -> RetrievalNet:
        """Return the trained network, on the CPU and in evaluation mode."""
        config = self.config
        # Its own weights replace the backbone's, so the file that this started from is not needed.
        net = RetrievalNet(replace(config.backbone, weights="none"), self.variant)
        net.keep_batch_norm = config.backbone.pretrained
        net.load_state_dict(self.weights())
        return net.eval()


@dataclass(frozen=True)
class RunStore:
    """The folder of all runs. kept: another one, of runs that come with the project."""

    root: Path
    kept: Path | None = None

    def folder(self, config: RunConfig) -> Path:
        """Return where the run of `config` lies or will lie."""
        return self.root / config.id

    def find(self, config: RunConfig) -> Run | None:
        """Return the finished run of `config`, or None."""
        folder = self.folder(config)
        return Run(folder) if (folder / "record.json").exists() else None

    def get(self, run_id: str) -> Run:
        """Return the finished run of that id, of which the first digits are enough.

        Raises `UserError` where there is none, or more than one.
        """
        found = [run for run in self.all() if run_id and run.id.startswith(run_id)]
        if len(found) != 1:
            known = ", ".join(run.id for run in found) or "none"
            raise UserError(
                f"run '{run_id}': expected one finished run in {self.root}, found {known}"
            )
        return found[0]

    def all(self) -> list[Run]:
        """Return every finished run, by id."""
        folders = [folder for folder in (self.kept, self.root) if folder]
        found = {one.parent.name: one for home in folders for one in home.glob("*/record.json")}
        return [Run(found[name].parent) for name in sorted(found)]  # what was kept may be in both

    @contextmanager
    def claim(self, config: RunConfig) -> Iterator[None]:
        """Keep the run's folder for this process alone; others wait until it is done."""
        folder = self.folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{config.id}.lock"):
            if self.find(config):
                (folder / "state.pt").unlink(missing_ok=True)  # a kill may have left it
            else:
                for left in folder.glob(".*"):  # half-written files of a killed process
                    left.unlink()
                write_json(folder / "config.json", asdict(config))
            yield


@dataclass(frozen=True)
class Untrained:
    """A network before its first step: what a training starts from, and a descriptor by itself.

    config: of which variant, backbone, seed and start count. weights: the file with the backbone's
    weights, where `config` names them by their hash.
    """

    config: RunConfig
    store: RunStore
    weights: Path | None = None
    id = ""  # of the run: there is none
    frozen = True

    @property
    def variant(self) -> Variant:
        """The descriptor that its network gives."""
        return self.config.variant

    @property
    def weights_id(self) -> str:
        """What names its weights: its start, all values of its variant, and what is drawn by."""
        drawn = self.variant.attentive or POOLINGS[self.variant.pooling].multiple > 1
        seed = [self.config.seed] if drawn else []  # others are one network for all seeds
        return content_hash([self.config.start_id, self.variant, *seed])

    @property
    def backbone_id(self) -> str:
        """What names the weights of its backbone."""
        return self.config.maps_id

    def network(self) -> RetrievalNet:
        """Return the network, on the CPU and in evaluation mode; what is random is the seed's."""
        of, run_id = self.config, self.config.start.partition("-")[0]
        start = self.store.get(run_id).network() if run_id else None
        torch.manual_seed(of.seed)
        file = str(self.weights) if self.weights else of.backbone.weights
        net = RetrievalNet(replace(of.backbone, weights=file), of.variant)
        if start:
            net.backbone.load_state_dict(start.backbone.state_dict())
        return net.eval()


Head = Run | Untrained  # what can be evaluated
