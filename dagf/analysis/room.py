"""The room: what perfect attention gains over GeM, and the share of it that a module takes.

A ceiling is GeM with the landmarks' exact masks (of photographs, their boxes): they weight the maps
of the database (`oracle`, and inside the scheme of windows and mask `oracle-scale-mask`), all other
pixels are blanked (`oracle-pixels`), or the head is trained with them (`oracle-trained`). A
weighting at test time alone may lose what training would have used, and the mean of the descriptors
may hide a gain: the room is that of one ceiling, with the mean or without, which `BEST` names
beforehand.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast, contrast_of, points
from dagf.analysis.tables import RUNS
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, share
from dagf.study.study import Study

CEILINGS = {  # by whether they are heads on frozen maps
    False: ("oracle", "oracle-pixels", "oracle-trained"),
    True: ("oracle", "oracle-scale-mask", "oracle-pixels", "oracle-trained"),
}
# Ceiling, whether centred: of the highest level on validation (02 shows the table).
BEST = {False: ("oracle-trained", True), True: ("oracle-scale-mask", True)}
ROOM, GAIN = "room [95 %]", "gain [95 %]"  # columns of the tables
MODULES = {  # of the abstract, as heads and end to end -> their arms
    True: {
        "spatial attention": "spatial",
        "channel attention": "channel",
        "scale and mask": "scale-mask",
        "all three, network fixed": "dagf",
    },
    False: {"all three": "dagf"},  # and how deep it is trained
}


class Gain(NamedTuple):
    """What an arm gains over GeM, beside the room. level: GeM's mAP in per cent."""

    level: float
    gain: Contrast
    room: Contrast
    share: Interval

    @property
    def verdict(self) -> str:
        """What follows: of the gain, or that there is no room to gain anything in."""
        if self.room.verdict != "above":
            return "no room shown"
        return {"above": "gains", "below": "loses"}.get(self.gain.verdict, "no gain shown")

    def cells(self) -> dict[str, str]:
        """Return the cells that show it."""
        none = math.isnan(self.share.mean)
        percent = "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * one for one in self.share))
        return {
            "verdict": self.verdict,
            GAIN: self.gain.joint.signed,
            ROOM: self.room.joint.signed,
            "share of the room": "–" if none else percent,
            "GeM": f"{self.level:.1f}",
            "detectable gain": f"{self.gain.smallest:.2f}",
            RUNS: self.gain.runs,
        }


def gains(study: Study, arms: Sequence[str], heads: bool) -> list[Gain]:
    """Return what each arm gains over GeM on the middle setting, beside the room.

    The arms and GeM are as they are; the best ceiling may be without the mean.
    """
    (ceiling, centred), setting = BEST[heads], study.test.middle.name
    levels: Any = points(study, ("gem", *arms), setting, heads=heads)
    best: Any = points(study.centred if centred else study, [ceiling], setting, heads=heads)
    gem, clusters = levels["gem"], study.test.clusters()
    reached = best[ceiling] - gem
    room = contrast_of(reached, clusters, VARIANTS[ceiling].title, VARIANTS["gem"].title, setting)
    found = []
    for arm in arms:
        gain = contrast(study, arm, "gem", setting, heads=heads)
        took = share(levels[arm] - gem, reached, clusters[gem.index])
        found.append(Gain(gem.mean(axis=None), gain, room, took))
    return found


def ceiling_table(study: Study, heads: bool) -> pd.DataFrame:
    """Return a row for each ceiling, with the mean of the descriptors and without.

    Columns: ceiling, descriptors, GeM (mAP in per cent), room (in points, with its interval over
    seeds and landmarks), the smallest room that would have been shown, runs.
    """
    rows = []
    for centred, words in ((False, "as they are"), (True, "without their mean")):
        shown, setting = study.centred if centred else study, study.test.middle.name
        gem = points(shown, ["gem"], setting, heads=heads).mean(axis=None)
        for arm in CEILINGS[heads]:
            one = contrast(shown, arm, "gem", setting, heads=heads)
            row = {
                "ceiling": one.what,
                "descriptors": words,
                "GeM": f"{gem:.1f}",
                ROOM: one.joint.signed,
                "smallest to show": f"{one.smallest:.2f}",
                RUNS: one.runs,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def module_table(study: Study) -> pd.DataFrame:
    """Return what each module of the abstract, and the whole, gains of the room, a row each.

    Where nothing is trained end to end, as heads alone.
    """
    rows = [
        {"module": module if heads else f"{module}, {study.profile.depth}", **one.cells()}
        for heads, arms in MODULES.items()
        if heads or not study.profile.frozen
        for module, one in zip(arms, gains(study, [*arms.values()], heads), strict=True)
    ]
    return pd.DataFrame(rows)


def attention_table(study: Study, arms: Sequence[str]) -> pd.DataFrame:
    """Return a row for each attention or mask, as a head: what it takes of the room."""
    found = gains(study, arms, heads=True)
    return pd.DataFrame([{"method": one.gain.what, **one.cells()} for one in found])
