"""A Ray cluster of two nodes on this machine, and a run on it."""

import importlib.util
import os

import pytest
from safetensors.torch import load_file
from tiny_training import tiny_recipe
from torch.testing import assert_close

from lucida.apps.launch.job import make_job
from lucida.apps.launch.on_ray import run_on_ray
from lucida.core.errors import RunError
from lucida.core.recipe import dump_recipe
from lucida.training.loop import train_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a core each: no two ranks fit on one of them. Ray's processes are as urgent as
    others here; by its default they get what all others of a machine leave."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own spelling
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made.address
    made.shutdown()


@pytest.fixture
def tiny(parts, tmp_path):
    """A recipe file of one stage without dropout, so that ranks agree."""
    recipe = tiny_recipe(parts, language="language-plain")
    recipe = recipe.model_copy(update={"stages": recipe.stages[1:]})
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe))
    return recipe, file


def test_two_nodes_equal_one_process(cluster, tiny, tmp_path):
    recipe, file = tiny
    alone = train_run(recipe, tmp_path / "alone")
    folder = tmp_path / "two"
    assert run_on_ray(make_job(str(file), [], folder, nodes=2, processes=1), cluster) == 0
    mine, theirs = (load_file(each / "model.safetensors") for each in (alone, folder))
    for name, value in mine.items():
        assert_close(value, theirs[name], atol=2e-5, rtol=0, msg=name)


def test_a_rank_that_fails_ends_the_run(cluster, tiny, tmp_path):
    _, file = tiny
    job = make_job(str(file), ["stages.sft.train.langage=1e-3"], tmp_path / "x", 2, 1)
    assert run_on_ray(job, cluster) == 1


def test_a_cluster_without_room(cluster, tiny, tmp_path, monkeypatch):
    from lucida.apps.launch import on_ray

    monkeypatch.setattr(on_ray, "PATIENCE", 2.0)
    _, file = tiny
    with pytest.raises(RunError, match="no room for 2 nodes of 3 ranks"):
        run_on_ray(make_job(str(file), [], tmp_path / "x", 2, 3), cluster)


def test_no_cluster(tiny, tmp_path):
    _, file = tiny
    with pytest.raises(RunError, match=r"there is no Ray cluster at 127\.0\.0\.1:1"):
        run_on_ray(make_job(str(file), [], tmp_path / "x", 1, 1), "127.0.0.1:1")
