"""The bundled host against threestudio's facts (tests/contract/facts).

Each difference must stand in the table of docs/threestudio.md, and each row of the table must
still be a difference.
"""

import pytest
from contract.collect import collect
from contract.compare import accepted, committed, covers, differences, normal
from contract.hosts import bundled, working_folder

# All of them, so that they share what is made once.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Path -> (threestudio's fact, the bundled host's)."""
    folder = tmp_path_factory.mktemp("contract")
    with pytest.MonkeyPatch.context() as patch, working_folder(folder):
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return differences(committed(), normal(collect(bundled(), folder)))


def test_bundled_host_keeps_the_contract(found):
    patterns = accepted()
    unexpected = {
        path: pair for path, pair in found.items() if not any(covers(p, path) for p in patterns)
    }
    assert unexpected == {}


def test_table_of_differences_has_no_stale_row(found):
    stale = [p for p in accepted() if not any(covers(p, path) for path in found)]
    assert stale == []


def test_facts_are_complete():
    facts = committed()
    assert len(facts["registry"]) == 55
    assert set(facts["cameras"]["train-shapes"]["0"]) > {"rays_o", "c2w", "mvp_mtx", "fovy"}
    assert "ckpts/last.ckpt" in facts["trial"]["files"]


@pytest.mark.parametrize(
    ("a", "b", "paths"),
    [
        ({"x": {"y": 1.0}}, {"x": {"y": 1.0 + 1e-6}}, []),
        ({"x": {"y": 1.0}}, {"x": {"y": 1.001}}, ["x.y"]),
        ({"x": [1, [2, 3]]}, {"x": [1, [2, 4]]}, ["x"]),
        ({"x": [1, 2]}, {"x": [1]}, ["x"]),
        ({"x": True}, {"x": 1}, ["x"]),
        ({"x": 1}, {"y": 1}, ["x", "y"]),
        ({"x": None}, {}, ["x"]),
        ({"statistics": {"m": 1.0}}, {"statistics": {"m": 1.01}}, []),
    ],
)
def test_comparison_sees_differences(a, b, paths):
    assert list(differences(a, b)) == paths
