"""A study's queries answered under choices that are made one by one: what the query browser shows.

Nothing is trained here. What is offered is trained already, or has nothing to learn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.analysis.cam import Plane, look
from dagf.analysis.grid import WINDOW_SETS
from dagf.analysis.photographs.reranking import COUNTS, NOTHING, RERANKINGS
from dagf.datasets.benchmark import Box, Setting
from dagf.errors import UserError, choose
from dagf.model.network import MapEncoder, RetrievalNet, Variant
from dagf.model.scale_mask import ScaleAndMask
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.search import Descriptors, similarities
from dagf.study.runs import Run
from dagf.study.study import Key, Study

OWN = "its own"
WINDOWS = (OWN, *WINDOW_SETS)
MASKS = (OWN, "none", "max", "sum")  # one draw of the random mask says nothing about one query
RERANKED = (NOTHING, *RERANKINGS)


@dataclass(frozen=True)
class View:
    """One way of answering queries.

    arm: a name from `offered`. windows: `OWN`, or a name from `grid.WINDOW_SETS`. mask: one of `MASKS`. What
    the arm has learned stays as it is under other windows or another mask. reranking: one of `RERANKED`. neighbours:
    the count of `dagf.analysis.photographs.reranking.RERANKINGS`.

    Raises `UserError` for windows, a mask or a re-ranking of another name.
    """

    arm: str
    windows: str = OWN
    mask: str = OWN
    reranking: str = NOTHING
    neighbours: int = 10

    def __post_init__(self) -> None:
        choose("windows", self.windows, WINDOWS)
        choose("mask", self.mask, MASKS)
        choose("re-ranking", self.reranking, RERANKED)


@dataclass(frozen=True)
class Arm:
    """A network that is there: its title, what the study knows it by, and what its head is made of."""

    title: str
    of: Run | Key
    made_of: Variant


def offered(study: Study) -> dict[str, Arm]:
    """What can answer at once, on the first seed, by name.

    'dagf' was trained as the profile says, 'dagf head' in its sweep; 'gem untrained' has no attention to learn, and
    stands on the backbone of that seed. Raises `UserError` where there is nothing yet.
    """
    found: dict[str, Arm] = {}
    for heads, suffix, how in (
        (False, "", "trained"),
        (True, " head", "head on a frozen backbone"),
    ):
        for arm, run in _finished(study, heads):
            if all(
                run != other.of for other in found.values()
            ):  # on a frozen backbone the two ways may be one
                found[arm + suffix] = Arm(f"{VARIANTS[arm].title}, {how}", run, run.config.variant)
    if _has_backbone(study):
        for arm, made_of in VARIANTS.items():
            if not made_of.attentive:
                found[f"{arm} untrained"] = Arm(
                    f"{made_of.title}, untrained", (arm, study.profile.seeds[0]), made_of
                )
    if not found:
        raise UserError(
            f"{study.title}: nothing is trained under profile {study.profile.name}; run notebook 02 first"
        )
    return found


def _finished(study: Study, heads: bool) -> Iterator[tuple[str, Run]]:
    if study.training is None or (heads and study.profile.heads is None):
        return
    for arm in study.plan(heads).arms:
        if variant(arm).trainable or not (heads or study.profile.frozen):
            tried = study.trial_configs(arm, heads).values()
            if all(study.store.find(config) for config in tried):  # else the rate is not chosen yet
                run = study.store.find(study.chosen_config(arm, study.profile.seeds[0], heads))
                if run:
                    yield arm, run


def _has_backbone(study: Study) -> bool:
    """Whether the first seed's backbone has learned something, here or elsewhere."""
    if study.profile.backbone_training is None:
        return study.backbone.pretrained
    backbone = study.backbone_config(study.profile.seeds[0]) if study.training else None
    return backbone is not None and study.store.find(backbone) is not None


@dataclass(frozen=True)
class Result:
    """A database image in a ranking: its rank from 1, its score, its label ('' for a negative).

    verdict: 'right', 'wrong' or 'junk' under the setting that was asked for.
    """

    rank: int
    score: float
    file: Path
    label: str
    verdict: str


@dataclass(frozen=True)
class Answer:
    """The first results of a query, its AP, and the mAP of all queries of its set; both in [0, 1], NaN for none."""

    results: tuple[Result, ...]
    ap: float
    mean: float


