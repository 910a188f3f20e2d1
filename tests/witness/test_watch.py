"""A witness cosigns what extends all that it saw, and finds every rewritten past at its next look."""

import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.errors import HeadError, NoHead, Rewritten, UsageError
from flserver.heads.keys import PrivateKey, cosigned_at, opened
from flserver.heads.note import WITNESS, Checkpoint, Note
from flserver.heads.proofs import Extension
from flserver.witness import keeping
from flserver.witness.keeping import Memory, heads_in, read_note
from flserver.witness.view import extended
from flserver.witness.watch import Fetch, Seen, fetcher, look
from tests.witness.log import KEY, Log

OWN = PrivateKey.generate("site", WITNESS)
Look = Callable[[Fetch], Seen | None]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    found = Memory(tmp_path / "state")
    with found.held():
        return found


@pytest.fixture
def see(memory: Memory) -> Look:
    return lambda fetch: look(fetch, KEY.public, OWN, memory, lambda: 1_700_000_000.5)


def test_heads_that_extend_each_other_are_cosigned_and_kept(see: Look, memory: Memory, tmp_path: Path) -> None:
    log, asked = Log().grow(7), []

    def fetch(since: int | None) -> str:
        asked.append(since)
        return log.fetch(since)

    first = see(fetch)
    assert first is not None
    assert (first.size, first.before) == (7, None)
    assert see(fetch) is None, "nothing new"
    log.grow(300)
    second = see(fetch)
    assert second is not None
    assert (second.size, second.before) == (307, 7)
    assert asked == [None, 7, 7]
    for seen in (first, second):
        assert opened(seen.cosigned, KEY.public).size == seen.size
        assert cosigned_at(seen.cosigned, OWN.public) == 1_700_000_000
    kept = [note for _, note in heads_in(tmp_path / "state")]
    assert kept[:2] == [first.cosigned, second.cosigned]
    assert memory.newest is not None
    assert memory.newest.text == second.cosigned.text


def test_a_thousand_rewritten_pasts_are_each_found_at_the_next_look() -> None:
    """Each: a leaf changed, removed, inserted, moved, or the end cut off and other ones grown; always well signed."""
    choose = random.Random(11)
    honest = Log().grow(200)
    for number in range(1000):
        size = choose.randrange(2, 200)
        seen = extended(None, Extension.parse(Log(honest.leaves[:size]).fetch(None)), KEY.public)
        told = Log(honest.leaves[: choose.randrange(size, 201)])
        at = choose.randrange(size)
        match number % 5:
            case 0:
                told.leaves[at] = secrets.token_bytes(32)
            case 1:
                del told.leaves[at]
            case 2:
                told.leaves.insert(at, secrets.token_bytes(32))
            case 3:
                other = choose.choice([place for place in range(size) if place != at])
                told.leaves[at], told.leaves[other] = told.leaves[other], told.leaves[at]
            case 4:
                del told.leaves[at:]
                told.grow(choose.randrange(0, 200))
        with pytest.raises(Rewritten, match=r"went back|two heads|was rewritten"):
            extended(seen, Extension.parse(told.fetch(seen.size)), KEY.public)


def test_a_rewritten_past_is_evidence_and_changes_nothing(see: Look, memory: Memory) -> None:
    log = Log().grow(20)
    see(log.fetch)
    before = memory.newest
    forged = log.forked().grow(5)
    forged.leaves[3] = secrets.token_bytes(32)
    for _ in range(2):
        with pytest.raises(Rewritten, match="was rewritten: no proof that its 25 events begin with the 20") as caught:
            see(forged.fetch)
    assert memory.newest == before
    evidence = Path(str(caught.value).rpartition(" ")[2])
    assert opened(Extension.parse(evidence.read_text()).head, KEY.public).size == 25
    log.grow(1)
    assert see(log.fetch) is not None, "the true one goes on"


def test_a_split_view_is_found_by_whoever_has_seen_the_other_side(see: Look) -> None:
    log = Log().grow(20)
    one, other = log.forked().grow(10), log.forked().grow(10)
    see(log.fetch)
    see(one.fetch)
    with pytest.raises(Rewritten, match="two heads of 30 events"):
        see(other.fetch)
    with pytest.raises(Rewritten, match="went back: it had 30 events, and shows 20"):
        see(log.fetch)


