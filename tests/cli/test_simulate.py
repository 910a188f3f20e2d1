"""What ``flserver simulate`` refuses before it opens a connection, and the script that it writes."""

import json
import socket
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from flserver.errors import UsageError
from flserver.settings import hosts
from flserver.simulation.parts import Part
from tests.cli.conftest import Run, lines, refused


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_a_target_that_is_not_this_machine_is_refused(flserver: Run, host: str) -> None:
    answer = flserver("simulate", "--host", host, "--server-port", 50052)
    refused(
        answer, f"--host {host} is {host}, which is not this machine: a fleet is a load that nobody may put on others'"
    )
    assert "--target-is-mine" in answer[2]


def test_what_was_looked_at_is_what_is_connected_to(flserver: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = ["127.0.0.9", "192.0.2.1"], list[str]()

    def resolve(host: str, port: int, option: str) -> list[hosts.Address]:
        asked.append(host)
        return [(socket.AF_INET, (answers[len(asked) - 1], port))]

    def plays(part: Part) -> NoReturn:
        raise UsageError(f"connects to {part.where}")

    monkeypatch.setattr("flserver.settings.hosts.addresses", resolve)
    monkeypatch.setattr("flserver.simulation.processes.ProcessPart", plays)
    code, _, err = flserver("simulate", "--host", "mine.example", "--server-port", 50052, "--trainers", 1)
    assert (code, "('127.0.0.9', 50052)" in err) == (2, True)
    assert asked == ["mine.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9", "::1"])
def test_a_target_that_is_this_machine_is_tried(flserver: Run, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.cli.play.play", lambda *_: 0)
    assert flserver("simulate", "--host", host, "--server-port", 50052)[0] == 0


def test_with_the_word_that_it_is_mine_another_machine_is_tried(flserver: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flserver.cli.play.play", lambda *_: 0)
    assert flserver("simulate", "--host", "192.0.2.1", "--server-port", 50052, "--target-is-mine")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--train",), "--train needs --data"),
        (("--no-play",), "--no-play needs --script FILE"),
        (("--part", "1/2"), "--part is for a server that is there: give its --server-port"),
        (("--host", "localhost"), "--host is for a server that is there"),
        (("--server-port", 1, "--model", "a:b"), "--model is for a server of its own"),
        (("--server-port", 1, "--", "--seed", "1"), "what stands after -- is for a server of its own"),
        (("--tls-cert", "a.pem"), "--tls-cert needs --tls-ca"),
        (("--tls-ca", "ca.pem", "--tls-key", "a.key"), "--tls-key needs --tls-cert"),
        (("--tls-ca", "ca.pem"), "ca.pem is no file of certificates in PEM form: No such file"),
        (("--part", "3/2"), "3/2 is not of the form 2/8"),
        (("--part", "0/2"), "0/2 is not of the form 2/8"),
        (("--drop-out", "1.1"), "--drop-out"),
        (("--trainers", 100_000_000), "--trainers"),
    ],
)
def test_what_does_not_go_together_is_refused(flserver: Run, arguments: tuple[object, ...], reason: str) -> None:
    refused(flserver("simulate", *arguments), reason)


def test_more_trainers_than_descriptors_are_refused_with_what_is_missing(
    flserver: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    answer = flserver("simulate", "--trainers", 5000, "--processes", 1)
    refused(answer, "5000 trainers in 1 process: a process of trainers needs 5064 descriptors, and may have 4096: ")
    assert "more --processes, or ulimit -Hn 5064" in answer[2]
    two = ("simulate", "--trainers", 5000, "--processes", 2)
    refused(flserver(*two), "its server needs 11700 descriptors")
    answer = flserver(*two, "--", "--num-rounds", "1", "--ingest", "2")
    refused(answer, "5000 trainers in 2 processes: a node of its server needs 5950 descriptors, and may have 4096")


def test_a_cluster_needs_ray_and_somebody_who_answers(flserver: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(flserver("simulate", "--ray-address", "10.0.0.1:6379"), "--ray-address needs Ray: ")
    monkeypatch.setattr("flserver.cluster.ray.find_spec", lambda name: name)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        refused(flserver("simulate", "--ray-address", address), f"--ray-address {address}: no cluster answers there")


def test_a_script_is_written_once_and_read_from_then_on(flserver: Run, tmp_path: Path) -> None:
    path = tmp_path / "fleet.jsonl"
    written = ("simulate", "--script", path, "--no-play", "--json")
    code, said, _ = flserver(*written, "--trainers", 12, "--lie", 0.5, "--seed", 3)
    assert (code, json.loads(said)) == (0, {"script": str(path), "trainers": 12})
    text = path.read_text()
    assert len(text.splitlines()) == 12
    written = written[:-1]
    assert lines(flserver(*written)) == [f"{path}: 12 trainers"]
    assert path.read_text() == text
    refused(flserver(*written, "--trainers", 13, "--lie", 0.1), "leave --lie, --trainers out")
    path.write_text(text + "{}\n")
    refused(flserver(*written), f"--script {path}, line 13: not a trainer of a script: 'id' is missing")
    refused(flserver("simulate", "--script", tmp_path, "--no-play"), f"cannot read --script {tmp_path}")
    refused(flserver("simulate", "--script", tmp_path / "no" / "x", "--no-play"), "cannot write --script")
