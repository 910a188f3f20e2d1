"""What a Ray cluster says of itself to who has joined none: ``python -m flserver.process.ray.asked ADDRESS`` prints it.

It is a process of its own, for Ray says a lot on standard error, may wait for minutes, and ends the process that asks
where a token's file cannot be read. What it asks with is what Ray's own commands do.
"""

import json
import sys
from typing import Any


def told(address: str) -> dict[str, Any]:
    """``python`` and ``ray`` are the cluster's versions, ``machines`` its machines that are there, each with its
    address and how many CPUs Ray counts on it. Raises what Ray does."""
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    gcs = GcsClient(address=address if ":" in address else canonicalize_bootstrap_address_or_die(address))
    versions = get_cluster_metadata(gcs)
    machines = [
        {"address": machine.node_manager_address, "cpus": machine.resources_total.get("CPU", 0.0)}
        for machine in gcs.get_all_node_info().values()
        if machine.state == GcsNodeInfo.ALIVE
    ]
    return {"python": versions["python_version"], "ray": versions["ray_version"], "machines": machines}


def main(address: str) -> None:
    """Print it as JSON, or as ``error`` of what kind it was that there is none, and what Ray says."""
    try:
        found = told(address)
    except BaseException as error:
        found = {"error": type(error).__name__, "said": str(error)}
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