class Explorer:
    """The queries of a study under any `View`. What was computed last is kept in memory, so that changes are quick.

    Other windows and masks work on kept feature maps; those of an arm whose backbone was trained with it are made when
    they are first asked for.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.arms = offered(study)
        self._extract = lru_cache(maxsize=8)(self._extracted)
        self._net = lru_cache(maxsize=4)(self._network)
        self._score = lru_cache(maxsize=16)(self._scores)
        self._evaluate = lru_cache(maxsize=64)(self._evaluated)

    @property
    def changeable(self) -> bool:
        """Whether windows and mask can be changed: maps are kept at one scale, and a whitening belongs to its head."""
        return self.study.profile.scales == (1.0,) and not self.study.profile.whitening

    @property
    def counts(self) -> list[int]:
        """The neighbour counts to offer: those that the database has."""
        return [count for count in COUNTS if count < len(self.study.test.database_paths)]

    def query(self, asked: int | str) -> int:
        """A query's number, from itself or from the name of its file; a `UserError` where there is none."""
        names = [Path(query.file).name for query in self.study.test.queries]
        if isinstance(asked, str):
            return names.index(choose("query", asked, names))
        if not 0 <= asked < len(names):
            raise UserError(
                f"query {asked}: {self.study.title} has {len(names)} queries, numbered from 0"
            )
        return asked

    def setting(self, name: str = "") -> Setting:
        """A setting of the benchmark by name, the middle one for ''; a `UserError` for an unknown one."""
        known = {setting.name: setting for setting in self.study.test.settings}
        return known[choose("setting", name, known)] if name else self.study.test.middle

    def made_of(self, view: View) -> Variant:
        """What the head of a view is made of; a `UserError` for an arm that is not offered or cannot be changed."""
        made_of = self.arms[choose("arm", view.arm, self.arms)].made_of
        if not self.changeable and (view.windows, view.mask) != (OWN, OWN):
            raise UserError(
                f"profile {self.study.profile.name} describes at several scales or whitens: there windows and mask stay"
            )
        if view.windows != OWN:
            kind, windows = WINDOW_SETS[view.windows]
            made_of = replace(made_of, windows=windows, window_kind=kind)
        return made_of if view.mask == OWN else replace(made_of, mask=view.mask)

    def answer(self, query: int | str, view: View, setting: str = "", top: int = 8) -> Answer:
        """The first `top` results of a query, and its AP as the study counts it.

        Raises `UserError` for a query, a setting or an arm that is not there, and for more neighbours than rows.
        """
        number, asked = self.query(query), self.setting(setting)
        scores, per_query = self._score(view)[number], self._evaluate(view, asked.name)
        shown = self.study.test.queries[number]
        positives, junk = (set(rows.tolist()) for rows in shown.relevance(asked))
        labels = {int(row): label for label, rows in shown.labels.items() for row in rows}
        files, results = self.study.test.database_paths, []
        for rank, row in enumerate(np.argsort(-scores, kind="stable")[:top].tolist(), 1):
            verdict = "right" if row in positives else "junk" if row in junk else "wrong"
            results.append(
                Result(rank, float(scores[row]), files[row], labels.get(row, ""), verdict)
            )
        mean = per_query.loc[per_query["query_set"] == shown.query_set, "AP"].mean()
        return Answer(tuple(results), float(per_query["AP"].iloc[number]), float(mean))

    def looked(self, view: View, file: Path, box: Box | None = None) -> Plane:
        """Where the network looks, (H, W): its attention, or how strong its features are where it has none."""
        seen = look(
            self._net(view.arm, self.made_of(view)), file, self.study.profile.evaluation_image, box
        )
        return seen.effective if seen.attention is None else seen.attention

    def _network(self, arm: str, made_of: Variant) -> RetrievalNet:
        net = self.study.network(self.arms[arm].of)
        pooling = (
            net.head.scale_and_mask.pooling
        )  # what it has learned; windows and masks have no parameters
        net.head.scale_and_mask = ScaleAndMask(
            pooling, made_of.windows, made_of.window_kind, made_of.mask
        )
        return net.eval()

    def _extracted(self, arm: str, made_of: Variant) -> tuple[Descriptors, Descriptors]:
        of = self.arms[arm].of
        if made_of == self.arms[arm].made_of:  # just as the study describes, to the bit
            rows, queries = self.study.descriptors(of)
            return np.asarray(rows[:], np.float32), queries
        backbone = of.backbone_id if isinstance(of, Run) else self.study.backbone_id(of[1])
        net = self._network(
            arm, made_of
        )  # not the one that is looked through: this one may move to a GPU
        return self.study.test_maps(net, backbone).extract(MapEncoder(net.head))

    def _scores(self, view: View) -> NDArray[np.floating]:
        """(queries, rows): all queries at once, for the mean over them and because k-reciprocal asks for the others."""
        rows, queries = self._extract(view.arm, self.made_of(view))
        if view.reranking == NOTHING:
            return similarities(rows, queries)
        return RERANKINGS[view.reranking](rows, queries, view.neighbours)

    def _evaluated(self, view: View, setting: str) -> pd.DataFrame:
        return evaluate(self.study.test, self._score(view), [self.setting(setting)])
