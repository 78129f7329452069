"""Toytown: the same bytes from the same seed, masks that agree with the records, labels that follow from them."""

import csv
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagf.datasets.benchmark import EASY, HARD, MEDIUM
from dagf.errors import UserError
from dagf.toytown import files as toytown_files
from dagf.toytown import generate
from dagf.toytown.buildings import make_twin, parts_of, sample_building
from dagf.toytown.generate import (
    THRESHOLDS,
    ToytownSpec,
    check_toytown,
    difficulty,
    draw_distractor,
    load_mask,
    load_toytown,
    make_toytown,
    toytown_records,
    toytown_spec,
    toytown_training_images,
)
from dagf.toytown.scene import (
    CONTROL_SCALES,
    QUERY_SCALES,
    QUERY_VISIBLE,
    SCALES,
    STREAMS,
    landmark_building,
    photograph,
    twin_of,
)
from dagf.toytown.textures import facade

TINY = ToytownSpec(
    size=64,
    train_landmarks=3,
    train_views=2,
    validation_landmarks=9,
    test_landmarks=2,
    views=4,
    distractors=5,
    validation_distractors=3,
    seed=11,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toytown(TINY, tmp_path_factory.mktemp("toytown"), workers=1)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_two_workers_write_the_same_bytes_as_one(root: Path, tmp_path: Path) -> None:
    assert contents(make_toytown(TINY, tmp_path, workers=2)) == contents(root)


def test_an_image_does_not_depend_on_how_many_others_there_are(root: Path, tmp_path: Path) -> None:
    more = dataclasses.replace(
        TINY, validation_landmarks=2, views=6, train_views=3, distractors=8, test_landmarks=4
    )
    other = contents(make_toytown(more, tmp_path, workers=1))
    shared = [
        name
        for name, data in contents(root).items()
        if name in other and not name.endswith((".csv", ".json"))
    ]
    assert len(shared) == 2 * 3 * 2 + 9 * 2 + 9 * 2 + 5 + 3  # train; validation; test; distractors
    mine = contents(root)
    assert all(mine[name] == other[name] for name in shared)


def test_another_seed_gives_other_images_and_another_folder(root: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(TINY, seed=12)
    assert other.id != TINY.id
    mine = photograph(11, STREAMS["test"], 0, 1, 64).image
    assert np.abs(mine.astype(int) - photograph(12, STREAMS["test"], 0, 1, 64).image).mean() > 5


def test_layout_and_training_labels(root: Path) -> None:
    assert root.name == f"toytown-{TINY.id}"
    assert toytown_spec(root) == TINY
    files, labels = toytown_training_images(root)
    assert labels == [0, 0, 1, 1, 2, 2]
    assert all(cv2.imread(str(file)).shape == (64, 64, 3) for file in files)
    assert not list((root / "test" / "masks").glob("*query*"))
    assert len(list((root / "test" / "masks").glob("*.png"))) == 2 * 4


def test_making_it_again_draws_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_draw_all", None)
    assert make_toytown(TINY, root.parent) == root


@pytest.mark.parametrize("split", ["train", "validation"])
def test_masks_agree_with_the_records(root: Path, split: str) -> None:
    records = toytown_records(root, split)
    rows = records[records.role.isin(["train", "database"])]
    assert len(rows) > 5
    for row in rows.itertuples():
        mask = load_mask(root, split, row.file)
        assert mask.shape == (64, 64)
        assert mask.mean() == pytest.approx(row.scale, abs=1e-4)
        ys, xs = np.nonzero(mask)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (row.x1, row.y1, row.x2, row.y2)


def test_records_hold_what_the_difficulty_was_made_from(root: Path) -> None:
    records = toytown_records(root, "validation")
    assert records.role.value_counts().to_dict() == {"database": 36, "query": 9, "distractor": 3}
    assert records[records.role == "distractor"].landmark.eq(-1).all()
    query = records[records.role == "query"].set_index("landmark").azimuth
    database = records[records.role == "database"]
    turns = (database.azimuth - database.landmark.map(query)).abs()
    assert np.allclose(turns, database.turn, atol=0.01)
    assert [difficulty(row) for row in database.to_dict("records")] == database.difficulty.tolist()
    assert set(records.columns) == set(generate.COLUMNS)


def test_twins_are_named_only_where_the_split_holds_both(root: Path) -> None:
    records = toytown_records(root, "validation").query("landmark >= 0")
    twins = records.groupby("landmark").twin.first().to_dict()
    assert twins == {0: 1, 1: 0, **dict.fromkeys(range(2, 9), -1)}  # 8's twin would be 9


def test_ground_truth_is_the_records_as_a_benchmark(root: Path) -> None:
    benchmark = load_toytown(root, "validation")
    records = toytown_records(root, "validation")
    database = records[records.role == "database"].reset_index(drop=True)
    assert list(benchmark.database) == database.file.tolist()
    assert benchmark.settings == (EASY, MEDIUM, HARD)
    for number, query in enumerate(benchmark.queries):
        for label in ("easy", "hard", "junk"):
            mine = database[(database.landmark == number) & (database.difficulty == label)]
            assert query.labels[label].tolist() == mine.index.tolist()
        row = records[records.file == query.file].iloc[0]
        assert row.role == "query"
        assert query.box == (row.x1, row.y1, row.x2, row.y2)
    assert query.file not in benchmark.database
    assert all(path.is_file() for path in benchmark.database_paths)
    assert all((benchmark.root / query.file).is_file() for query in benchmark.queries)
    assert len(benchmark.distractors) == 3
    assert len(load_toytown(root, "test", distractors=2).distractors) == 2


def test_the_distractors_of_the_splits_are_disjoint_and_unlimited(root: Path) -> None:
    files = sorted((root / "distractors").rglob("*.jpg"))
    assert len({file.read_bytes() for file in files}) == len(files) == 8
    assert draw_distractor(TINY, 123_456).shape == (64, 64, 3)
    drawn, stored = (
        draw_distractor(TINY, 4),
        cv2.imread(str(root / "distractors/test/jpg/distractor_0000004.jpg")),
    )
    assert (
        np.abs(drawn.astype(int) - stored[..., ::-1]).mean() < 12
    )  # the same picture but for the JPEG


def test_landmarks_of_the_splits_are_disjoint() -> None:
    buildings = [
        landmark_building(5, stream, number) for stream in STREAMS.values() for number in range(40)
    ]
    assert len(set(buildings)) == 4 * 40


def test_a_quarter_of_the_landmarks_has_a_twin() -> None:
    twins = [twin_of(number) for number in range(80)]
    assert sum(twin is not None for twin in twins) == 20
    assert all(twin_of(twin) == number for number, twin in enumerate(twins) if twin is not None)


def test_twins_differ_in_details_only() -> None:
    elder, twin, stranger = (landmark_building(5, STREAMS["test"], number) for number in (8, 9, 10))
    same = {"material", "wall", "trim", "roof", "roof_colour", "floors", "bays", "tower", "storey"}
    assert all(getattr(elder, name) == getattr(twin, name) for name in same)
    assert elder.door != twin.door
    assert elder.ornament != twin.ornament
    assert stranger.wall != elder.wall
    fronts = [facade(building, "front", 5.0)[..., :3].astype(float) for building in (elder, twin)]
    assert fronts[0].shape == fronts[1].shape
    changed = (np.abs(fronts[0] - fronts[1]).max(-1) > 40).mean()
    assert 0.01 < changed < 0.5  # details of the front, while most of the wall stays as it was


def sample(count: int, role: str, nuisances: bool = True) -> list[toytown_files.Photograph]:
    return [
        photograph(3, STREAMS["validation"], number, 1, 48, role, nuisances)
        for number in range(count)
    ]


def test_views_keep_their_ranges_and_have_no_centre_bias() -> None:
    shots = sample(220, "database")
    scales = np.array([shot.scale for shot in shots])
    assert SCALES[0] <= scales.min() < 0.06
    assert 0.35 < scales.max() <= SCALES[1]
    centres = np.array([((s.box[0] + s.box[2]) / 96, (s.box[1] + s.box[3]) / 96) for s in shots])
    assert np.abs(centres.mean(0) - 0.5).max() < 0.08  # no side is preferred ...
    small = centres[scales < 0.10]  # a large landmark cannot be far from the middle
    # ... and the middle quarter of the image holds little more than its share of them (a landmark of a tenth of the
    # image, wholly inside and uniformly placed, would be there in half of all cases; a centred one always).
    assert ((np.abs(small - 0.5) < 0.25).all(1)).mean() < 0.5
    assert np.mean([shot.visible < 0.7 for shot in shots]) > 0.1  # occlusion happens
    assert np.mean([shot.clutter > 0.1 for shot in shots]) > 0.3
    azimuths = np.array([shot.azimuth for shot in shots])
    assert azimuths.min() < -55
    assert azimuths.max() > 55


def test_queries_are_good_photographs() -> None:
    shots = sample(60, "query")
    assert all(QUERY_SCALES[0] <= shot.scale <= QUERY_SCALES[1] for shot in shots)
    assert min(shot.visible for shot in shots) >= QUERY_VISIBLE


def test_the_control_has_neither_clutter_nor_occlusion_nor_scale() -> None:
    shots = sample(40, "database", nuisances=False)
    assert all(shot.clutter == 0 and shot.visible == 1 for shot in shots)
    assert all(CONTROL_SCALES[0] <= shot.scale <= CONTROL_SCALES[1] for shot in shots)
    centres = np.array([((s.box[0] + s.box[2]) / 96, (s.box[1] + s.box[3]) / 96) for s in shots])
    assert np.abs(centres - 0.5).max() < 0.3


def record(**changed: float) -> dict[str, float]:
    return {"visible": 1.0, "scale": 0.3, "turn": 10.0, "clutter": 0.1, **changed}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (record(), "easy"),
        (record(visible=THRESHOLDS["easy"]["visible"]), "easy"),
        (record(visible=THRESHOLDS["easy"]["visible"] - 0.001), "hard"),
        (record(scale=THRESHOLDS["easy"]["scale"] - 0.001), "hard"),
        (record(turn=THRESHOLDS["easy"]["turn"] + 0.01), "hard"),
        (record(clutter=THRESHOLDS["easy"]["clutter"] + 0.01), "hard"),
        (record(visible=THRESHOLDS["junk"]["visible_below"]), "hard"),
        (record(visible=THRESHOLDS["junk"]["visible_below"] - 0.001), "junk"),
        (record(scale=THRESHOLDS["junk"]["scale_below"] - 0.001), "junk"),
        (record(turn=THRESHOLDS["junk"]["turn_above"] + 0.01), "junk"),
    ],
)
def test_difficulty_follows_from_the_thresholds(values: dict[str, float], expected: str) -> None:
    assert difficulty(values) == expected
    assert difficulty(pd.Series(values).to_dict()) == expected


