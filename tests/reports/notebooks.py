"""Small notebooks for the tests of the runner and of freshness."""

from pathlib import Path

import nbformat

PARAMETERS = """profile: str = "cpu"  # the profile to run
benchmark: str = ""  # a folder of photographs
distractors: list[str] = []  # more folders
weights: str = ""
seeds: int = 2  # how many <b>seeds</b>"""


def write_notebook(path: Path, *cells: str, tagged: tuple[str, ...] = (PARAMETERS,)) -> None:
    """Write a notebook with a title, cells of parameters, and code `cells`."""
    made = [nbformat.v4.new_markdown_cell(f"# The {path.stem}\n\nWhat it asks.")]
    made += [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}) for cell in tagged]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
