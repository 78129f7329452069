"""Does the network look at the landmark? Attention maps, scored against exact masks.

Those of Toytown, or the boxes of photographs, in which some of the background is inside.

    database image -> maps: attention, Grad-CAM and its kin, and some that know nothing of the image
                   -> pixel AUC, pointing, energy inside: against the pixels that show the landmark

Only database images are scored: a query's crop would give the answer away. A score says where in an
image a map is high. It does not say that looking there helps to find the image: that is for the
benchmark to say.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor
from torch.nn import functional as fn

from dagf.analysis.cam import CamTarget, Plane, cams
from dagf.console import progress
from dagf.datasets.batches import image_batches
from dagf.datasets.folder import BOXES
from dagf.datasets.images import exact_mask, has_mask, to_input
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import similarities
from dagf.retrieval.statistics import paired_bootstrap
from dagf.study.cache import cached_tables, table_file
from dagf.study.provenance import code_hash
from dagf.study.runs import Head
from dagf.study.study import Study

Mask = NDArray[np.bool_]

BATCH = 48  # images; at 96 pixels their maps take 20 MB
SEED = 2023  # of the random maps
SPREAD = 0.3  # standard deviation of the centre prior, as a share of the image's sides
SMALL = 0.25  # energy is scored for masks of at most this area: else most of any map is inside


def maps_of(
    net: RetrievalNet, images: Tensor, targets: Sequence[CamTarget], numbers: Sequence[int]
) -> dict[str, Plane]:
    """Return where `net` looks in images (B, 3, H, W), and what to compare that with.

    name -> maps (B, H, W). targets: of Grad-CAM and LayerCAM, one an image. numbers: one an
    image, for its random maps: one of noise, and a CAM of random channel weights, as that of the
    Grad-CAM package.

    Every map is enlarged (bilinear, align_corners=False) and brought to 0..1 within its image by
    the routine that the Grad-CAM package has for its own: energy depends on where a map's zero
    lies, so none may keep a floor that others have lost. A constant map becomes 0. A network
    without spatial attention has no "region evaluator", one without MAX-Mask no "MAX-Mask cells".
    Not to be called in `torch.inference_mode`.
    """
    with torch.no_grad():
        seen = net.inspect(images.to(next(net.parameters()).device))
    kept = [one for one in seen.kept if one is not None]
    shape, size = seen.features.shape[2:], (images.shape[2], images.shape[3])
    cells = {
        "region evaluator": seen.attention,
        "effective weight": seen.effective_weight,
        "channel-weighted response": seen.attended.norm(dim=1, keepdim=True),
        "MAX-Mask cells": kept_share(kept, shape) if kept else None,
    }
    maps = {name: one[:, 0].cpu().numpy() for name, one in cells.items() if one is not None}
    maps |= cams(net, seen.features, targets)
    maps["feature norm"] = seen.features.norm(dim=1).cpu().numpy()
    maps["centre prior"] = np.repeat(centre_prior(*size)[None], len(images), 0)
    maps["random map"] = np.stack([np.random.default_rng([SEED, k]).random(shape) for k in numbers])
    maps["random CAM"] = random_cams(seen.features, numbers)
    return {
        name: scale_cam_image(scale_cam_image(planes, size[::-1])) for name, planes in maps.items()
    }


def random_cams(features: Tensor, numbers: Sequence[int]) -> Plane:
    """Return a CAM of F (B, C, h, w) under random channel weights, rectified: (B, h, w).

    The weights are drawn from -1..1 for each image by its number.
    """
    count = features.shape[1]
    drawn = [np.random.default_rng([SEED, k, 1]).uniform(-1, 1, count) for k in numbers]
    weights = np.stack(drawn).astype(np.float32)
    return np.einsum("bc,bchw->bhw", weights, features.cpu().numpy()).clip(min=0)


def kept_share(kept: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Lay the kept cells of windows k, (B, 1, h-k+1, w-k+1) boolean, on the map: (B, 1, h, w).

    A cell gets the share that is kept of the k x k windows that cover it; of that, the mean over
    the windows k. So a mask that keeps all gives 1 everywhere, at the border too, where fewer
    windows cover a cell.
    """

    def covering(cells: Tensor) -> Tensor:
        window = [whole - left + 1 for whole, left in zip(size, cells.shape[2:], strict=True)]
        return fn.conv_transpose2d(cells, cells.new_ones(1, 1, *window))

    shares = [
        covering(cells) / covering(torch.ones_like(cells)) for cells in map(Tensor.float, kept)
    ]
    return torch.stack(shares).mean(0)


def centre_prior(height: int, width: int) -> Plane:
    """Return a Gaussian in the middle of the image: what photographers' habits alone give a map."""
    rows, columns = (
        np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / SPREAD) ** 2) for n in (height, width)
    )
    return np.outer(rows, columns).astype(np.float32)