RANK = {"easy": 0, "hard": 1, "junk": 2}


@given(
    visible=st.floats(0, 1),
    scale=st.floats(0, 1),
    turn=st.floats(0, 180),
    clutter=st.floats(0, 1),
    worse=st.floats(0, 0.5),
)
def test_a_worse_view_is_never_easier(
    visible: float, scale: float, turn: float, clutter: float, worse: float
) -> None:
    before = RANK[difficulty(record(visible=visible, scale=scale, turn=turn, clutter=clutter))]
    for change in (
        record(visible=visible - worse, scale=scale, turn=turn, clutter=clutter),
        record(visible=visible, scale=scale - worse, turn=turn, clutter=clutter),
        record(visible=visible, scale=scale, turn=turn + 90 * worse, clutter=clutter),
        record(visible=visible, scale=scale, turn=turn, clutter=clutter + worse),
    ):
        assert RANK[difficulty(change)] >= before


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ordinary=st.booleans(), twin=st.booleans())
def test_every_building_is_a_sound_body(seed: int, ordinary: bool, twin: bool) -> None:
    rng = np.random.default_rng(seed)
    building = sample_building(rng, ordinary)
    if twin:
        building = make_twin(building, rng)
    for group in parts_of(building):
        for part in group:
            assert part.faces or part.radius > 0
            for face in part.faces:
                assert np.linalg.norm(face.normal) == pytest.approx(1)
                assert np.abs((face.polygon - face.rect[0]) @ face.normal).max() < 1e-6  # planar
                assert (face.rect.mean(0) - part.centre) @ face.normal > -1e-9  # it faces outwards


