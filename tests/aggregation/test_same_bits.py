"""The same updates make the same model, bit for bit: in whatever order, split, threads, cores and kind of processor."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from numba.core import codegen

from flserver.aggregation.checks import state_digest
from tests.aggregation.bits import SIZES, by_fedavg, by_parts
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
ORDER = tuple(range(len(SIZES)))
ORDERS = (ORDER, ORDER[::-1], (3, 0, 2, 1))


@pytest.fixture(scope="module")
def digest() -> str:
    """By this process's own loops, one update after the other."""
    return state_digest(by_fedavg(ORDER, 1))


@pytest.mark.parametrize(("order", "number"), [(ORDERS[1], 1), (ORDERS[2], 2), (ORDERS[1], 4)])
def test_order_threads_and_parts_do_not_matter(digest: str, order: tuple[int, ...], number: int) -> None:
    assert state_digest(by_fedavg(order, number)) == digest
    assert state_digest(by_parts(order, number)) == digest


def test_who_took_part_does(digest: str) -> None:
    assert state_digest(by_fedavg(ORDER[:-1], 1)) != digest


def elsewhere(asked: dict[str, Any], **env: str) -> dict[str, Any]:
    """What ``bits`` tells in a process of its own with this environment."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    command = [sys.executable, "-m", "tests.aggregation.bits", json.dumps(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_processor_of_the_oldest_kind_with_one_core_makes_the_same(digest: str) -> None:
    asked = {"order": ORDERS[1], "threads": 3, "parts": 4, "cores": 1}
    told = elsewhere(asked, ATEN_CPU_CAPABILITY="default", NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert told["digests"] == [digest] * 2
    assert told["cores"] == 1
    assert told["loops"] == "numba"
    assert (told["target"], told["capability"]) == ("generic", "DEFAULT"), "it was another one"


def test_other_vectors_more_threads_and_no_numba_make_the_same(digest: str) -> None:
    kinds = ("avx2", "default") if torch.backends.cpu.get_cpu_capability() == "AVX512" else ("default", "avx2")
    asked = {"order": ORDERS[2], "threads": 4, "parts": 2, "torch_threads": 2, "numba": False}
    told = elsewhere(asked, ATEN_CPU_CAPABILITY=kinds[0])
    assert told["digests"] == [digest] * 2
    assert (told["loops"], told["capability"]) == ("numpy", kinds[0].upper())


def test_what_numba_compiled_for_one_kind_of_processor_is_not_taken_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    @numba.njit(cache=True)
    def doubled(x: float) -> float:
        return 2.0 * x

    doubled(1.0)
    keys = []
    for target in ("generic", "znver4"):
        monkeypatch.setattr(codegen.JITCPUCodegen, "_get_host_cpu_name", lambda self, target=target: target)
        keys.append(doubled._cache._index_key(doubled.signatures[0], doubled.targetctx.codegen()))
    assert keys[0] != keys[1]
