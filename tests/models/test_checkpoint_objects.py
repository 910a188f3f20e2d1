"""Checkpoints and kept updates in a real S3-speaking server: what holds of a folder holds of a bucket."""

import hashlib
import logging
from collections.abc import Callable

import pytest
import torch

from flserver import buckets
from flserver.aggregation.checks import state_digest
from flserver.buckets import client
from flserver.errors import CheckpointError, UsageError
from flserver.models.checkpoint_objects import CheckpointObjects
from flserver.models.checkpoints import checkpoints_in
from flserver.models.digests import check_file, located
from flserver.models.kept import NAME, Missing, kept_in, read_kept
from flserver.models.kept_files import check_kept_file
from flserver.models.kept_objects import KeptObjects
from flserver.models.state import State
from flserver.settings.folders import ObjectPath
from tests.s3_server import BUCKET, S3Server

pytestmark = pytest.mark.s3
FILE = "round-000001-0123456789abcdef.safetensors"
MODEL = {"w": torch.arange(300_000.0), "n": torch.tensor(7)}
OWN = {"v": torch.ones(3)}


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> ObjectPath:
    return ObjectPath(BUCKET, f"kept/{request.node.name}")


@pytest.fixture
def store(s3: S3Server, directory: ObjectPath) -> CheckpointObjects:
    store = checkpoints_in(directory, "run-1")
    store.check_place()
    store.prepare()
    assert isinstance(store, CheckpointObjects)
    return store


def overwritten(place: ObjectPath, change: Callable[[bytes], bytes]) -> None:
    with buckets.ObjectReader(place) as file:
        data = change(file.read())
    buckets.put(place, [data], hashlib.sha256(data).digest())


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_round_is_one_object_under_the_name_that_a_file_would_have(
    store: CheckpointObjects, directory: ObjectPath
) -> None:
    with store.writing(12, MODEL, OWN) as writing:
        pass
    written = writing.result()
    with buckets.ObjectReader(directory / written.path) as file:
        data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    assert (written.digest, written.size) == ("sha256:" + digest, len(data))
    assert written.path == f"run-1/round-000012-{digest[:16]}.safetensors"
    assert store.files() == {directory / written.path: 12}
    model, own = store.read(written.path, written.digest)
    assert model["w"].equal(MODEL["w"])
    assert own["v"].equal(OWN["v"])
    assert checkpoints_in(directory, "run-2").files() == {}


