"""What the settings name, seen without torch: what is fine passes, whatever way it is written."""

import socket
import sys
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.process.names import BUILT_IN_MODEL, check_names
from flserver.settings import DATASETS, STRATEGIES, server_settings
from tests.listening import SETTINGS, listening


@pytest.mark.parametrize(
    "given",
    [
        {},
        *({"host": host} for host in ("localhost", "127.0.0.2", "0.0.0.0", "", "::1", "[::1]", "fe80::1%lo")),
        *({"model": model} for model in (BUILT_IN_MODEL, "torchvision:resnet18", "lab.nets:Net")),
        *({"strategy": strategy} for strategy in (*STRATEGIES, "lab.fl:Median")),
        *({"eval_data": name} for name in DATASETS),
        {"evaluate": "lab:f"},
        {"initial_weights": "night:3"},
        {"initial_weights": "weights.safetensors"},
    ],
    ids=str,
)
def test_a_name_that_is_there_passes(given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.py").touch()
    (tmp_path / "weights.safetensors").touch()
    check_names(server_settings(given))


def test_digits_need_a_library_that_is_not_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"--eval-data digits needs scikit-learn: .*pip install 'flserver\[demo\]'"):
        check_names(server_settings({"eval_data": "digits"}))


def test_the_weights_that_a_run_began_with_need_not_be_there_any_more_once_it_has_begun() -> None:
    settings = server_settings({"initial_weights": "gone.safetensors", "resume": True})
    check_names(settings, begun=True)
    with pytest.raises(UsageError, match=r"--initial-weights gone\.safetensors: there is no such file"):
        check_names(settings)


def test_a_ray_cluster_needs_ray_and_nodes_to_run_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="say how many with --ingest"):
        server_settings({"ray_address": "10.0.0.1:6379"})
    monkeypatch.setitem(sys.modules, "ray", None)
    check_names(server_settings({"ingest": 2}))
    none = server_settings({"ingest": 2, "ray_address": ""})
    check_names(none)
    assert none.ingest.ray_address is None
    with pytest.raises(UsageError, match=r"--ray-address needs Ray: .*pip install 'flserver\[ray\]'"):
        check_names(server_settings({"ingest": 2, "ray_address": "10.0.0.1:6379"}))


def test_a_ray_cluster_that_nobody_answers_for_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.cluster.ray.find_spec", lambda name: name)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{somebody.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"--ray-address {address}: no cluster answers there \(.*refused"):
            check_names(server_settings({"ingest": 2, "ray_address": address}))
    asked = list[tuple[str, int]]()
    monkeypatch.setattr("flserver.process.names.require_room", lambda *what: asked.append(what))
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        with pytest.raises(UsageError, match=rf"--ray-address {address}: who listens there does not answer as a Ray"):
            check_names(server_settings({"ingest": 2, "ray_address": address}))
    with listening(SETTINGS) as address:
        check_names(server_settings({"ingest": 2, "ray_address": address}))
    check_names(server_settings({"ingest": 3, "ray_address": "auto"}))
    assert asked == [(address, 2), ("auto", 3)]
