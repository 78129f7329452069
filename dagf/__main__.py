"""`python -m dagf` is the command `dagf`."""

from dagf.cli import main

main()
