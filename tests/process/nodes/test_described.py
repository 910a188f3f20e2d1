"""What a node is told of its server's settings."""

import json

from flserver.process.nodes.child import described
from flserver.settings import server_settings
from flserver.settings.places import Address


def test_a_node_of_a_server_that_stood_by_can_be_one() -> None:
    values = {"db": Address("postgresql://db.example/runs"), "checkpoint_dir": "/models", "standby": True, "ingest": 2}
    told = json.loads(described(server_settings(values), "run", "node-1"))
    assert (told["run_id"], told["name"]) == ("run", "node-1")
    settings = server_settings(told["values"])
    assert not settings.store.standby
    assert settings.ingest.ingest == 2
