"""When a head is signed, and what of a key is said before a start."""

from pathlib import Path

import pytest

from flserver import events as e
from flserver.errors import UsageError
from flserver.heads.keys import PrivateKey, opened
from flserver.heads.note import Note, PublicKey
from flserver.heads.tree import Frontier
from flserver.process.names import check_names
from flserver.process.signing import signer
from flserver.settings.policies import server_settings
from tests import facts

TREE = Frontier().extended([bytes(32)] * 5)[0]


@pytest.mark.parametrize(
    "event",
    [facts.server_started(), facts.committed(1), facts.run_ended("completed"), facts.server_stopped(3)],
    ids=lambda event: type(event).__name__,
)
def test_a_head_is_signed_after_every_round_start_stop_and_end(tmp_path: Path, event: e.Event) -> None:
    key = PrivateKey.generate("log.example/a")
    key.write(tmp_path / "key")
    sign = signer(server_settings({"sign_key": str(tmp_path / "key")}).store)
    assert sign([facts.opened(), facts.state_changed(), facts.aborted(1, 1)], TREE) is None
    signed = sign([facts.opened(), event, facts.opened()], TREE)
    assert signed is not None
    checkpoint = opened(Note.parse(signed.note), PublicKey.parse(signed.key))
    assert (signed.key, signed.size, signed.root) == (str(key.public), 5, f"sha256:{TREE.root.hex()}")
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == ("log.example/a", 5, TREE.root)


def test_without_a_key_nothing_is_signed() -> None:
    assert signer(server_settings({}).store)([facts.committed(1)], TREE) is None


def test_a_key_that_cannot_be_used_is_said_before_a_start(tmp_path: Path) -> None:
    PrivateKey.generate("a").write(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    for values, said in (
        ({"sign_key": str(tmp_path / "none")}, "--sign-key .*none: No such file"),
        ({"sign_key": str(tmp_path / "key")}, "others can read it"),
        ({"sign_key_passphrase_file": str(tmp_path / "none")}, "needs --sign-key"),
    ):
        with pytest.raises(UsageError, match=said):
            check_names(server_settings(values))
    (tmp_path / "key").chmod(0o600)
    check_names(server_settings({"sign_key": str(tmp_path / "key")}))
