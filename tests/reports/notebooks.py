"""Small notebooks for the tests of the runner and of freshness."""

from pathlib import Path

import nbformat

PARAMETERS = """profile: str = "cpu"  # the profile to run
benchmark: str = ""  # a folder of photographs
distractors: list[str] = []  # more folders
weights: str = ""
train_on: list[str] = []
seeds: int = 2  # how many <b>seeds</b>"""

KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook with a title, a cell of parameters, and code `cells`."""
    made = [nbformat.v4.new_markdown_cell(f"# The {path.stem}\n\nWhat it asks.")]
    made += [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=KERNEL), path)
