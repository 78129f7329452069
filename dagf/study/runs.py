"""The run store: one folder a run, named by the hash of its configuration. Asked twice, trained once.

A finished run holds

    config.json            every value that decided it
    weights.safetensors    the best epoch by validation mAP
    curves.csv             epoch, loss, validation mAP, learning rate
    record.json            its scores, durations, versions, CPU and threads

and an unfinished one `state.safetensors`, from which the next start goes on as if nothing had happened.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file

from dagf.errors import UserError, shown
from dagf.files import file_sha256, read_json, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.study.checkpoints import CURVES, NAME, check_state, name_state
from dagf.study.config import LARGEST, RunConfig, from_mapping, to_json
from dagf.study.sources import frozen_backbone

REMEDY = "delete it: it is made again"  # of what is kept beside a run or in the cache
SUM = "weights_sha256"  # in a record
START_SUM = "start_weights_sha256"  # in a record: of the run that its backbone started from
# How closely a run comes out again with its seed and versions (tests/study/test_repeats.py).
REPEATS = {
    "same CPU and threads": "to the bit",
    "other threads": "weights within 0.02 and validation mAP within 5 points after a short training",
    "other versions of torch": "mAP of the smoke study within 5 points",
}
NUMBERS = ("seed", "best_epoch", "validation_mAP", "seconds", "parameters")  # of a record


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
        """Its configuration; a `UserError` names the file where it is none, or another run's."""
        file = self.folder / "config.json"
        values = read_json(file)
        try:
            config = from_mapping(RunConfig, values, str(file))
        except UserError as error:  # a value by itself may be refused without a word of the file
            raise error if str(file) in str(error) else UserError(f"{file}: {error}") from error
        if (
            config.id != self.id and to_json(config) == values
        ):  # of an earlier version, which had fewer fields, it may
            raise self._mixed(file, config.id)
        return config

    def _mixed(self, file: Path, of: object) -> UserError:
        return UserError(
            f"{file} is of another run, {shown(of)}: delete its folder and train again"
        )

    @property
    def weights_sum(self) -> str:
        """The sha256 of its weights, as its record has it; a `UserError` where neither record nor weights tell."""
        known, weights = self.record.get(SUM), self.folder / "weights.safetensors"
        if known is None and not weights.exists():
            raise UserError(f"{weights} does not exist; delete its folder and train again")
        return str(known or file_sha256(weights))

    @property
    def weights_id(self) -> str:
        """What names its weights, and so all that is cached of them: trained again elsewhere, a run has others."""
        return f"{self.id}-{self.weights_sum[:12]}"

    @property
    def backbone_id(self) -> str:
        """What names the backbone of its network: its own weights, or those that a frozen backbone was taken from."""
        config = self.config
        if not config.frozen:
            return self.weights_id
        if not config.start:
            return frozen_backbone(config)
        known = (
            self.record.get(START_SUM) or RunStore(self.folder.parent).get(config.start).weights_sum
        )
        return f"{config.start}-{str(known)[:12]}"

    def check_start(self) -> None:
        """Raise `UserError` where its backbone was trained again since, to other weights: arms of a seed share theirs.

        The record of an older version does not say, and is taken as it is.
        """
        known, start = self.record.get(START_SUM), Run(self.folder.parent / self.config.start)
        there = known is not None and (start.folder / "record.json").exists()
        if there and known != start.weights_sum:
            raise UserError(
                f"{self.folder} was trained on the backbone {start.id}, which has since been trained again and is another "
                "one: delete this folder, it is trained again"
            )

    def verify(self) -> None:
        """Raise `UserError` where the record is another run's, or the weights are not those it was written of."""
        weights, record = self.folder / "weights.safetensors", self.record
        if record.get(NAME, self.id) != self.id:
            raise self._mixed(self.folder / "record.json", record[NAME])
        known = record.get(SUM) if weights.exists() else None
        if known is not None and known != file_sha256(weights):
            raise UserError(
                f"{weights} was changed since the run was trained: put it back, or delete its folder and train again"
            )

    @property
    def record(self) -> dict[str, Any]:
        """Scores, durations, versions and machine; a `UserError` names the file where it is none."""
        file = self.folder / "record.json"
        record = read_json(file)
        numbers = [record.get(name) for name in NUMBERS] if isinstance(record, dict) else [None]
        if not all(isinstance(one, int | float) and abs(one) <= LARGEST for one in numbers):
            raise UserError(f"{file} is no record of a run; delete its folder and train again")
        return dict(record)

    @property
    def curves(self) -> pd.DataFrame:
        """One row an epoch: epoch, loss, validation mAP (per cent), rate; a `UserError` where the file is broken."""
        return read_table(self.folder / "curves.csv", CURVES, "delete its folder and train again")

    def network(self) -> RetrievalNet:
        """The trained network, on the CPU and in evaluation mode.

        Raises `UserError` where the weights are missing or broken.
        """
        config = self.config
        try:
            # The run's own weights replace the backbone's, so the file that the backbone started from is not needed.
            net = RetrievalNet(
                BackboneSpec(config.backbone.name, config.backbone.cut), config.variant
            )
        except Exception as error:  # modules refuse values that they do not know in many ways
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self.folder / 'config.json'} describes no network ({reason}); train again"
            ) from error
        net.keep_batch_norm = config.backbone.pretrained
        weights = self.folder / "weights.safetensors"
        try:
            net.load_state_dict(read_weights(weights))
        except (RuntimeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{weights} is of another network; delete its folder and train again"
            ) from error
        return net.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; a `UserError` names the file when it is missing or broken."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; train the run again") from error
    except SafetensorError as error:
        raise UserError(f"{path} is broken ({error}); delete its folder and train again") from error
    if path.name == "weights.safetensors" and (path.parent / "record.json").exists():
        Run(path.parent).verify()
    return tensors


