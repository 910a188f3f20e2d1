"""What is asked of Ray, of a real cluster: threads of their own for some calls, and errors as they were raised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_cluster import RayCluster

pytestmark = pytest.mark.ray


def test_whether_a_node_is_there_is_answered_whatever_it_does_and_what_fails_there_says_whose_fault_it_is(
    tmp_path: Path, ray_cluster: RayCluster
) -> None:
    command = [sys.executable, "-m", "tests.ray_probe", ray_cluster.address, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | ray_cluster.env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == {
        "while all threads wait": True,
        "answered": [False, False, True, True],
        "of node-7": ["NodesFault", "no room", "node-7"],
        "of all": ["ActorGone", "ValueError: a defect", ""],
        "made twice": "ActorGone",
        "of what cannot be carried": "ActorGone",
        "stopped": ["ActorLate", "it has not answered within 2 s", ""],
        "killed": "ActorGone",
    }
