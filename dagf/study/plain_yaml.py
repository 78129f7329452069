"""YAML that somebody else may have written: plain values only, and no more of them than the file spells out."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from dagf.errors import UserError, shown


def read_yaml(path: Path, what: str) -> Any:
    """The value in a YAML file; a `UserError`, naming `what`, for one that is broken, or holds more than plain values.

    A key that stands twice and a merge (<<) are refused, too.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Once)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, or a date that is none
        raise UserError(f"{what} is not valid YAML: {str(error).splitlines()[0][:200]}") from error


class _Once(yaml.SafeLoader):
    """Plain values only, and no key twice: the first value would be lost without a word."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges nothing: merges of merges make of a few lines more pairs than a memory holds."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "it merges mappings (<<): write the values out"
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(twice[0])} stands there twice"
            )
        return super().construct_mapping(node, deep)
