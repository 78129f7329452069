"""Other images for the heads of a photograph study to learn from: fewer, of another role, or without labels.

Each is the same study with another training set: backbone, test, held-out instances, seeds and budget stay.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from dagf import paths
from dagf.analysis.photographs.trials import trained_study
from dagf.datasets.contents import remembered
from dagf.datasets.folder import training_images
from dagf.datasets.images import ImageSpec, load_image
from dagf.datasets.training_sets import TrainingSet
from dagf.errors import UserError
from dagf.files import atomic_folder, content_hash
from dagf.study.opening import files_hash
from dagf.study.parallel import side_by_side
from dagf.study.provenance import code_hash
from dagf.study.study import Study

SUBSET_SEED = 2023  # the order in which a larger set adds instances
VIEWS_SEED = 2023


def fewer(study: Study, products: int) -> Study:
    """The study with the first `products` training instances only; a step reads as many images as before.

    The order of the instances is drawn once, so that a smaller set lies within a larger one.
    """
    data = trained_study(study)
    if not 1 <= products <= data.landmarks:
        raise UserError(
            f"cannot train on {products} of {data.landmarks} instances: choose 1 to {data.landmarks}"
        )
    order = np.random.default_rng(SUBSET_SEED).permutation(data.landmarks)
    chosen = sorted(order[:products].tolist())
    rows = [
        (file, label)
        for file, label in zip(data.files, data.labels, strict=True)
        if label in chosen
    ]
    files, labels = [file for file, _ in rows], [chosen.index(label) for _, label in rows]
    return _trained_on(study, files, labels, products)


def of_role(study: Study, folder: Path, role: str) -> Study:
    """The study with the images of another training role of a folder, validated on the same held-out instances."""
    files, labels = training_images(folder, role)
    return _trained_on(study, files, labels, max(labels) + 1)


def unlabelled(study: Study, views: int = 6) -> Study:
    """The study without labels: every training photograph is a class of its own, seen in `views` augmented views.

    The views are written once as JPEGs into the cache, so that they are trained on like any photographs.
    """
    data = trained_study(study)
    size = study.profile.image.size
    code = code_hash("dagf.analysis.photographs.sets")
    folder = study.cache / f"views-{content_hash([data.id, size, views, VIEWS_SEED, code])}"
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            write = partial(write_views, data.files, temporary, size, views)
            side_by_side(write, range(len(data.files)), "augmented views")
    files = [
        folder / f"{photo}-{view}.jpg" for photo in range(len(data.files)) for view in range(views)
    ]
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
            v2.RandomErasing(
                p=0.5, scale=(0.05, 0.3), value=(124, 116, 104)
            ),  # ImageNet's mean colour
        ]
    )
    image = load_image(files[photo], ImageSpec(2 * size))
    for view in range(views):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                int(np.random.SeedSequence([VIEWS_SEED, photo, view]).generate_state(1)[0])
            )
            to_pil_image(augment(image)).save(folder / f"{photo}-{view}.jpg", quality=95)


def seen_in(study: Study, views: int) -> Study:
    """The study with `views` images of each class in a batch of its sweep, and as many classes as then fit."""
    heads = study.plan(heads=True)
    batch = heads.training.landmarks * heads.training.views
    spec = replace(heads.training, landmarks=max(1, batch // views), views=views)
    return replace(study, profile=replace(study.profile, heads=replace(heads, training=spec)))


def _trained_on(
    study: Study, files: Sequence[Path], labels: Sequence[int], landmarks: int
) -> Study:
    validation, heads = trained_study(study).validation, study.plan(heads=True)
    contents = remembered(paths.data())
    sums = [contents.sha256(file) for file in files]
    name = content_hash([files_hash(validation, contents), sums, labels])
    contents.save()
    batch = heads.training.landmarks * heads.training.views
    fit = min(landmarks, heads.training.landmarks)
    spec = replace(heads.training, landmarks=fit, views=max(1, batch // fit))
    profile = replace(study.profile, heads=replace(heads, training=spec))
    return replace(
        study, training=TrainingSet(tuple(files), tuple(labels), validation, name), profile=profile
    )


def ready(studies: Sequence[Study]) -> None:
    """Compute the training images' maps of several studies side by side; heads on them then need not wait."""
    side_by_side(_maps, studies, "feature maps")


def _maps(study: Study) -> None:
    study.training_maps(study.profile.seeds[0])
