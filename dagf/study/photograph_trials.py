"""What the tables on photographs are made of: whitened descriptors, near-duplicates, other images to train on.

Each descriptor is judged as it is and under every whitening of a small grid, on the held-out products and on the
test; which whitening is shown is chosen from the former alone (`dagf.study.photographs`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from dagf.benchmarks.folder import training_images
from dagf.benchmarks.protocol import Benchmark, Indices, Query
from dagf.common import UserError, atomic_folder, atomic_path, code_only, content_hash, file_sha256
from dagf.model.network import MapEncoder
from dagf.model.variants import variant
from dagf.retrieval.descriptors import describe
from dagf.retrieval.images import ImageSpec, load_image
from dagf.retrieval.metrics import judge
from dagf.retrieval.search import Descriptors, similarities
from dagf.retrieval.whitening import Whitening, pca_whitening
from dagf.study.experiment import Key, Study
from dagf.study.opening import files_hash
from dagf.study.parallel import side_by_side
from dagf.study.runs import Run
from dagf.study.sources import MapSource, TrainingSet

AS_IT_IS = "none"
SIZES = (128, 256, 512)  # dimensions kept by a whitening
POWERS = (0.25, 0.5)  # of its division by the variances

# Looked for on pictures only, before any descriptor was judged: at 0.7 all pairs are one scene taken twice, at 0.6
# a few are not. Both are shown.
ALIKE = (0.7, 0.6)
THUMBNAIL, SHIFT = 32, 4  # pixels
SUBSET_SEED = 2023  # the order in which the learning curve adds products
VIEWS_SEED = 2023


def trained_study(study: Study) -> TrainingSet:
    """The training images of a study; a `UserError` where it has none, for without them nothing can be chosen."""
    if study.training is None:
        raise UserError(f"{study.title} has no images of the role 'train': whitening and heads need some to learn from")
    return study.training


def judgements(study: Study, asked: Sequence[Run | Key]) -> list[pd.DataFrame]:
    """How each trained run, or untrained (arm, seed), does: as it is and under every whitening of the grid.

    One row a part ('validation', 'test', and for each of `ALIKE` 'test 0.7' with the near-duplicates of a query as
    junk), whitening and query: query_set, query (its index), positives, AP and P@1 in [0, 1]. Kept in the cache.
    """
    trained_study(study)
    missing = [of for of in dict.fromkeys(asked) if not _file(study, of).exists()]
    if missing:
        side_by_side(partial(_judge, study, alike(study.test)), missing, "whitening")
    return [pd.read_csv(_file(study, of)) for of in asked]


def _file(study: Study, of: Run | Key) -> Path:
    name = of.id if isinstance(of, Run) else [study.trunk_id(of[1]), asdict(variant(of[0]))]
    # Not in the run's folder: what the whitening has learned from counts, too, and that is the study's.
    images = [study.test_id, trained_study(study).id, asdict(study.profile.image)]
    return study.cache / "whitened" / f"{content_hash([name, images, own_code()])}.csv"


@lru_cache(maxsize=1)
def own_code() -> str:
    """This module's code: what it keeps in the cache is named by it."""
    return code_only(Path(__file__).read_text(encoding="utf-8"))


