"""The containers of a compose file, as ``docker compose`` would make them, to be started by ``containers``."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.containers import Container

VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


class ComposeFile:
    """``variables`` are what ``.env`` beside it says; what has volumes is kept in ``folder``."""

    def __init__(self, path: Path, variables: Mapping[str, str], folder: Path) -> None:
        text = VARIABLE.sub(lambda match: variables.get(match[1], match[2]), path.read_text(encoding="utf-8"))
        assert "${" not in text, "a variable without a default"
        self._here, self._folder = path.parent, folder
        self._all: dict[str, Any] = yaml.safe_load(text)
        (pool,) = self._all["networks"]["private"]["ipam"]["config"]
        self.subnet = pool["subnet"].removesuffix(".0/24")

    def containers(self) -> list[Container]:
        """In the order in which they can be started."""
        return [container for name in self._in_order() for container in self._of(name)]

    def _in_order(self) -> list[str]:
        services = self._all["services"]
        order: list[str] = []
        while left := [name for name in services if name not in order]:
            ready = [name for name in left if set(services[name].get("depends_on", ())) <= set(order)]
            assert ready, f"they wait for each other: {left}"
            order += ready
        return order

    def _of(self, name: str) -> Iterator[Container]:
        service = self._all["services"][name]
        image = service["image"].rpartition("/")[2].partition(":")[0]
        count = service.get("deploy", {}).get("replicas", 1)
        networks = service["networks"]
        private = networks["private"] if isinstance(networks, dict) else {}
        for number in range(1, count + 1):
            called = name if count == 1 else f"{name}-{number}"
            yield Container(
                name=called,
                image=image,
                user=int(service["user"].partition(":")[0]),
                command=(*service.get("entrypoint", ()), *service.get("command", ())),
                environment={key: str(value) for key, value in service.get("environment", {}).items()},
                mounts=dict(self._mounts(called, service)),
                memory=tuple(place.partition(":")[0] for place in service.get("tmpfs", ())),
                names=(name, *private.get("aliases", ())),
                address=private.get("ipv4_address"),
                outside="trainers" in networks,
                health=tuple(service["healthcheck"].get("test", IMAGE_HEALTH)[1:]),
            )

    def _mounts(self, called: str, service: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
        for secret in service.get("secrets", ()):
            yield f"/run/secrets/{secret}", self._here / self._all["secrets"][secret]["file"]
        volumes = {target: place for place, target, *_ in (one.split(":") for one in service.get("volumes", ()))}
        if service["image"].startswith("flserver:"):
            volumes.setdefault("/data", f"{called}-data")  # which the image has as a volume
        for target, volume in volumes.items():
            if volume.startswith("."):
                yield target, self._here / volume
                continue
            place = self._folder / volume
            if not place.exists():  # it is made as the image's folder is, which is its user's
                place.mkdir(parents=True)
                os.chown(place, *map(int, service["user"].split(":")))
            yield target, place


CONTAINERFILE = (Path(__file__).parents[2] / "ops" / "container" / "Containerfile").read_text(encoding="utf-8")
_HEALTH = re.search(r'HEALTHCHECK[^\[]*(\["python", .*\])', CONTAINERFILE)
assert _HEALTH is not None
IMAGE_HEALTH = ["CMD", *yaml.safe_load(_HEALTH[1].replace('["python"', '["python3"'))]
"""Of our image, for a service that says no other."""