def read_table(
    path: Path, columns: Sequence[str], remedy: str, rows: int | None = None, **options: Any
) -> pd.DataFrame:
    """A CSV with numbers in these columns, and others, perhaps; of so many `rows` where that is known.

    A `UserError` names one that is missing or broken.
    """
    try:
        table = pd.read_csv(path, **options)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(
            f"cannot read {path} ({' '.join(str(error).split())[:200]}); {remedy}"
        ) from error
    # An empty table has no types.
    fine = all(
        name in table and (pd.api.types.is_numeric_dtype(table[name]) or table.empty)
        for name in columns
    )
    if not fine or rows not in (None, len(table)):
        raise UserError(
            f"{path} is broken: expected numbers in the columns {', '.join(columns)}; {remedy}"
        )
    return table


def _seal(run: Run) -> None:
    """Write into a finished run's record what its weights are, and how closely it can be had again."""
    file, weights = run.folder / "record.json", run.folder / "weights.safetensors"
    if file.exists() and weights.exists() and SUM not in run.record:
        start = run.folder.parent / run.config.start
        begun = {START_SUM: Run(start).weights_sum} if (start / "record.json").exists() else {}
        write_json(
            file, run.record | {NAME: run.id, SUM: file_sha256(weights), "repeats": REPEATS} | begun
        )


@dataclass(frozen=True)
class RunStore:
    """The folder of all runs."""

    root: Path

    def folder(self, config: RunConfig) -> Path:
        """Where the run of `config` lies or will lie."""
        return self.root / config.id

    def find(self, config: RunConfig) -> Run | None:
        """The finished run of `config`, or None; what a kill after the record left undone is done now."""
        if not (self.folder(config) / "record.json").exists():
            return None
        run = self.get(config.id)
        with suppress(OSError):  # others' runs may be for reading alone
            (run.folder / "state.safetensors").unlink(missing_ok=True)
            _seal(run)
        return run

    def get(self, run_id: str) -> Run:
        """The finished run of that id, of which the first digits are enough.

        Raises `UserError` where there is none, or more than one.
        """
        found = [run.folder for run in self.all() if run_id and run.id.startswith(run_id)]
        if len(found) != 1:
            known = "none" if not found else ", ".join(path.name for path in found)
            raise UserError(
                f"run '{run_id}': expected one finished run in {self.root}, found {known}"
            )
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
            if not (
                folder / "record.json"
            ).exists():  # else the answers of others may be on their way
                for left in folder.glob(".*"):  # half-written weights of a killed process
                    left.unlink()
            state = folder / "state.safetensors"
            if state.exists():
                check_state(state, config)
            write_json(folder / "config.json", to_json(config))
            try:
                yield folder
            except BaseException:  # Ctrl-C, too
                name_state(state, config.id)
                raise
            _seal(Run(folder))