def test_one_changed_byte_is_noticed_and_a_missing_object_is_not_called_that(
    store: CheckpointObjects, directory: ObjectPath
) -> None:
    written = store.write(1, MODEL, {})
    overwritten(directory / written.path, flipped)
    with pytest.raises(CheckpointError, match="does not match its digest"):
        store.read(written.path, written.digest)
    store.delete(written.path)
    store.delete(written.path)
    with pytest.raises(CheckpointError, match="there is no such object") as raised:
        check_file(directory / written.path, written.digest)
    assert isinstance(raised.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("mood", ["believes", "forgets", "checks"])
def test_what_arrives_changed_is_not_taken_and_is_sent_again(
    s3: S3Server, directory: ObjectPath, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the store would notice or not: then it is read back."""
    s3.tell(mood)
    monkeypatch.setattr(client, "PAUSE", 0.001)
    store = checkpoints_in(directory, "run-1", patience=3600)
    store.prepare()
    s3.tell("spoils")
    written = store.write(1, MODEL, {})
    assert store.read(written.path, written.digest)[0]["w"].equal(MODEL["w"])
    s3.tell("spoils")
    with pytest.raises(
        CheckpointError, match=r"round 2 cannot be written: .*(not what it was given|changed on the way)"
    ):
        checkpoints_in(directory, "run-1").write(2, MODEL, {})


def test_a_store_that_checks_is_not_asked_for_the_model_again(
    s3: S3Server, directory: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.client import BaseClient

    read: list[str] = []
    call = BaseClient._make_api_call

    def noted(self: BaseClient, operation: str, request: dict[str, str]) -> object:
        if operation == "GetObject":
            read.append(request["Key"])
        return call(self, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    s3.tell("checks")
    store = checkpoints_in(directory, "run-1")
    store.prepare()
    store.write(1, MODEL, {})
    assert read == []
    s3.tell("believes")
    store.prepare()
    store.write(1, MODEL, {})
    assert len(read) == 1


def test_what_a_crash_left_of_the_next_round_goes_and_more_is_a_lost_record(
    store: CheckpointObjects, directory: ObjectPath
) -> None:
    places = {round: directory / store.write(round, {"w": torch.full((2,), round)}, {}).path for round in (0, 1, 2)}
    store.check(1)
    store.clean(1)
    assert list(store.files()) == [places[0], places[1]]
    with pytest.raises(CheckpointError, match=r"round-000001-.* is from a round after 0, .* lacks commits"):
        store.clean(-1)


@pytest.mark.parametrize("run_id", ["", "..", "a/b"])
def test_a_run_that_leads_elsewhere_is_refused(directory: ObjectPath, run_id: str) -> None:
    with pytest.raises(CheckpointError):
        checkpoints_in(directory, run_id)


@pytest.mark.parametrize("path", [f"../run-1/{FILE}", f"run-1//{FILE}", f"/{FILE}", "run-1/x", ""])
def test_a_record_that_names_something_else_is_refused(directory: ObjectPath, path: str) -> None:
    with pytest.raises(CheckpointError, match="which is no checkpoint below s3://"):
        located(directory, path)


def test_a_run_deletes_only_its_own(
    store: CheckpointObjects, directory: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    other = checkpoints_in(directory, "run-2").write(1, {"w": torch.ones(1)}, {})
    with caplog.at_level(logging.WARNING):
        store.delete(other.path)
    assert "another run's" in caplog.text
    assert buckets.exists(directory / other.path)


def test_a_bucket_that_is_not_there_and_one_that_cannot_be_written(s3: S3Server) -> None:
    elsewhere = checkpoints_in(ObjectPath("elsewhere"), "run-1")
    for look in (elsewhere.check_place, elsewhere.prepare):
        with pytest.raises(UsageError, match=r"--checkpoint-dir s3://elsewhere.*there is no bucket elsewhere"):
            look()


# --- kept updates ----------------------------------------------------------------------------------------------------


def tensors(value: float) -> State:
    return {"w": torch.full((2, 3), value), "n": torch.tensor(7)}


def names(kept: object) -> list[str]:
    assert isinstance(kept, KeptObjects)
    return kept.files()


def test_accepted_updates_stay_under_their_digests_and_others_go(s3: S3Server, directory: ObjectPath) -> None:
    kept = kept_in(directory, "run")
    for update_id, value in enumerate((1, 2, 1), 1):
        kept.keep(12, update_id, tensors(value), state_digest(tensors(value)))
    settled = kept.settle(12, [1, 3])
    digest = state_digest(tensors(1)).removeprefix("blake3:")
    assert settled == dict.fromkeys((1, 3), f"run/updates/round-000012/{digest}.safetensors")
    assert names(kept) == [settled[1]]
    check_kept_file(directory / settled[1])
    assert read_kept(directory, settled[1], state_digest)["w"].equal(tensors(1)["w"])
    overwritten(located(directory, settled[1], NAME), flipped)
    with pytest.raises(CheckpointError, match="was changed"):
        check_kept_file(directory / settled[1])
    kept.delete(12)
    with pytest.raises(Missing):
        read_kept(directory, settled[1], state_digest)


def test_what_need_not_stay_goes(s3: S3Server, directory: ObjectPath) -> None:
    kept = kept_in(directory, "run", rounds=2)
    for round in (1, 2, 3, 4):
        kept.keep(round, round, tensors(round), state_digest(tensors(round)))
    assert kept.on_disk() == [1, 2, 3, 4]
    assert kept.going(4) == [1, 2]
    kept.forget(4)
    kept.clean({2})
    assert kept.on_disk() == [2]
