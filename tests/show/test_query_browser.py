"""The query browser: rankings against the study's own and a network built anew; its controls."""

from dataclasses import replace

import pytest

from dagf.analysis.cam import look
from dagf.analysis.grid import WINDOW_SETS
from dagf.console import HEADLESS
from dagf.model.network import AttentiveHead
from dagf.model.variants import DAGF, VARIANTS
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate, means
from dagf.retrieval.rerank import RERANKINGS
from dagf.retrieval.search import similarities
from dagf.show import query_browser
from dagf.show.pictures import address, heated, thumbnail
from dagf.show.query_browser import OWN, TOP, Explorer, View, start
from dagf.study.config import RunConfig
from dagf.study.study import Study
from tests.fixtures import fails

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def explorer(toy: Study) -> Explorer:
    return Explorer(toy)


def test_what_is_offered(toy: Study, explorer: Explorer, trained: list[RunConfig]) -> None:
    heads = {f"{arm} head" for arm in toy.profile.plan(heads=True).arms if VARIANTS[arm].trainable}
    plain = {f"{arm} untrained" for arm, made_of in VARIANTS.items() if not made_of.attentive}
    assert set(explorer.arms) == {"gem", "dagf"} | heads | plain
    assert explorer.arms["dagf"] == toy.run("dagf")
    assert explorer.arms["dagf head"] == toy.run("dagf", heads=True)
    assert explorer.arms["gem untrained"] == toy.untrained("gem", 0)
    assert View("dagf head").title == "DAGF, head on a frozen backbone"
    for name in explorer.arms:
        explorer.rank(0, View(name), "Medium")
    assert trained == []  # they are there already


@pytest.mark.parametrize("arm", ["dagf", "dagf head", "scale-mask untrained"])
def test_ap_is_the_studys_own(arm: str, toy: Study, explorer: Explorer) -> None:
    per_query = toy.results(explorer.arms[arm]).per_query
    averages = means(per_query)["mAP"]
    for (query, name), row in per_query.set_index(["query", "setting"]).iterrows():
        _, ap, mean = explorer.rank(query, View(arm), name)
        assert ap == pytest.approx(row["AP"], nan_ok=True)
        if (row["query_set"], name) in averages:
            assert 100 * mean == pytest.approx(averages[row["query_set"], name])


@pytest.mark.parametrize("setting", ["Easy", "Hard"])
def test_results_are_ranked_and_framed(setting: str, toy: Study, explorer: Explorer) -> None:
    rows, queries = toy.descriptors(toy.untrained("gem", 0))
    right, other = ("easy", "hard") if setting == "Easy" else ("hard", "easy")
    verdicts = {right: "right", other: "junk", "junk": "junk", "": "wrong"}
    for number, query in enumerate(toy.test.queries):
        cosines = similarities(rows[:], queries)[number].tolist()
        order = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:TOP]
        found, _, _ = explorer.rank(number, View("gem untrained"), setting)
        label = {row: name for name, rows in query.labels.items() for row in rows.tolist()}
        labels = [label.get(row, "") for row in order]
        assert found["score"].tolist() == [cosines[row] for row in order]
        assert found["file"].tolist() == [toy.test.database_paths[row] for row in order]
        assert found["label"].tolist() == labels
        assert found["verdict"].tolist() == [verdicts[label] for label in labels]


@pytest.mark.parametrize(
    ("arm", "windows", "mask"),
    [("dagf head", "average 1, 2", OWN), ("dagf head", OWN, "none"), ("dagf", "max 3", "sum")],
)
def test_other_windows_and_masks(
    arm: str, windows: str, mask: str, toy: Study, explorer: Explorer
) -> None:
    """Against a network that is built anew, on the arm's own backbone."""
    net, spec = explorer.arms[arm].network(), toy.profile.evaluation.image
    kind, sizes = (DAGF.window_kind, DAGF.windows) if windows == OWN else WINDOW_SETS[windows]
    made_of = replace(DAGF, windows=sizes, window_kind=kind, mask="max" if mask == OWN else mask)
    head = AttentiveHead(net.channels, made_of)
    head.load_state_dict(net.head.state_dict())
    net.head = head
    for query, scores in enumerate(benchmark_scores(net.eval(), toy.test, spec)[0]):
        found = explorer.rank(query, View(arm, windows, mask), "Medium")[0]["score"].tolist()
        assert found == pytest.approx(sorted(scores, reverse=True)[:TOP], abs=1e-3)
    views = View(arm), View(arm, windows, mask), View(arm, "max 1, 2, 3", "max")  # its own, by name
    plain, changed, same = (explorer.rank(0, one, "Medium")[0] for one in views)
    assert changed["score"].tolist() != plain["score"].tolist()
    assert same["score"].tolist() == pytest.approx(plain["score"].tolist(), abs=1e-3)


