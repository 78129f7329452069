"""Does longer training change the order? DAGF and the ceiling beside GeM, step by step."""

from collections.abc import Iterator
from dataclasses import replace

from dagf.analysis.contrasts import Contrast, contrast
from dagf.study.backbones import shorter
from dagf.study.profile import Ladder
from dagf.study.study import Study

CEILING = "oracle"  # GeM's own training, so that it costs none


def rungs(study: Study, ladder: Ladder) -> Iterator[tuple[str, Study]]:
    """Yield each rung, 'steps of the backbone: steps of the arms', and its study."""
    for backbone in (*ladder.backbones, None):
        started = study
        if backbone:
            started = replace(study, backbones=shorter(backbone, study.profile.seeds))
        for steps in ladder.arms:
            spec = study.profile.plan().training
            training = replace(spec, epochs=steps // ladder.epoch, steps=ladder.epoch)
            profile = replace(study.profile, arm_training=training)
            yield f"{backbone or 'kept'}: {steps}", replace(started, profile=profile)


def climb(study: Study, ladder: Ladder) -> list[Contrast]:
    """Return DAGF minus GeM, and the ceiling minus GeM, on every rung; `setting` names the rung."""
    middle = study.test.middle.name
    return [
        replace(contrast(one, arm, "gem", middle), setting=rung)
        for rung, one in rungs(study, ladder)
        for arm in ("dagf", CEILING)
    ]