def pixel_auc(plane: Plane, mask: Mask) -> float:
    """Return the chance that a pixel in the mask is higher than one outside, ties counting half.

    The area under the ROC curve, as the Mann-Whitney statistic with mid-ranks; NaN without pixels
    of both kinds.
    """
    inside, outside = np.sort(plane[mask]), np.sort(plane[~mask])
    if not (len(inside) and len(outside)):
        return float("nan")
    below, up_to = (np.searchsorted(outside, inside, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(outside))


def pointing(plane: Plane, mask: Mask) -> float:
    """Return 1 if the map's maximum lies in the mask, else 0; of tied maxima the share that does.

    The pointing game of Zhang et al. (IJCV 2018), without their tolerance of 15 pixels: the masks
    are exact.
    """
    return float(mask[plane == plane.max()].mean())


def energy_inside(plane: Plane, mask: Mask) -> float:
    """Return the share of a map's sum that lies in the mask, for a map >= 0; NaN if it is all 0.

    The energy-based pointing game of Wang et al. (Score-CAM, CVPRW 2020), with masks for boxes.
    """
    total = plane.sum(dtype=np.float64)
    return float(plane[mask].sum(dtype=np.float64) / total) if total else float("nan")


SCORES = {"AUC": pixel_auc, "pointing": pointing, "energy": energy_inside}


def cam_targets(study: Study, head: Head) -> dict[int, CamTarget]:
    """Return a target for each image of the test database that some query is about, by its row.

    Like its landmark's query, and not like that query's worst mistake: the best-scoring database
    image of another landmark. So Grad-CAM is told what to look for, which attention is not.
    """
    single = replace(study.profile, scales=(1.0,), whitening="", centred=False)  # what a map gives
    known, queries = replace(study, profile=single).descriptors(head)
    rows = known[: len(study.test.database)]
    targets: dict[int, CamTarget] = {}  # of several queries the last one's
    for query, own, found in zip(
        queries, study.test.queries, similarities(rows, queries), strict=True
    ):
        others = np.setdiff1d(np.arange(len(rows)), own.labelled)
        mistake = others[found[others].argmax()]
        targets |= dict.fromkeys(own.labelled.tolist(), CamTarget(query, rows[mistake]))
    return targets


def localisations(study: Study) -> pd.DataFrame:
    """Return `localisation` of DAGF end to end, with the column `seed`; kept in the cache."""
    runs = {study.run("dagf", seed): seed for seed in study.profile.seeds}
    decides = study.test_id, study.profile.evaluation.image, code_hash("dagf.analysis.localise")
    files = {run: table_file(study.cache, "localisation", run.weights_id, *decides) for run in runs}
    found = cached_tables(files, partial(localisation, study), "maps")
    return pd.concat([table.assign(seed=runs[run]) for run, table in found.items()])


def localisation(study: Study, head: Head) -> pd.DataFrame:
    """Score every map of every test database image that has a mask: one row an image and map.

    Columns: file; landmark, its cluster of queries; difficulty, its label; map; AUC, pointing,
    energy, and area, the mask's share of the image: all 0..1. Images that no query is about are
    left out. Raises `UserError` where there is no mask.
    """
    test, about = study.test, dict[int, dict[str, Any]]()
    for query, landmark in zip(test.queries, test.clusters().tolist(), strict=True):
        for label, labelled in query.labels.items():
            for row in labelled.tolist():
                if has_mask(test.root / (file := test.database[row])):
                    about[row] = {"file": file, "landmark": landmark, "difficulty": label}
    if not about:
        raise UserError(f"{study.title} has no masks: write the boxes of its images to {BOXES}")
    net, spec, scored = on_device(head.network()), study.profile.evaluation.image, []
    targets, chosen = cam_targets(study, head), sorted(about)
    files = [test.root / test.database[row] for row in chosen]
    batches = image_batches(files, spec, batch=BATCH)
    for places, images in progress(batches, "maps", len(files), amount=lambda one: len(one[0])):
        rows = [chosen[place] for place in places]
        masks = [landmark_mask(files[place], images) for place in places]
        maps = maps_of(net, to_input(images), [targets[row] for row in rows], rows)
        for name, planes in maps.items():
            for row, plane, mask in zip(rows, planes, masks, strict=True):
                scores = {title: score(plane, mask) for title, score in SCORES.items()}
                scored.append({**about[row], "map": name, **scores, "area": float(mask.mean())})
    return pd.DataFrame(scored)


def landmark_mask(file: Path, images: Tensor) -> Mask:
    """Return an image's mask at the size (H, W) of the network's input, by nearest pixel."""
    mask = exact_mask(file)
    assert mask is not None
    size = images.shape[3], images.shape[2]
    return np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 127


def small_masks(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `localisation` with energy and area of small masks only (NaN of others)."""
    small = frame["area"] <= SMALL
    return frame.assign(energy=frame["energy"].where(small), area=frame["area"].where(small))


def localisation_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a map, in per cent: pixel AUC, pointing, and energy inside over small masks.

    low, high: the AUC's 95 % interval from a bootstrap over landmarks. Chance: 50 for the AUC, the
    area for the energy.
    """
    rows = []
    for name, part in small_masks(frame).groupby("map", sort=False):
        scored, means = part.dropna(subset="AUC"), 100 * part[["pointing", "energy", "area"]].mean()
        auc = paired_bootstrap(100 * scored["AUC"], scored["landmark"])
        rows.append((name, *auc[:3], *means))
    names = ["pixel AUC (%)", "low", "high", "pointing (%)", "energy inside (%)", "area (%)"]
    return pd.DataFrame(rows, columns=["map", *names])
