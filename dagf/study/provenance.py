"""The code that decides a result, as a hash: what it was not made by is not taken for it."""

from functools import lru_cache
from importlib import resources

from dagf.files import code_only, content_hash
from dagf.model.variants import Variant, variant


@lru_cache(
    maxsize=128
)  # one answer a process: the modules in memory do not change when their files are edited
def recipe_hash(made_of: Variant) -> str:
    """The hash of the code that decides what training `made_of` gives: a change to it makes its runs new ones.

    Comments, docstrings and layout do not count, nor do files that this variant needs nothing of. The unit is the file:
    a change to one pooling trains all arms again, one to an attention those that attend. (The variants themselves are
    part of each configuration, so a change to one of them trains that arm alone.)
    """
    package = resources.files("dagf")
    files = [
        "model/scale_mask.py",
        "model/pooling.py",
        "model/backbone.py",
        "model/network.py",
        "model/losses.py",
    ]
    files += [
        "datasets/images.py",
        "study/sampling.py",
        "study/sources.py",
        "study/training.py",
        "study/mining.py",
    ]
    attends = (
        made_of.spatial or made_of.channel or made_of.pooling == "crow"
    )  # CroW's weight is a reading of it
    files += ["model/attention.py"] if attends else []
    files += ["model/attention_baselines.py"] if made_of.baseline else []
    return content_hash([code_only((package / file).read_text(encoding="utf-8")) for file in files])


@lru_cache(maxsize=1)
def evaluation_hash() -> str:
    """The hash of the code that turns a network and images into judged queries."""
    package = resources.files("dagf")
    files = [
        "datasets/benchmark.py",
        "datasets/folder.py",
        "datasets/images.py",
        "datasets/batches.py",
    ]
    files += [f"retrieval/{name}.py" for name in ("inference", "feature_maps", "extract")]
    files += [
        f"retrieval/{name}.py"
        for name in ("descriptors", "search", "whitening", "metrics", "streaming")
    ]
    files += ["study/evaluation.py"]
    code = [code_only((package / file).read_text(encoding="utf-8")) for file in files]
    return content_hash([*code, recipe_hash(variant("spoc"))])
