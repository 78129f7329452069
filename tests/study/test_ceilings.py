"""Ceilings are arms like the others: evaluated, or trained, with the landmarks' exact masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dagf.datasets.images import ImageSpec, load_image, to_input
from dagf.datasets.toytown import load_mask
from dagf.model.network import AttentiveHead
from dagf.model.variants import variant
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.search import similarities
from dagf.study.config import TrainSpec
from dagf.study.evaluation import centred
from dagf.study.study import Study
from dagf.study.training import Objective
from tests.fixtures import copied

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
    mask = load_mask(toy.toytown, "test", file.name).astype(np.float32)
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


def test_every_ceiling_but_the_trained_one_shares_a_run() -> None:
    shared = {arm: variant(arm).learned_as for arm in ARMS}
    assert shared == {"gem": "", "oracle": "gem", "oracle-pixels": "gem", "oracle-trained": ""}
