"""The branched architecture: which parameters its tasks share. Shapes: B batch, M tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import agents
import envs
from agents.sac import SAC
from mtrl.config.schema import dump_yaml, parse_yaml, resolve_config
from mtrl.errors import BadInput
from mtrl.networks.hard_sharing.branched import Branched
from mtrl.policies.distral import Distral
from mtrl.testing import check_architecture
from mtrl.testing.small_runs import make_agent
from tests.agents.constants import CONTINUOUS

PAIRS = [[1.0, 0.9, 0.1, 0.0], [0.9, 1.0, 0.2, 0.1], [0.1, 0.2, 1.0, 0.8], [0.0, 0.1, 0.8, 1.0]]
TREE = ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 2, 2))


agents.register()
envs.register()


def network_of(**settings: Any) -> Branched:
    return Branched(3, 2, 4, Branched.Config(width=8, **settings))


@pytest.fixture
def relations(tmp_path: Path) -> Path:
    path = tmp_path / "relations.json"
    path.write_text(json.dumps({"affinity": PAIRS, "tasks": ["a", "b", "c", "d"]}))
    return path


@pytest.mark.parametrize("branches", [(1,), (2, 3), (3, 2)])
def test_learned_trees_keep_the_contract(branches: tuple[int, ...]) -> None:
    check_architecture(Branched, Branched.Config(width=8, branches=branches))


def test_a_given_tree_learns_as_the_paths_of_its_tasks_say() -> None:
    network = network_of(tree=TREE)
    for task, shared in ((0, [1, 1, 1]), (3, [1, 0, 0])):
        network.zero_grad()
        output = network(torch.ones(1, 3), torch.tensor([task]))
        output.representation.sum().backward()
        reached = [network.first.weight.grad.view(1, 8, 3)] + [layer.weight.grad for layer in network.layers]
        # The first node of every layer is on the way of task 0.
        assert [int(bool(gradient[0].any())) for gradient in reached] == shared


def test_tasks_with_the_same_parents_get_the_same_representation() -> None:
    features = torch.randn(1, 3, generator=torch.Generator().manual_seed(1)).expand(4, 3)
    given = network_of(tree=TREE)(features, torch.arange(4)).representation
    assert torch.equal(given[2], given[3])
    assert not torch.allclose(given[0], given[1])
    learned = network_of(branches=(1, 2, 4))
    start = learned(features, torch.arange(4)).representation
    assert torch.equal(start[0], start[3])  # equal logits: all take the first parent
    with torch.no_grad():
        learned.logits()[-1][0, 3] = 1.0  # task 0 moves to the last node
        learned.logits()[-2][3, 1] = 1.0  # whose parent is the second node below
    moved = learned(features, torch.arange(4)).representation
    assert torch.equal(moved[1:], start[1:])
    assert not torch.allclose(moved[0], start[0])


def test_gumbel_noise_samples_parents_by_their_probability() -> None:
    network = network_of(branches=(2,))
    with torch.no_grad():
        network.logits()[-1][:] = torch.tensor([0.0, 1.0])
    noise = torch.rand(20_000, network.noise_size, generator=torch.Generator().manual_seed(1))
    choices = network.choose(network.logits()[-1][0].expand(20_000, 2), noise)
    assert choices[:, 1].mean().item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.01)
    output = network(torch.ones(1, 3), torch.tensor([2]))
    torch.testing.assert_close(output.diagnostics["branch_1"][0], torch.tensor([0.0, 1.0]).softmax(0))


def test_a_learned_tree_moves_a_task_to_the_node_that_serves_it() -> None:
    network = network_of(branches=(2,))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    tasks = torch.arange(4).repeat(16)
    with torch.no_grad():  # the second node is blind
        network.first.weight.view(2, 8, 3)[1] = 0.0
    for _ in range(60):
        features = torch.randn(64, 3, generator=generator)
        noise = torch.rand(64, network.noise_size, generator=generator)
        loss = (network(features, tasks, noise).values[:, 0] - features[:, 0].relu()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        network.first.weight.grad.view(2, 8, 3)[1] = 0.0
        optimizer.step()
    assert network.logits()[-1].argmax(1).tolist() == [0, 0, 0, 0]


def test_a_relations_file_gives_the_tree_once(relations: Path) -> None:
    config = Branched.Config(width=8, branches=(1, 2, 3), relations=str(relations))
    assert (config.tree, config.relations) == (((0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 1, 2)), None)
    document = {"name": "branched", "branches": [1, 2], "relations": str(relations)}
    text = dump_yaml(resolve_config({"suite": "point-mass", "architecture": document}))
    relations.unlink()
    assert parse_yaml(text, "config.yaml").architecture.config.tree == ((0, 0, 0, 0), (0, 0, 1, 1))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"relations": "nowhere.json"}, "nowhere.json cannot be read as a relations.json"),
        ({"branches": []}, "branches .* a network has one layer at least"),
        ({"tree": [[0, 0], [0, 1, 2]]}, "layers are of different numbers of tasks"),
        ({"tree": [[0, 1, 2, 2], [0, 0, 1, 1]]}, "joins tasks that the layer before has apart"),
        ({"tree": [[0, -1]]}, "architecture.tree"),
    ],
)
def test_bad_trees_are_refused_in_one_line(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(BadInput, match=fault) as error:
        resolve_config({"suite": "point-mass", "architecture": {"name": "branched", **settings}})
    assert "\n" not in str(error.value)


def test_unknown_affinities_and_too_many_branches_give_no_tree(tmp_path: Path, relations: Path) -> None:
    with pytest.raises(BadInput, match="groups: 5 is not allowed; must be 1 to the number of tasks, 4"):
        Branched.Config(branches=(1, 5), relations=str(relations))
    relations.write_text(json.dumps({"affinity": [[0, None], [None, 0]], "tasks": ["a", "b"]}))
    with pytest.raises(BadInput, match="unknown"):
        Branched.Config(branches=(1, 2), relations=str(relations))


def test_the_tree_of_a_file_follows_the_names_of_its_tasks(relations: Path) -> None:
    config = Branched.Config(width=8, branches=(1, 2, 3), relations=str(relations))
    assert config.tasks == ("a", "b", "c", "d")
    assert Branched.config_for(config, ("c", "a", "d", "b")).tree == ((0, 0, 0, 0), (1, 0, 1, 0), (1, 0, 2, 0))
    with pytest.raises(BadInput, match=r"architecture\.tree is of the tasks a, b, c, d, and the suite has a, b, c, e"):
        Branched.config_for(config, ("a", "b", "c", "e"))


def test_a_tree_of_another_number_of_tasks_is_refused() -> None:
    with pytest.raises(BadInput, match=r"architecture\.tree is of 4 tasks, and the suite has 3"):
        Branched(3, 2, 3, Branched.Config(width=8, tree=TREE))


def test_a_single_task_goes_one_way_through_a_given_tree() -> None:
    network = Branched(3, 2, 1, Branched.Config(width=8, tree=TREE))
    assert network.sizes == [1, 1, 1]
    assert network(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)).values.shape == (2, 2)


def test_distral_makes_its_common_policy_of_a_given_tree() -> None:
    given: dict[str, Any] = {
        "architecture": Branched,
        "architecture_config": Branched.Config(width=8, tree=((0, 0, 0), (0, 1, 1))),
    }
    policy = make_agent(SAC, SAC.Config(), CONTINUOUS.spec, policy=Distral, **given).policy
    assert (policy.common.sizes, policy.task.sizes) == ([1, 1], [1, 2])
