"""Ceilings are arms like the others: evaluated, or trained, with the landmarks' exact masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dagf.analysis.room import CEILINGS, MODULES, attention_table, ceiling_table, module_table
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import exact_mask, load_image, to_input
from dagf.model.network import AttentiveHead
from dagf.model.variants import variant
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.search import similarities
from dagf.study.config import TrainSpec
from dagf.study.evaluation import centred
from dagf.study.study import Study
from dagf.study.training import Objective
from tests.fixtures import Opened, copied, write_photographs

pytestmark = pytest.mark.usefixtures("one_process")
ARMS = ("gem", "oracle", "oracle-pixels", "oracle-trained")


@pytest.fixture(scope="module")
def toy(toy: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return copied(toy, tmp_path_factory.mktemp("ceilings"))


@pytest.mark.parametrize("heads", [False, True])
def test_a_ceiling_is_the_run_of_its_arm_seen_with_exact_masks(toy: Study, heads: bool) -> None:
    runs = toy.train(ARMS, [0], heads)
    gem = runs["gem", 0]
    for arm in ("oracle", "oracle-pixels"):
        assert runs[arm, 0].folder == gem.folder
        assert runs[arm, 0].weights_id != gem.weights_id
    trained = runs["oracle-trained", 0]
    assert trained.id != gem.id
    assert trained.config.image.truth == "cells"
    found = toy.evaluate(ARMS, [0], heads)
    levels = {arm: found[arm, 0].per_query["AP"].tolist() for arm in ARMS}
    assert levels["oracle"] != levels["gem"]
    assert levels["oracle-pixels"] != levels["oracle"]
    assert {one.run for one in found.values()} == {gem.id, trained.id}


@pytest.mark.parametrize("heads", [False, True])
def test_its_descriptors_are_those_of_the_masked_map(toy: Study, heads: bool) -> None:
    """Of one database image by hand: the share of landmark in each cell times its features."""
    run = toy.train(["oracle"], [0], heads)["oracle", 0]
    rows, _ = toy.descriptors(run)
    file = toy.test.database_paths[1]
    mask = np.asarray(exact_mask(file)) / np.float32(255)
    shares = mask.reshape(6, 8, 6, 8).mean((1, 3))  # 48 px, cells of 8
    net = toy.run("gem", 0, heads).network()
    with torch.inference_mode():
        features = net.backbone(to_input(load_image(file, ImageSpec(48)))[None])
        expected = net.head(features * torch.from_numpy(shares))[0]
    np.testing.assert_allclose(rows[1:2][0], expected, atol=2e-3)


@pytest.mark.parametrize("heads", [False, True])
def test_a_taught_attention_sees_masks_in_training_alone(toy: Study, heads: bool) -> None:
    run = toy.run("spatial-taught", 0, heads)
    assert run.config.image.truth == "cells"
    assert toy.evaluation(run).image.truth == "none"
    assert run.id != toy.run("spatial", 0, heads).id


def test_it_learns_by_a_cross_entropy_beside_the_loss() -> None:
    maps, labels = torch.rand(4, 9, 3, 3), torch.tensor([0, 0, 1, 1])
    head = AttentiveHead(8, variant("spatial-taught"))
    torch.nn.init.normal_(head.spatial.evaluate.relate.weight)
    objectives = [Objective(head, TrainSpec(loss="SupConLoss"), 2, 8, on) for on in (False, True)]
    plain, taught = (one(maps, labels, None) for one in objectives)
    a, exact = head.inspect(maps[:, :8]).attention[:, 0], maps[:, 8]
    entropy = -(exact * a.log() + (1 - exact) * (1 - a).log()).mean()
    torch.testing.assert_close(taught - plain, entropy)


def test_trials_are_those_of_arms_that_are_trained(toy: Study) -> None:
    assert set(toy.trials(ARMS)["arm"]) == {"gem", "oracle-trained"}


def test_centred_descriptors_lack_what_all_have_in_common(toy: Study) -> None:
    run = toy.run("gem", 0)
    rows, queries = (np.asarray(part[:], float) for part in toy.descriptors(run))
    shift = rows.mean(0)
    apart = rows - shift, queries - shift
    expected = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in apart]
    for one, other in zip(centred(rows, queries), expected, strict=True):
        np.testing.assert_allclose(one[:], other, atol=1e-6)
    per_query = toy.centred.evaluate(["gem"], [0])["gem", 0].per_query
    again = evaluate(toy.test, similarities(*(part.astype(np.float32) for part in expected)))
    np.testing.assert_allclose(per_query["AP"], again["AP"], atol=1e-6)
    assert replace(toy.centred, profile=toy.profile) == toy


def test_ceilings_of_photographs(heads_on: Opened, tmp_path: Path, backbone_weights: str) -> None:
    """Heads on frozen maps; what has no box counts whole, and no end-to-end rows are made."""
    folder = write_photographs(tmp_path / "mine", train_instances=5)
    files = sorted(file for file in (folder / "jpg").iterdir() if file.name[2] != "0")  # no query
    lines = [f"jpg/{file.name},i{file.name[0]},0,0,16,32" for file in files[:-2]]
    (folder / "boxes.csv").write_text("\n".join(["file,instance,x1,y1,x2,y2", *lines]))
    study = heads_on(folder, backbone_weights)
    found = ceiling_table(study, heads=True)
    assert len(found) == 2 * len(CEILINGS[True])
    assert module_table(study)["module"].tolist() == [*MODULES[True]]
    assert attention_table(study, ["dagf"])["method"].tolist() == ["DAGF"]
    runs = study.train(("oracle", "oracle-trained"), heads=True)
    assert runs["oracle", 0].folder == study.run("gem", 0, heads=True).folder
    assert runs["oracle-trained", 0].config.image.truth == "cells"
    row = study.test.database.index("jpg/5-1.jpg")
    with torch.inference_mode():
        image = load_image(study.test.database_paths[row], ImageSpec(32, "squash"))
        net = study.run("gem", 0, heads=True).network()
        features = net.backbone(to_input(image)[None])
        features[..., features.shape[3] // 2 :] = 0  # outside the box
        expected = net.head(features)[0]
    rows, queries = study.descriptors(runs["oracle", 0])
    np.testing.assert_allclose(rows[row : row + 1][0], expected, atol=2e-3)
    plain = study.descriptors(study.run("gem", 0, heads=True))
    np.testing.assert_allclose(queries, plain[1], atol=2e-3)
    whole = study.test.database_paths.index(study.test.distractors[0])
    np.testing.assert_allclose(rows[whole : whole + 1], plain[0][whole : whole + 1], atol=2e-3)
