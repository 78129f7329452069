"""An encoder as one ONNX graph: images in, descriptors out, by onnxruntime, without PyTorch."""

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dagf.console import cores
from dagf.datasets.decode import IMAGENET_MEAN, IMAGENET_STD, Box, ImageSpec, decode
from dagf.errors import UserError
from dagf.retrieval.search import Descriptors

INPUT, OUTPUT = "images", "descriptors"
AT_ONCE = 8  # images: more of them leave the caches
ERRORS = 3  # onnxruntime's level of what it says: warnings are of its own inside


class Graph:
    """The graph in a file, on all cores; it is opened when it is first used."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """Return onnxruntime's session."""
        options = onnxruntime.SessionOptions()
        side_by_side = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of torchrun
        options.intra_op_num_threads = max(1, cores() // side_by_side)
        options.log_severity_level = ERRORS
        # Waiting threads that spin take the cores from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(self.file, options, ["CPUExecutionProvider"])
        except Exception as error:  # a broken file gives one of several of onnxruntime's own
            raise UserError(
                f"{self.file} is missing or broken: delete it, and run `dagf extract` again"
            ) from error

    def __call__(self, images: NDArray[np.float32]) -> Descriptors:
        """Images (B, 3, H, W), as `network_values` gives them -> unit descriptors (B, D)."""
        parts = (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))
        return np.concatenate([self.session.run([OUTPUT], {INPUT: part})[0] for part in parts])

    def describe(self, file: Path, spec: ImageSpec, box: Box | None = None) -> Descriptors:
        """Return the descriptor (1, D) of an image file, or of a box of it in its pixels."""
        return self(network_values(decode(file, spec, box).transpose(2, 0, 1)[None]))


def network_values(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (B, 3, H, W) -> float32, the same numbers as `dagf.datasets.images.to_input`."""
    mean, std = (np.array(one, np.float32)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    return np.ascontiguousarray((images.astype(np.float32) / 255 - mean) / std)
