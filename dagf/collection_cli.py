"""The commands on one's own images: describe them, search them, and take a trained network elsewhere."""

import json
from pathlib import Path
from typing import Literal

import click

from dagf.errors import UserError, printable
from dagf.files import existing_file

# As in `dagf.cli`, what takes seconds to import is imported in the commands.


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "run_id",
    help="A run trained on photographs to describe with (the first digits are enough).",
)
@click.option(
    "--weights",
    default="",
    metavar="FILE",
    help="Without a run: weights of MobileNetV2. [torchvision's]",
)
@click.option(
    "--output",
    default="photos.index",
    show_default=True,
    type=click.Path(path_type=Path),
    help="A folder.",
)
@click.option(
    "--precision",
    type=click.Choice(["float16", "float32"]),
    help="Of the descriptors on disk. [float32; from 100,000 images on float16]",
)
def extract(
    images: tuple[Path, ...],
    run_id: str | None,
    weights: str,
    output: Path,
    precision: Literal["float16", "float32"] | None,
) -> None:
    """Descriptors of IMAGES (files and folders), kept in a folder for `dagf search`.

    Without a run nothing is trained: they are max windows, MAX-Mask and mean on a network with ImageNet
    weights, which are downloaded once unless a file is named. Stopped and started again, it goes on where it was;
    later it describes only images that are new or were changed. Several processes: docs/distributed.md.

    \b
    dagf extract ~/photos --output photos.index
    dagf extract ~/photos --output photos.index --weights mobilenet_v2.pth
    dagf extract --run 0c07 ~/photos --output photos.index
    torchrun --nproc-per-node 2 -m -- dagf extract --run 0c07 ~/photos --output photos.index
    """
    from dagf.collections.encoders import of_run, off_the_shelf
    from dagf.collections.index import build, find_images
    from dagf.distributed import process_group

    if run_id is not None and weights:
        raise UserError("a run has weights of its own: leave out --weights, or --run")
    files = find_images(images)  # before the weights, which may have to be downloaded
    encoder = off_the_shelf(existing_file(weights)) if run_id is None else of_run(run_id)
    found = build(files, encoder, output, precision)
    if process_group().rank == 0:
        speed = f"{found.made} described in {found.seconds:.1f} s, {found.made / found.seconds:.1f} images/s"
        click.echo(f"{len(found.descriptors)} images in {printable(str(output))}: {speed}")


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--index", default="photos.index", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--crop",
    nargs=4,
    type=float,
    metavar="X1 Y1 X2 Y2",
    help="Search for this part of the photo, in pixels.",
)
@click.option("--top", default=10, show_default=True, type=click.IntRange(1))
@click.option(
    "--approximate",
    is_flag=True,
    help="Ask a FAISS index, built the first time: for a million images.",
)
@click.option(
    "--whiten/--plain",
    default=None,
    help="Compare under PCA of the index itself, or as they are. [from 100 images on, without a run: --whiten]",
)
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    help="Also write a page: what was found, and why.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(
    photo: Path,
    index: Path,
    crop: tuple[float, float, float, float] | None,
    top: int,
    approximate: bool,
    whiten: bool | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """The images of an index most similar to PHOTO, with their cosine similarity.

    --whiten takes out what all images of the index have in common, so that unlike ones have a cosine about 0. What it
    gains or costs on photographs is in benchmarks/results.json. --approximate asks for the descriptors as they are.

    \b
    dagf search ~/photos/castle.jpg --index photos.index --top 5
    dagf search ~/photos/castle.jpg --crop 300 200 900 1100 --html found.html
    torchrun --nproc-per-node 2 -m -- dagf search ~/photos/castle.jpg --index photos.index
    """
    from dagf.collections.index import Collection
    from dagf.distributed import process_group

    if page:
        _check_name(page, "page", ".html", ".htm")
    collection = Collection.load(index)
    if not approximate or whiten:
        collection = collection.whitened(whiten)
    found = collection.search(photo, top, crop, approximate)
    if process_group().rank > 0:
        return
    if page:
        from dagf.collections.page import write_page

        write_page(page, collection, photo, found, crop)
        click.echo(f"what was found, and why: {printable(str(page))}", err=True)
    if as_json:
        click.echo(
            json.dumps(
                [{"file": file, "score": round(score, 4)} for file, score in found], indent=1
            )
        )
    else:
        for file, score in found:
            click.echo(f"{score:.4f}  {printable(file)}")


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--run",
    "run_id",
    required=True,
    help="The trained run to export (the first digits are enough).",
)
def export(output: Path, run_id: str) -> None:
    """Write a trained run as the ONNX file OUTPUT, for batches and images of any size.

    It is compared with the network, by onnxruntime, before it is kept. Its metadata say how images are normalised.

    \b
    dagf export --run 0c07 model.onnx
    """
    from dagf import paths
    from dagf.collections.export import write_onnx
    from dagf.study.runs import RunStore

    _check_name(output, "model", ".onnx")
    made = write_onnx(RunStore(paths.runs()).get(run_id), output)
    click.echo(
        f"{printable(str(output))}: images (batch, 3, height, width) from {made.smallest_side} pixels a side on -> "
        f"descriptors (batch, {made.dimensions}); largest difference from the network {made.difference:.0e}"
    )


def _check_name(path: Path, what: str, *endings: str) -> None:
    """Raise `UserError` for a file that does not end as what is to be written: a slip must not cost a photograph."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{path} is no name of a {what}: name a file that ends in {endings[0]}")