@settings(max_examples=25, deadline=None)
@given(
    landmark=st.integers(0, 5000),
    view=st.integers(0, 5000),
    role=st.sampled_from(["train", "database", "query"]),
)
def test_any_photograph_is_consistent(landmark: int, view: int, role: str) -> None:
    shot = photograph(9, STREAMS["train"], landmark, view, 48, role)
    assert shot.image.shape == (48, 48, 3)
    assert shot.image.std() > 3
    assert shot.scale == pytest.approx(shot.mask.mean())
    assert shot.scale + shot.clutter <= 1
    x1, y1, x2, y2 = shot.box
    assert shot.mask[y1:y2, x1:x2].sum() == shot.mask.sum()
    assert 0 < shot.visible <= 1


def test_an_interrupted_make_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(job: toytown_files.Job) -> list[toytown_files.Record]:
        calls.append(job)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return toytown_files.write_views(job)

    monkeypatch.setattr(generate, "write_views", fail)
    with pytest.raises(KeyboardInterrupt):
        make_toytown(TINY, tmp_path, workers=1)
    root = tmp_path / f"toytown-{TINY.id}"
    assert not root.exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    with pytest.raises(UserError, match=r"not a whole Toytown.*dagf data make"):
        load_toytown(root, "test")


def test_a_missing_file_is_named_with_the_remedy(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / root.name
    shutil.copytree(root, broken)
    (broken / "test" / "jpg" / "00001_003.jpg").unlink()
    with pytest.raises(
        UserError, match=r"lacks test/jpg/00001_003.jpg: delete .* `dagf data make`"
    ):
        check_toytown(broken)
    with pytest.raises(UserError, match="00001_003"):
        make_toytown(TINY, tmp_path)
    shutil.rmtree(broken / "distractors" / "test" / "jpg")
    with pytest.raises(UserError, match="and 5 more files"):
        check_toytown(broken)


def test_mistakes_are_explained(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        make_toytown(TINY, tmp_path / "file")
    with pytest.raises(UserError, match="did you mean 'validation'"):
        load_toytown(root, "validatoin")
    with pytest.raises(UserError, match="unknown Toytown split 'train'"):
        load_toytown(root, "train")
    with pytest.raises(UserError, match="has 5 distractors"):
        load_toytown(root, "test", distractors=6)
    with pytest.raises(UserError, match="only training and database images"):
        load_mask(root, "test", "00000_query.jpg")
    with pytest.raises(UserError, match="size is 20 pixels"):
        ToytownSpec(size=20)
    with pytest.raises(UserError, match="views is 0"):
        ToytownSpec(views=0)


def test_the_id_follows_every_value_and_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = [dataclasses.replace(TINY, nuisances=False), dataclasses.replace(TINY, distractors=6)]
    assert len({TINY.id, *(spec.id for spec in changed)}) == 3
    before = TINY.id
    monkeypatch.setattr(generate, "generator_hash", lambda: "another")
    assert TINY.id != before


def test_records_are_plain_csv(root: Path) -> None:
    with (root / "test" / "records.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 5
    assert rows[0]["role"] == "query"
    assert rows[0]["difficulty"] == ""