@pytest.mark.parametrize("name", RERANKINGS)
def test_rerankings_are_those_of_the_library(name: str, toy: Study, explorer: Explorer) -> None:
    rows, queries = toy.descriptors(toy.untrained("gem", 0))
    scores = RERANKINGS[name](rows[:], queries, 5)
    view = View("gem untrained", reranking=name, neighbours=5)
    many = replace(view, neighbours=1000)
    fails("1000 neighbours: the database has 38", explorer.rank, 1, many, "Medium")
    results, ap, _ = explorer.rank(1, view, "Medium")
    medium = evaluate(toy.test, scores).set_index(["query", "setting"])["AP"]
    assert ap == pytest.approx(medium[1, "Medium"], nan_ok=True)
    assert results["score"].tolist() == sorted(scores[1], reverse=True)[:TOP]


def test_under_several_scales_windows_and_masks_stay(toy: Study, live: None) -> None:
    study = replace(toy, profile=replace(toy.profile, scales=(1.0, 0.5)))
    per_query = study.results(toy.run("gem")).per_query.set_index(["query", "setting"])["AP"]
    found = Explorer(study).rank(0, View("gem"), "Medium")[1]
    assert found == pytest.approx(per_query[0, "Medium"])
    controls = start(study).children[1].children[0].children[0].children
    assert [one.options for one in controls[1:3]] == [(OWN,), (OWN,)]


def test_headless_is_still(toy: Study, explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEADLESS, "1")
    monkeypatch.setattr(query_browser, "widgets", None)  # whatever asks for one fails
    views = [View("dagf"), View("gem untrained", mask="sum", reranking="AQE", neighbours=5)]
    html = explorer.page(views, 1, "Medium", attention=False)
    assert html.count("<img") == 2 * (1 + TOP) and html.count("<figure>") == 2
    rankings = [explorer.rank(1, view, "Medium") for view in views]
    for verdict in ("right", "wrong", "junk"):
        expected = sum((results["verdict"] == verdict).sum() for results, _, _ in rankings)
        assert html.count(f'<li class="{verdict}">') == html.count(f" · {verdict}") == expected
    for _, ap, _ in rankings:
        assert f"AP {100 * ap:.1f} %" in html
    assert "DAGF, trained</strong> · as it is" in html
    assert "GeM, untrained</strong> · mask: sum; AQE by 5 neighbours" in html
    default = start(toy).data
    assert "DAGF, trained" in default and "GeM, trained" in default


@pytest.mark.parametrize("arm", ["dagf", "gem untrained"])
def test_where_a_network_looks_lies_over_pictures(arm: str, toy: Study, explorer: Explorer) -> None:
    html = explorer.page([View(arm)], 0, "Medium", attention=True)
    assert html.count("<img") == html.count("under a heat map") == 1 + TOP
    query, net = toy.test.queries[0], explorer.arms[arm].network()
    results = explorer.rank(0, View(arm), "Medium")[0]["file"]
    for file, box in [(toy.test.root / query.file, query.box), *((file, None) for file in results)]:
        seen = look(net, file, toy.profile.evaluation.image, box)
        plane = seen.attention if arm == "dagf" else seen.effective
        assert address(heated(thumbnail(file, box), plane)) in html


def test_controls_change_what_they_are_beside(toy: Study, explorer: Explorer, live: None) -> None:
    shared, sides = start(toy).children
    boxes = [side.children[0].children for side in sides.children]
    left, right = ({one.description: one for one in box} for box in boxes)

    def check(*views: View, query: int = 0, setting: str = "Medium", over: bool = False) -> None:
        shown = [side.children[-1].value for side in sides.children]
        assert shown == [explorer.page([view], query, setting, over) for view in views]

    check(View("dagf"), View("gem"))
    left["mask"].value, left["windows"].value = "none", "max 3"
    check(View("dagf", "max 3", "none"), View("gem"))
    right["reranking"].value, right["neighbours"].value = "diffusion", 5
    views = View("dagf", "max 3", "none"), View("gem", reranking="diffusion", neighbours=5)
    check(*views)
    for control, value in zip(shared.children, (2, "Easy", True), strict=True):
        control.value = value
    check(*views, query=2, setting="Easy", over=True)
    left["arm"].value = "mac untrained"
    check(replace(views[0], arm="mac untrained"), views[1], query=2, setting="Easy", over=True)
