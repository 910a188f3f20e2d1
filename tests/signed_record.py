"""A record whose heads are signed, and the key's files."""

from pathlib import Path

from flserver.heads.keys import PrivateKey
from flserver.process.signing import signer
from flserver.settings.policies import server_settings
from flserver.store.schema import ensure_head
from tests import facts
from tests.store import story

LOG = PrivateKey.generate("log.example/a")


def signed_record(folder: Path) -> Path:
    """The story's run, 300 events more and their heads; ``folder`` gets ``key`` and ``key.pub`` too."""
    path, key = folder / "runs.sqlite", folder / "key"
    LOG.write(key)
    ensure_head(path)
    sign = signer(server_settings({"sign_key": str(key)}).store)
    told = story.sound_run()
    for begin in range(0, len(told), 15):  # each a transaction, and a head where one is due
        story.write(path, told[begin : begin + 15], sign=sign)
    story.write(path, [facts.state_changed() for _ in range(300)], sign=sign)
    story.write(path, story.left_over(), run_id=story.LEFT, process_id=2, sign=sign)
    return path
