"""A purge takes checkpoints from an object store as it takes them from a disk."""

import hashlib
from pathlib import Path

import pytest

from flserver import buckets
from flserver.settings.folders import ObjectPath
from tests.cli.conftest import Run
from tests.recorded_run import PLAIN, RUN
from tests.s3_server import BUCKET, S3Server

pytestmark = pytest.mark.s3


def test_what_the_record_says_is_gone_is_gone_from_the_bucket(flserver: Run, db: Path, s3: S3Server) -> None:
    folder = ObjectPath(BUCKET, "purged")
    on_disk = db.with_name(f"{db.name}.checkpoints")
    for file in on_disk.glob("*/*"):
        data = file.read_bytes()
        buckets.put(folder / file.parent.name / file.name, [data], hashlib.sha256(data).digest())
    there, others = buckets.listed(folder / RUN)[0], buckets.listed(folder / PLAIN)[0]
    assert len(there) == 3
    purge = ("--db", db, "purge", "--what", "checkpoints", "--run", "night", "--checkpoint-dir", folder)
    assert flserver(*purge)[0] == 0
    assert buckets.listed(folder / RUN)[0] == there, "it is only said what would go"
    code, out, err = flserver(*purge, "--yes")
    assert (code, out.splitlines()[-1], err) == (0, "purged", "")
    assert buckets.listed(folder / RUN)[0] == []
    assert buckets.listed(folder / PLAIN)[0] == others
    assert len([*on_disk.glob("*/*")]) == len(there) + len(others), "and what lies elsewhere stays"
    deleted = "SELECT COUNT(*) AS n FROM v1_rounds WHERE run_id = :run_id AND checkpoint_deleted_at IS NULL"
    counted = ("--db", db, "query", deleted, "--run", "night", "--format", "csv")
    assert flserver(*counted)[1].split() == ["n", "0"]
    buckets.put(folder / RUN / there[0], [b"x"], hashlib.sha256(b"x").digest())
    assert "is deleted by the record, and still there" in flserver(*purge, "--yes")[1]
    assert buckets.listed(folder / RUN)[0] == [], "a purge that was interrupted is finished by the next one"