def _judge(study: Study, likeness: NDArray[np.float32], of: Run | Key) -> None:
    data = trained_study(study)
    seed = of.config.seed if isinstance(of, Run) else of[1]
    net = of.network() if isinstance(of, Run) else study.untrained(*of)
    encode, trunk = MapEncoder(net.head), study.trunk_id(seed)
    learned = MapSource(data, study.profile.image, net, trunk, study.cache)
    known = describe(encode, learned.train.batches(), learned.train.count)
    tests = {"test": study.test}
    tests |= {f"test {least}": without(study.test, likeness >= least) for least in ALIKE}
    parts = (
        ({"validation": data.validation}, learned.validation.describe(encode)),
        (tests, study.test_maps(net, trunk).describe(encode)),
    )
    found = []
    for benchmarks, (rows, queries) in parts:
        for name, whiten in whitenings(known):
            scores = similarities(whiten(rows), whiten(queries)) if whiten else similarities(rows, queries)
            for part, benchmark in benchmarks.items():
                setting = benchmark.settings[len(benchmark.settings) // 2]
                judged = judge(benchmark, scores, [setting])[["query_set", "query", "positives", "AP", "P@1"]]
                found.append(judged.assign(part=part, whitening=name))
    with atomic_path(_file(study, of)) as temporary:
        pd.concat(found).to_csv(temporary, index=False)


def whitenings(known: Descriptors) -> Iterator[tuple[str, Whitening | None]]:
    """(name, whitening) for every point of the grid, learned from descriptors (N, D); first (`AS_IT_IS`, None)."""
    yield AS_IT_IS, None
    # PCA within the span of the N descriptors is PCA in all D dimensions, and NetVLAD has 20,480 of them.
    span, _ = np.linalg.qr((known - known.mean(0)).astype(float).T)
    most = min(len(known) - 1, known.shape[1])
    for power in POWERS:
        whole = pca_whitening(known @ span, min(most, max(SIZES)), power)
        projection = whole.projection @ span.T
        mean = known.mean(0).astype(float)
        for size in sorted({min(size, most) for size in SIZES}):
            yield f"{size}-d, power {power}", Whitening(mean, projection[:size])


def alike(benchmark: Benchmark) -> NDArray[np.float32]:
    """How alike two photographs are without any descriptor, (queries, database without distractors), in [-1, 1].

    The normalised correlation of their grey thumbnails of 32 x 32 pixels, the largest over shifts of up to 4 pixels
    (an eighth of the side) across and down, each over the part that both have.
    """
    asked = _thumbnails(benchmark, [(query.file, query.box) for query in benchmark.queries])
    rows = _thumbnails(benchmark, [(file, None) for file in benchmark.database])
    best = np.full((len(asked), len(rows)), -1, np.float32)
    for down in range(-SHIFT, SHIFT + 1):
        for across in range(-SHIFT, SHIFT + 1):
            here, there = _overlap(asked, down, across), _overlap(rows, -down, -across)
            best = np.maximum(best, here @ there.T)
    return best


def _thumbnails(benchmark: Benchmark, files: Sequence[tuple[str, object]]) -> NDArray[np.float32]:
    spec = ImageSpec(THUMBNAIL, "squash")
    images = [load_image(benchmark.root / file, spec, box) for file, box in files]  # type: ignore[arg-type]
    return torch.stack(images).float().mean(1).numpy()


def _overlap(images: NDArray[np.float32], down: int, across: int) -> NDArray[np.float32]:
    """What is left of images (n, S, S) after a shift, as rows of mean 0 and length 1; a plain one stays 0."""
    height, width = images.shape[1:]
    rows, columns = (slice(max(by, 0), side + min(by, 0)) for by, side in ((down, height), (across, width)))
    flat = images[:, rows, columns].reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    unit: NDArray[np.float32] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def without(benchmark: Benchmark, near: NDArray[np.bool_]) -> Benchmark:
    """The benchmark with the database rows that are `near` (queries, database) a query as its junk."""

    def changed(query: Query, row: NDArray[np.bool_]) -> Query:
        labels: dict[str, Indices] = {name: rows[~row[rows]] for name, rows in query.labels.items()}
        junk = np.union1d(labels.get("junk", np.empty(0, np.int64)), np.flatnonzero(row))
        return replace(query, labels={**labels, "junk": junk})

    return replace(benchmark, queries=tuple(map(changed, benchmark.queries, near)))


def fewer(study: Study, products: int) -> Study:
    """The study with the first `products` training instances only; a step reads as many images as before.

    The order of the instances is drawn once, so that a smaller set lies within a larger one.
    """
    data = trained_study(study)
    if not 1 <= products <= data.landmarks:
        raise UserError(f"cannot train on {products} of {data.landmarks} instances: choose 1 to {data.landmarks}")
    order = np.random.default_rng(SUBSET_SEED).permutation(data.landmarks)
    chosen = sorted(order[:products].tolist())
    rows = [(file, label) for file, label in zip(data.files, data.labels, strict=True) if label in chosen]
    files, labels = [file for file, _ in rows], [chosen.index(label) for _, label in rows]
    return _trained_on(study, files, labels, products)


def of_role(study: Study, folder: Path, role: str) -> Study:
    """The study with the images of another training role of a folder, validated on the same held-out instances."""
    found = training_images(folder, role)
    names = sorted(set(found.instances))
    return _trained_on(study, found.files, [names.index(name) for name in found.instances], len(names))


def unlabelled(study: Study, views: int = 6) -> Study:
    """The study without labels: every training photograph is a class of its own, seen in `views` augmented views.

    The views are written once as JPEGs into the cache, so that they are trained on like any photographs.
    """
    data = trained_study(study)
    size = study.profile.image.size
    folder = study.cache / f"views-{content_hash([data.id, size, views, VIEWS_SEED, own_code()])}"
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            write = partial(write_views, data.files, temporary, size, views)
            side_by_side(write, range(len(data.files)), "augmented views")
    files = [folder / f"{photo}-{view}.jpg" for photo in range(len(data.files)) for view in range(views)]
    labels = [photo for photo in range(len(data.files)) for _ in range(views)]
    return _trained_on(study, files, labels, len(data.files))


def write_views(files: Sequence[Path], folder: Path, size: int, views: int, photo: int) -> None:
    """Write the augmented views of files[photo], `size` x `size` pixels, as PHOTO-VIEW.jpg: always the same ones.

    Crops of 20 to 100 % of the area, changes of light and colour, and in half of the views an erased box: what
    attention is meant to bear. No mirror images, as in training.
    """
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
            v2.RandomErasing(p=0.5, scale=(0.05, 0.3), value=(124, 116, 104)),  # ImageNet's mean colour
        ]
    )
    image = load_image(files[photo], ImageSpec(2 * size))
    for view in range(views):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([VIEWS_SEED, photo, view]).generate_state(1)[0]))
            to_pil_image(augment(image)).save(folder / f"{photo}-{view}.jpg", quality=95)


def supervised(study: Study, loss: str, landmarks: int, views: int) -> Study:
    """The study with another loss (of default options) and layout of the batch for its sweep."""
    sweep = study.plan(sweep=True)
    spec = replace(sweep.training, loss=loss, loss_options={}, landmarks=landmarks, views=views)
    return replace(study, profile=replace(study.profile, sweep=replace(sweep, training=spec)))


def _trained_on(study: Study, files: Sequence[Path], labels: Sequence[int], landmarks: int) -> Study:
    validation, sweep = trained_study(study).validation, study.plan(sweep=True)
    name = content_hash([files_hash(validation), [file_sha256(file) for file in files], labels])
    batch = sweep.training.landmarks * sweep.training.views
    fit = min(landmarks, sweep.training.landmarks)
    spec = replace(sweep.training, landmarks=fit, views=max(1, batch // fit))
    profile = replace(study.profile, sweep=replace(sweep, training=spec))
    return replace(study, training=TrainingSet(tuple(files), tuple(labels), validation, name), profile=profile)


def ready(studies: Sequence[Study]) -> None:
    """Compute the training images' maps of several studies side by side; heads on them then need not wait."""
    side_by_side(_maps, studies, "feature maps")


def _maps(study: Study) -> None:
    study.training_maps(study.profile.seeds[0])
