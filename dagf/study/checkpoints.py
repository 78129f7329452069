"""The checkpoint of an unfinished run: whether it is one, whose it is, and whether its tensors fit that run."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dagf.errors import UserError, shown
from dagf.files import atomic_path
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.study.config import RunConfig

CURVES = ("epoch", "loss", "validation_mAP", "rate")
NAME = "run"  # in its metadata: the ID of the run
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what the optimizer keeps of each parameter


def check_state(path: Path, config: RunConfig) -> None:
    """Raise `UserError`, naming the file, for a checkpoint that is none of the unfinished run of `config`.

    One that names no run was left by a kill, or by an earlier version: it is known by its tensors alone.
    """
    try:
        with safe_open(path, "pt") as opened:
            said = opened.metadata() or {}
            kept = json.loads(said["json"])
            fine = all(row.keys() == set(CURVES) for row in kept["curves"]) and isinstance(
                kept["scaler"], dict
            )
            fine &= all(
                type(one) in (int, float)
                for row in [kept, *kept["curves"]]
                for one in _numbers(row)
            )
            run = said.get(NAME, config.id)
            fine = fine and (run != config.id or _fits(opened, config))
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ):
        fine = False
    if not fine:
        raise UserError(
            f"{path} is no checkpoint of run {config.id}: delete it, training starts again"
        )
    if run != config.id:
        raise UserError(f"{path} is of another run, {shown(run)}: delete it, training starts again")


def name_state(path: Path, run: str) -> None:
    """Write into a checkpoint, where one is left, of which run it is: copied elsewhere it must not be gone on from."""
    if not path.exists():
        return
    with (
        suppress(OSError, SafetensorError, TypeError, UserError),
        atomic_path(path) as temporary,
    ):  # at worst no name
        with safe_open(path, "pt") as opened:
            said = {**opened.metadata(), NAME: run}
        save_file(load_file(path), temporary, metadata=said)


def _numbers(row: dict[str, Any]) -> list[Any]:
    return [row["seconds"]] if "seconds" in row else list(row.values())


def _fits(opened: Any, config: RunConfig) -> bool:
    """Whether the tensors of an open checkpoint are those of the network and of its optimizer at a step it can be at.

    What a loss has learned is looked at only by the optimizer's shapes: how many landmarks it is for is not known here.
    """
    shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118 (no mapping)
    network = RetrievalNet(BackboneSpec(config.backbone.name, config.backbone.cut), config.variant)
    expected = {
        f"objective.describe.{key}": list(value.shape)
        for key, value in network.state_dict().items()
        if key.startswith("head.") or not config.frozen
    }
    objective = {key: shape for key, shape in shapes.items() if key.startswith("objective.")}
    if {
        key: shape for key, shape in objective.items() if not key.startswith("objective.loss.")
    } != expected:
        return False
    last, known = config.train.epochs * config.train.steps, list(objective.values())
    for key in shapes.keys() - objective.keys():
        part, index, moment = key.split(".")
        step = opened.get_tensor(key).item() if moment == "step" else 1
        fine = part == "optimizer" and index.isdecimal() and moment in MOMENTS and 0 <= step <= last
        if not fine or (moment != "step" and shapes[key] not in known):
            return False
        if any(f"{part}.{index}.{one}" not in shapes for one in MOMENTS):
            return False
    return True
