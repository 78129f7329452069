"""Which drawings of Toytown are here, and whose they are."""

from dagf import paths
from dagf.datasets.toytown import toytown_spec
from dagf.study import profiles
from dagf.study.config import load_profile
from dagf.toytown.generate import ToytownSpec


def listed() -> list[str]:
    """A line for each profile's Toytown, made or not, and for each other one in the folder of data."""
    of = {
        profile.drawing.id: profile.name
        for profile in map(load_profile, profiles.names())
        if profile.toytown
    }
    folders = {
        folder.name.removeprefix("toytown-"): folder
        for folder in sorted(paths.data().glob("toytown-*"))
    }
    lines = [
        f"toytown-{name}  {profile} profile, {'here' if name in folders else 'not made'}"
        for name, profile in of.items()
    ]
    others = sorted(set(folders) - set(of))
    return lines + [f"toytown-{name}  {_about(toytown_spec(folders[name]))}" for name in others]


def _about(spec: ToytownSpec) -> str:
    kind = "" if spec.nuisances else ", control"
    return f"{spec.size} px, {spec.test_landmarks} test landmarks, {spec.distractors} distractors{kind}, here"
