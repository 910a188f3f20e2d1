"""The examples of containers and pods: that compose and Kubernetes take them, what both say alike, what is hardened."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flserver.settings import SERVER_SETTINGS
from tests.patience import PATIENCE

OPS = Path(__file__).resolve().parents[1] / "ops"
COMPOSE = sorted((OPS / "container").glob("*.yml"))
MANIFESTS = sorted((OPS / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.30"
CLUSTER = OPS / "container" / "cluster.yml"
PODS = ("Job", "StatefulSet", "Deployment")
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

Example = dict[str, Any]


@cache
def compose_rules() -> Any:
    """The Compose Specification's own schema, as check-jsonschema has it."""
    rules = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(rules.read_text(encoding="utf-8"))
    return jsonschema.validators.validator_for(schema)(schema)


def wrong_in_compose(example: Example) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in compose_rules().iter_errors(example)]


def wrong_in_kubernetes(example: Example) -> list[str]:
    """By the schemas of its API, in which no unknown field is."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(example, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error.message)]
    return []


def manifests() -> list[Example]:
    return [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def of_kind(*kinds: str) -> list[Example]:
    return [one for one in manifests() if one["kind"] in kinds]


def services(path: Path = CLUSTER) -> dict[str, Example]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["services"])


def containers() -> Iterator[tuple[str, Example, Example]]:
    """Of each pod its name, what it is, and each of its containers."""
    for owner in of_kind(*PODS):
        pod = owner["spec"]["template"]["spec"]
        for container in pod["containers"]:
            yield owner["metadata"]["name"], pod, container


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_is_one_by_its_schema(path: Path) -> None:
    assert wrong_in_compose(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_manifests_are_such_by_the_schemas_of_kubernetes() -> None:
    found = {f"{one['kind']} {one['metadata']['name']}": wrong_in_kubernetes(one) for one in manifests()}
    assert len(found) > 25
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def misspelt(example: Example) -> None:
    example["restartpolicy"] = example.pop("restart", "on-failure")


def of_a_wrong_type(example: Example) -> None:
    example["tmpfs"] = 7


@pytest.mark.parametrize("spoil", [misspelt, of_a_wrong_type])
def test_the_schema_of_compose_finds_what_is_wrong(spoil: Callable[[Example], None]) -> None:
    example = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    spoil(example["services"]["coordinator"])
    assert wrong_in_compose(example) != []


@pytest.mark.parametrize(("field", "value"), [("replica", 2), ("template", 7), ("completions", "two")])
def test_the_schemas_of_kubernetes_find_what_is_wrong(field: str, value: object) -> None:
    (job,) = deepcopy(of_kind("Job"))
    job["spec"][field] = value
    assert wrong_in_kubernetes(job) != []


def test_all_containers_are_hardened_and_bounded() -> None:
    alone = services(OPS / "container" / "compose.yml")["flserver"]
    assert alone["read_only"] is True
    assert (alone["cap_drop"], alone["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["healthcheck"], name
        assert service["restart"] in ("unless-stopped", "on-failure"), name
        assert re.search(r":\S*\d", service["image"]) or "build" in service, f"{name}: which version?"
    for name, pod, container in containers():
        assert container["securityContext"] == RESTRICTED, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name  # else FLSERVER_… and RAY_… come from Services' names
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}, name
        assert "readinessProbe" in container, name


def test_only_haproxy_can_be_reached_from_outside() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["haproxy"]
    networks = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))["networks"]
    assert networks["private"]["internal"] is True
    assert [name for name, service in services().items() if "trainers" in service["networks"]] == ["haproxy"]
    open_doors = [one for one in of_kind("Service") if one["spec"].get("type", "ClusterIP") != "ClusterIP"]
    assert [one["spec"]["selector"] for one in open_doors] == [{"app": "haproxy"}]
    shut, *policies = sorted(of_kind("NetworkPolicy"), key=lambda one: one["metadata"]["name"] != "nobody")
    assert shut["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    from_anywhere = [
        one["metadata"]["name"] for one in policies for rule in one["spec"].get("ingress", ()) if "from" not in rule
    ]
    assert from_anywhere == ["haproxy"]


def test_every_port_of_the_firewalls_table_is_open_between_machines_and_no_other() -> None:
    rows = re.findall(r"^\| (\d{4,}[\d, to]*) \| .*`--[a-z-]+` \|$", (OPS / "README.md").read_text(), re.MULTILINE)
    listed = {port for cell in rows for port in ports_of(cell)}
    (policy,) = (one for one in of_kind("NetworkPolicy") if one["metadata"]["name"] == "ray")
    for way in ("ingress", "egress"):
        (rule,) = policy["spec"][way]
        opened = {
            port for ports in rule["ports"] for port in range(ports["port"], ports.get("endPort", ports["port"]) + 1)
        }
        assert opened == listed, way
    script = (OPS / "container" / "on-ray").read_text()
    assert {int(port) for port in re.findall(r"-port=(\d+)", script)} <= listed


def ports_of(cell: str) -> set[int]:
    numbers = [int(number) for number in re.findall(r"\d+", cell)]
    return set(range(numbers[0], numbers[1] + 1)) if " to " in cell else set(numbers)


@pytest.mark.parametrize(
    ("name", "key", "file"),
    [
        ("haproxy", "haproxy.cfg", "haproxy/cluster.cfg"),
        ("init-postgres", "init-postgres.sh", "container/init-postgres.sh"),
    ],
)
def test_what_stands_in_two_files_is_the_same(name: str, key: str, file: str) -> None:
    (found,) = (one for one in of_kind("ConfigMap") if one["metadata"]["name"] == name)
    assert found["data"][key] == (OPS / file).read_text(encoding="utf-8")


def test_the_same_settings_stand_in_both_examples_and_each_is_one() -> None:
    def settings_in(environment: dict[str, str]) -> set[str]:
        return {name for name in environment if name.startswith("FLSERVER_")}

    data = {one["metadata"]["name"]: one["data"] for one in of_kind("ConfigMap")}
    composed = {name: service.get("environment", {}) for name, service in services().items()}
    assert settings_in(data["settings"]) == settings_in(composed["coordinator"]) == settings_in(composed["standby"])
    known = {f"FLSERVER_{setting.name.upper().replace('-', '_')}" for setting in SERVER_SETTINGS}
    assert settings_in(data["settings"]) <= known
    assert data["ray"].keys() < composed["coordinator"].keys()
    # One of both begins the run.
    assert "JOB_COMPLETION_INDEX" not in composed["coordinator"]
    assert composed["standby"]["JOB_COMPLETION_INDEX"] != "0"


def test_a_stop_is_waited_for_longer_than_the_grace() -> None:
    (grace,) = (setting.default for setting in SERVER_SETTINGS if setting.name == "stop-grace")
    (job,) = of_kind("Job")
    assert job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 2 * grace
    for name in ("coordinator", "standby"):
        assert float(services()[name]["stop_grace_period"].removesuffix("s")) > 2 * grace


def test_no_secret_stands_in_them_and_each_that_they_need_is_made() -> None:
    made = set(
        re.findall(
            r"[a-z-]+(?:\.crt|\.key|\.csv)|[a-z]+-password|pgpass|ray-token",
            (OPS / "container" / "secrets").read_text(),
        )
    )
    needed = set(yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))["secrets"])
    assert of_kind("Secret") == []
    for _, pod, container in containers():
        for volume in pod["volumes"]:
            needed |= {item["key"] for item in volume.get("secret", {}).get("items", ())}
        for variable in container.get("env", ()):
            needed |= {variable["valueFrom"]["secretKeyRef"]["key"]} if "valueFrom" in variable else set()
    assert needed <= made
    assert len(needed) == 11


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Runs a script of the image with programs that only say how they were called; ``show`` knows of the run ``there``.
    Each program says its process too: what has taken the script's place has the script's."""
    for name in ("flserver", "ray"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "$$ {name} $*" >> "{tmp_path}/said"\n[ "$1 $2" != "show $MISSING" ] || exit 2\n'
            f'if [ "$1 $2" = "show $AWAY" ] && [ ! -e "{tmp_path}/asked" ]; then\n'
            f'  touch "{tmp_path}/asked"; echo "flserver: postgresql://db cannot be read: no route"; exit 2\nfi\n'
        )
        (tmp_path / name).chmod(0o755)

    def run(script: str, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD": "head:6379"}
        path["RAY_TMPDIR"] = str(tmp_path / "tmp")
        command = [OPS / "container" / script, *arguments]
        process = subprocess.Popen(command, env=path | environment, stderr=subprocess.DEVNULL)
        code = process.wait(PATIENCE)
        said = (tmp_path / "said").read_text().splitlines() if (tmp_path / "said").exists() else []
        (tmp_path / "said").unlink(missing_ok=True)
        return code, [line.replace(f"{process.pid} ", "in its place: ", 1) for line in said]

    return run


@pytest.mark.parametrize(
    ("environment", "becomes"),
    [
        ({"MISSING": "night"}, "--resume"),
        ({"MISSING": "night", "JOB_COMPLETION_INDEX": "0"}, "--resume"),
        ({"MISSING": "night", "JOB_COMPLETION_INDEX": "1"}, "--standby"),
        ({"MISSING": "day"}, "--standby"),
        ({"AWAY": "night"}, "--standby"),
        ({"MISSING": "day", "JOB_COMPLETION_INDEX": "1"}, "--standby"),
    ],
)
def test_only_the_first_server_begins_a_run_and_only_where_there_is_none(
    run: Callable[..., tuple[int, list[str]]], environment: dict[str, str], becomes: str
) -> None:
    code, said = run("serve", FLSERVER_RUN_NAME="night", **environment)
    assert code == 0
    assert said[-1] == f"in its place: flserver {becomes}"


def test_a_container_is_a_machine_of_ray_and_has_one_process_to_stop(run: Callable[..., tuple[int, list[str]]]) -> None:
    _, (head,) = run("on-ray", "head")
    _, (node,) = run("on-ray", "node", RAY_CPUS="3")
    _, (raylet, server) = run("on-ray", "server", "flserver", "--standby")
    assert head.startswith("in its place: ray start --node-ip-address=")
    assert all(option in head for option in ("--block", "--head", "--include-dashboard=false", "--num-cpus=0"))
    assert node.startswith("in its place: ray start ")
    assert all(option in node for option in ("--block", "--address=head:6379", "--num-cpus=3"))
    assert " ray start " in raylet
    assert "--num-cpus=0" in raylet
    assert "--block" not in raylet
    assert server == "in its place: flserver --standby"


def test_a_machine_is_well_when_this_start_of_it_has_joined(
    run: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    assert run("on-ray", "check") == (1, [])
    joined = tmp_path / "tmp" / "ray" / "ray_current_cluster"
    joined.parent.mkdir(parents=True)
    joined.touch()
    run("on-ray", "node")
    assert not joined.exists()


def test_a_container_of_no_known_kind_is_none(run: Callable[..., tuple[int, list[str]]]) -> None:
    assert run("on-ray", "worker") == (2, [])