@pytest.mark.parametrize("size", [0, 1, 20])
def test_what_the_key_has_not_signed_is_no_head_and_no_accusation(see: Look, memory: Memory, size: int) -> None:
    see(Log().grow(20).fetch)
    before = memory.newest
    for key in (PrivateKey.generate(KEY.public.name), PrivateKey.generate("another")):
        with pytest.raises(HeadError) as caught:
            see(Log(key=key).grow(size).fetch)
        assert not isinstance(caught.value, Rewritten)
    for text in ("", "old 20\n\n", "<html>", "old 3\n\n" + Log().grow(25).fetch(None)):
        with pytest.raises(HeadError) as caught:
            see(lambda since, text=text: text)
        assert not isinstance(caught.value, Rewritten)
    assert memory.newest == before


def test_nothing_is_signed_that_is_not_remembered(
    see: Look, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(keeping.os, "fsync", lambda file: steps.append("fsync"))
    monkeypatch.setattr(keeping.os, "replace", lambda source, to: steps.append(to.parent.name))
    monkeypatch.setattr(PrivateKey, "cosign", lambda *given: steps.append("sign") or OWN_SIGNATURE)
    see(Log().grow(3).fetch)
    assert steps == ["fsync", "state", "fsync", "sign", "fsync", "heads", "fsync"]


OWN_SIGNATURE = OWN.cosign(KEY.sign(3, bytes(32)), 1)


def test_a_disk_that_is_full_leaves_nothing_signed(
    see: Look, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keeping.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            see(Log().grow(3).fetch)
    assert memory.newest is None
    assert list((tmp_path / "state" / "heads").iterdir()) == []


def test_a_head_that_was_remembered_and_not_signed_is_signed_at_the_next_look(see: Look, memory: Memory) -> None:
    log = Log().grow(3)
    memory.remember(Extension.parse(log.fetch(None)).head)  # killed here
    seen = see(log.fetch)
    assert seen is not None
    assert seen.size == 3
    assert see(log.fetch) is None


def test_a_damaged_memory_is_no_beginning(see: Look, tmp_path: Path) -> None:
    see(Log().grow(3).fetch)
    (tmp_path / "state" / "newest").write_text("x")
    with pytest.raises(HeadError, match="newest"):
        see(Log().grow(3).fetch)


def test_a_witness_that_lost_its_newest_head_goes_on_from_the_largest_that_it_cosigned(
    see: Look, tmp_path: Path
) -> None:
    log = Log()
    for count in (7, 300, 1000):
        log.grow(count)
        see(log.fetch)
    (tmp_path / "state" / "newest").unlink()
    with pytest.raises(Rewritten):
        see(Log().grow(2000).fetch)
    log.grow(5)
    seen = see(log.fetch)
    assert seen is not None
    assert (seen.size, seen.before) == (1312, 1307)


def test_two_witnesses_cannot_have_one_memory(memory: Memory, tmp_path: Path) -> None:
    with memory.held(), pytest.raises(UsageError, match="another witness has it"):
        with Memory(tmp_path / "state").held():
            pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), Memory(tmp_path / "file").held():
        pass


def test_a_file_is_a_source_too(tmp_path: Path) -> None:
    path = tmp_path / "head"
    with pytest.raises(NoHead, match="No such file"):
        fetcher(str(path))(None)
    path.write_text("x")
    assert fetcher(str(path))(None) == fetcher(path.as_uri())(7) == "x"
    path.write_bytes(b"x" * 200_000)
    with pytest.raises(HeadError, match="more than"):
        fetcher(str(path))(None)
    for wrong in ("", "ftp://host/x", "http:///x", "http://"):
        with pytest.raises(UsageError, match="neither an address"):
            fetcher(wrong)


def test_a_server_that_is_not_there_gives_no_head() -> None:
    with pytest.raises(NoHead, match=r"http://127.0.0.1:1/checkpoint: .*refused"):
        fetcher("http://127.0.0.1:1")(None)


def test_a_torn_file_of_a_crash_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / ".head.new").write_text("torn")
    note = Note(str(Checkpoint(origin="a", size=1, root=bytes(32)))).signed(OWN_SIGNATURE)
    keeping.replace(tmp_path / "head", str(note))
    assert read_note(tmp_path / "head") == note
    assert os.listdir(tmp_path) == ["head"]
