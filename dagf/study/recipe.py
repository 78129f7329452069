"""The code that decides a result, as a hash: what it was not made by is not taken for it."""

from functools import lru_cache
from importlib import resources

from dagf.common import code_only, content_hash
from dagf.model.variants import Variant, variant


@lru_cache(maxsize=128)  # one answer a process: the modules in memory do not change when their files are edited
def recipe_hash(made_of: Variant) -> str:
    """The hash of the code that decides what training `made_of` gives: a change to it makes its runs new ones.

    Comments, docstrings and layout do not count, nor do files that this variant needs nothing of. The unit is the file:
    a change to one pooling trains all arms again, one to an attention those that attend. (The variants themselves are
    part of each configuration, so a change to one of them trains that arm alone.)
    """
    package = resources.files("dagf")
    files = ["model/scale_mask.py", "model/pooling.py", "model/trunks.py", "model/network.py", "model/losses.py"]
    files += ["retrieval/images.py", "study/sampling.py", "study/sources.py", "study/training.py", "study/tuples.py"]
    attends = made_of.spatial or made_of.channel or made_of.pooling == "crow"  # CroW's weight is a reading of it
    files += ["model/attention.py"] if attends else []
    files += ["model/peers.py"] if made_of.peer else []
    return content_hash([code_only((package / file).read_text(encoding="utf-8")) for file in files])


@lru_cache(maxsize=1)
def evaluation_hash() -> str:
    """The hash of the code that turns a network and images into judged queries."""
    package = resources.files("dagf")
    files = ["benchmarks/protocol.py", "benchmarks/folder.py"]
    files += [f"retrieval/{name}.py" for name in ("images", "batches", "inference", "feature_maps", "extraction")]
    files += [f"retrieval/{name}.py" for name in ("descriptors", "search", "whitening", "metrics", "streaming")]
    files += ["study/judging.py"]
    code = [code_only((package / file).read_text(encoding="utf-8")) for file in files]
    return content_hash([*code, recipe_hash(variant("spoc"))])
