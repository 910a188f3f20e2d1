"""The containers of Kubernetes' manifests, as a cluster would make them, to be started by ``containers``."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.containers import ROOT, SEARCH, Container

ORDER = ("postgres", "head", "node", "server", "haproxy")
"""A cluster starts all at once, and what fails again; here they come in this order."""

CREATE = re.compile(r"^kubectl -n flserver create secret generic (\w+) .*--from-file=%s ' (.*)\)$", re.MULTILINE)


def secrets_made() -> dict[str, set[str]]:
    """Of which files the handbook makes which Secret."""
    handbook = (ROOT / "ops" / "README.md").read_text(encoding="utf-8")
    return {name: set(files.split()) for name, files in CREATE.findall(handbook)}


class Manifests:
    """``changed`` are lines of ConfigMaps that whoever has a cluster adapts; Secrets are made from the files in
    ``secrets``; volumes are kept in ``folder``."""

    subnet = "10.244.7"
    """Of the pods' addresses."""

    def __init__(self, path: Path, changed: Mapping[str, str], secrets: Path, folder: Path) -> None:
        self._all = [one for file in sorted(path.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text())]
        self._changed, self._secrets, self._folder = changed, secrets, folder
        self._configs = {one["metadata"]["name"]: one["data"] for one in self._all if one["kind"] == "ConfigMap"}

    def containers(self) -> list[Container]:
        """In the order in which they are started here."""
        owners = {one["metadata"]["name"]: one for one in self._all if "template" in one.get("spec", {})}
        assert set(owners) == set(ORDER)
        return [container for name in ORDER for container in self._of(owners[name])]

    def _of(self, owner: Mapping[str, Any]) -> Iterator[Container]:
        spec, kind = owner["spec"], owner["kind"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        labels = spec["template"]["metadata"]["labels"]
        # One of HAProxy's, since there is one way to it here.
        count = 1 if kind == "Deployment" else spec.get("completions") or spec["replicas"]
        for number in range(count):
            name = f"{owner['metadata']['name']}-{number}"
            index = {"JOB_COMPLETION_INDEX": str(number)} if kind == "Job" else {}
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            volumes |= {claim["metadata"]["name"]: {"claim": name} for claim in spec.get("volumeClaimTemplates", ())}
            user = pod["securityContext"]["runAsUser"]
            found = {target: self._volume(name, volumes[volume], user) for target, volume in mounts.items()}
            yield Container(
                name=name,
                image=container["image"].rpartition("/")[2].partition(":")[0],
                user=user,
                command=(*container.get("command", ()), *container.get("args", ())),
                environment={**dict(self._environment(container)), **index},
                mounts={target: place for target, place in found.items() if place is not None},
                memory=tuple(target for target, place in found.items() if place is None and target != "/dev/shm"),
                names=tuple(self._names(labels)),
                outside=labels["app"] == "haproxy",
                health=tuple(self._health(container["readinessProbe"])),
            )

    def _environment(self, container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for source in container.get("envFrom", ()):
            for name, value in self._configs[source["configMapRef"]["name"]].items():
                yield name, self._changed.get(name, value)
        for variable in container.get("env", ()):
            if "value" in variable:
                yield variable["name"], variable["value"]
            else:
                wanted = variable["valueFrom"]["secretKeyRef"]
                assert wanted["key"] in secrets_made()[wanted["name"]]
                yield variable["name"], (self._secrets / wanted["key"]).read_text()

    def _names(self, labels: Mapping[str, str]) -> Iterator[str]:
        for service in self._all:
            if service["kind"] == "Service" and service["spec"]["selector"].items() <= labels.items():
                yield from (service["metadata"]["name"], f"{service['metadata']['name']}.{SEARCH}")

    def _volume(self, pod: str, volume: Mapping[str, Any], user: int) -> Path | None:
        """A folder with what the pod sees there; None for an empty one in memory."""
        if "emptyDir" in volume:
            return None
        if "secret" in volume:
            names = secrets_made()[volume["secret"]["secretName"]]
            if items := volume["secret"].get("items"):
                assert {item["key"] for item in items} <= names, volume
                names = {item["key"] for item in items}
            texts = {name: (self._secrets / name).read_bytes() for name in names}
            # fsGroup: root's, and the pod's group may read them.
            return self._made(f"{pod}-secrets", texts, group=user, mode=0o440)
        if "configMap" in volume:
            config = self._configs[volume["configMap"]["name"]]
            return self._made(f"{pod}-config", {name: text.encode() for name, text in config.items()}, user, 0o644)
        shared = volume["persistentVolumeClaim"]["claimName"] if "persistentVolumeClaim" in volume else volume["claim"]
        return self._made(shared, {}, user, 0)

    def _made(self, name: str, files: Mapping[str, bytes], group: int, mode: int) -> Path:
        place = self._folder / name
        if not place.exists():
            place.mkdir(parents=True)
            os.chown(place, 0, group)
            place.chmod(0o2775)
        # As the kubelet does it, so that all change at once: each name is a link into a folder that is one too.
        if files:
            (place / "..2026_11_27").mkdir(mode=0o755)
            (place / "..data").symlink_to("..2026_11_27")
        for file, content in files.items():
            held = place / "..2026_11_27" / file
            held.write_bytes(content)
            os.chown(held, 0, group)
            held.chmod(mode)
            (place / file).symlink_to(Path("..data", file))
        return place

    def _health(self, probe: Mapping[str, Any]) -> Iterator[str]:
        if "exec" in probe:
            yield from probe["exec"]["command"]
        elif "httpGet" in probe:
            asked = probe["httpGet"]
            yield from ("python3", "-c", "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=4)")
            yield f"http://127.0.0.1:{asked['port']}{asked['path']}"
        else:
            yield from ("bash", "-c", f": > /dev/tcp/127.0.0.1/{probe['tcpSocket']['port']}")
