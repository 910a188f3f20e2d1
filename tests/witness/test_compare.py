"""Two witnesses who were shown two pasts find it out by comparing what they cosigned."""

from pathlib import Path

import pytest

from flserver.errors import HeadError, Rewritten
from flserver.heads.keys import PrivateKey
from flserver.heads.note import WITNESS
from flserver.witness.compare import compare
from flserver.witness.keeping import Memory, heads_in
from flserver.witness.watch import look
from tests.witness.log import KEY, Log


def witnessed(folder: Path, *shown: Log) -> Path:
    memory, key = Memory(folder), PrivateKey.generate(folder.name, WITNESS)
    with memory.held():
        for log in shown:
            look(log.fetch, KEY.public, key, memory, lambda: 1.0)
    return folder


def test_a_split_view_is_found(tmp_path: Path) -> None:
    log = Log().grow(20)
    one, other = log.forked().grow(10), log.forked().grow(10)
    first = witnessed(tmp_path / "first", log, one, one.forked().grow(3))
    second = witnessed(tmp_path / "second", log, other, other.forked().grow(4))
    for these, those in ((first, second), (second, first)):
        with pytest.raises(Rewritten, match="two pasts: its heads of 30 events") as caught:
            compare(heads_in(these), heads_in(those), KEY.public)
        assert str(these / "heads") in str(caught.value)
    files = [folder / "heads" / f"{30:019}.note" for folder in (first, second)]
    with pytest.raises(Rewritten, match="two pasts"):
        compare(heads_in(files[0]), heads_in(files[1]), KEY.public)


def test_those_who_saw_the_same_agree(tmp_path: Path) -> None:
    log = Log().grow(20)
    later = log.forked().grow(10)
    first, second = witnessed(tmp_path / "first", log, later), witnessed(tmp_path / "second", log.forked(), later)
    found = compare(heads_in(first), heads_in(second), KEY.public)
    assert (found.common, found.largest) == (2, 30)
    third = witnessed(tmp_path / "third", log.forked().grow(1))
    assert compare(heads_in(first), heads_in(third), KEY.public).common == 0


def test_a_head_that_its_log_has_not_signed_accuses_nobody(tmp_path: Path) -> None:
    first = witnessed(tmp_path / "first", Log().grow(20))
    forged = tmp_path / "forged"
    forged.write_text(Log(key=PrivateKey.generate(KEY.public.name)).grow(20).fetch(None))
    with pytest.raises(HeadError, match="has not signed") as caught:
        compare(heads_in(first), heads_in(forged), KEY.public)
    assert not isinstance(caught.value, Rewritten)
