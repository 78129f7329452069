"""The run store: one folder a run, named by the hash of its configuration. Asked twice, trained once.

A finished run holds

    config.json            every value that decided it
    weights.safetensors    the best epoch by validation mAP
    curves.csv             epoch, loss, validation mAP, learning rate
    record.json            its scores, durations, versions, CPU and threads

and an unfinished one `state.safetensors`, from which the next start goes on as if nothing had happened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file

from dagf.common import UserError, read_json, write_json
from dagf.model.network import RetrievalNet
from dagf.model.trunks import TrunkSpec
from dagf.study.config import RunConfig, from_mapping, to_json


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    folder: Path

    @property
    def id(self) -> str:
        """The hash of its configuration, which is its folder's name."""
        return self.folder.name

    @property
    def config(self) -> RunConfig:
        """Its configuration."""
        return from_mapping(RunConfig, read_json(self.folder / "config.json"), f"{self.folder}/config.json")

    @property
    def record(self) -> dict[str, Any]:
        """Scores, durations, versions and machine."""
        record: dict[str, Any] = read_json(self.folder / "record.json")
        return record

    @property
    def curves(self) -> pd.DataFrame:
        """One row an epoch: epoch, loss, validation mAP (per cent), rate."""
        return pd.read_csv(self.folder / "curves.csv")

    def network(self) -> RetrievalNet:
        """The trained network, on the CPU and in evaluation mode.

        Raises `UserError` where the weights are missing or broken.
        """
        config = self.config
        # The run's own weights replace the trunk's, so the file that the trunk started from is not needed.
        net = RetrievalNet(TrunkSpec(config.trunk.name, config.trunk.cut), config.variant)
        net.keep_batch_norm = config.trunk.pretrained
        weights = self.folder / "weights.safetensors"
        try:
            net.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            raise UserError(f"{weights} is of another network; delete its folder and train again") from error
        return net.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; a `UserError` names the file when it is missing or broken."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; train the run again") from error
    except SafetensorError as error:
        raise UserError(f"{path} is broken ({error}); delete its folder and train again") from error
    return tensors


@dataclass(frozen=True)
class RunStore:
    """The folder of all runs."""

    root: Path

    def folder(self, config: RunConfig) -> Path:
        """Where the run of `config` lies or will lie."""
        return self.root / config.id

    def find(self, config: RunConfig) -> Run | None:
        """The finished run of `config`, or None."""
        return self.get(config.id) if (self.folder(config) / "record.json").exists() else None

    def get(self, run_id: str) -> Run:
        """The finished run of that id, of which the first digits are enough.

        Raises `UserError` where there is none, or more than one.
        """
        found = [run.folder for run in self.all() if run_id and run.id.startswith(run_id)]
        if len(found) != 1:
            known = "none" if not found else ", ".join(path.name for path in found)
            raise UserError(f"run '{run_id}': expected one finished run in {self.root}, found {known}")
        return Run(found[0])

    def all(self) -> list[Run]:
        """Every finished run, by id."""
        return [Run(path.parent) for path in sorted(self.root.glob("*/record.json"))]

    @contextmanager
    def claim(self, config: RunConfig) -> Iterator[Path]:
        """The run's folder, for this process alone; a second one waits until the first is done."""
        folder = self.folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{config.id}.lock"):
            for left in folder.glob(".*"):  # half-written weights of a killed process
                left.unlink()
            write_json(folder / "config.json", to_json(config))
            yield folder
