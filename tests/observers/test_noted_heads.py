"""Heads are noted durably after every round and at the end, and a file that cannot be written stops nobody."""

import logging
import os
from pathlib import Path

import pytest

from flserver.audit.noted_heads import read_heads
from flserver.observers.noted_heads import HeadFile
from tests import facts
from tests.patience import eventually


class Chain:
    def __init__(self) -> None:
        self.length = 0

    def head(self) -> tuple[int, str]:
        return self.length, f"sha256:{self.length:064x}"


def noted(path: Path) -> list[tuple[int, str, str]]:
    return [(head.seq, *head.of[:2]) for head in read_heads(path).heads if head.of]


def test_each_round_and_the_end_have_a_line(tmp_path: Path) -> None:
    chain, file = Chain(), tmp_path / "heads"
    heads = HeadFile(file, "r1", None, chain.head)
    heads.start()
    for round in range(2):
        chain.length += 10
        heads.observe(facts.attempt(round))
        heads.observe(facts.committed(round))
        eventually(lambda: file.exists() and file.read_text().count("\n") > round)  # noqa: B023
    chain.length += 1
    heads.close()
    assert noted(file) == [(10, "r1", "0"), (20, "r1", "1"), (21, "r1", "1")]
    assert file.stat().st_mode & 0o777 & ~0o640 == 0
    assert read_heads(file).heads[0].digest == chain_digest(10)


def chain_digest(length: int) -> str:
    return f"sha256:{length:064x}"


def test_a_run_that_commits_nothing_has_a_line_too_and_none_is_said_twice(tmp_path: Path) -> None:
    chain, file = Chain(), tmp_path / "heads"
    chain.length = 3
    for _ in range(2):  # a second process finds the chain as it was
        heads = HeadFile(file, "r1", None, chain.head)
        heads.start()
        heads.close()
    assert noted(file) == [(3, "r1", "-")] * 2


def test_what_a_crash_left_of_a_line_spoils_no_other(tmp_path: Path) -> None:
    chain, file = Chain(), tmp_path / "heads"
    chain.length = 5
    file.write_text(f"2 {chain_digest(2)} r1 0 2026-01-31T09:00:00.000000Z\n4 sha256:00")
    heads = HeadFile(file, "r1", 0, chain.head)
    heads.start()
    heads.close()
    assert noted(file) == [(2, "r1", "0"), (5, "r1", "0")]
    assert read_heads(file).unreadable == [], "what was cut off is gone: it was no head yet"


def test_a_file_that_has_other_things_in_it_keeps_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "heads"
    file.write_bytes(b"x" * 5000)
    heads = HeadFile(file, "r1", 0, lambda: (1, chain_digest(1)))
    heads.start()
    heads.close()
    assert file.read_bytes() == b"x" * 5000
    assert "it is another file" in caplog.text


def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chain, mount = Chain(), tmp_path / "mount"
    heads = HeadFile(mount / "heads", "r1", None, chain.head)
    heads.start()
    for round in range(3):
        if round == 2:
            eventually(lambda: caplog.messages)
            mount.mkdir()
        chain.length += 10
        heads.observe(facts.committed(round))
    heads.close()
    assert noted(mount / "heads") == [(10, "r1", "0"), (20, "r1", "1"), (30, "r1", "2")]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "No such file or directory; the run goes on" in warnings[0]
    assert "heads are noted again" in caplog.messages[-1]


def test_a_link_and_a_pipe_are_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    for name in ("pipe", "link"):
        heads = HeadFile(tmp_path / name, "r1", None, lambda: (1, chain_digest(1)))
        heads.start()
        heads.close()
    assert not (tmp_path / "precious").exists()
    assert [message.split(";")[0].rpartition(": ")[2] for message in caplog.messages] == [
        "it is not a regular file",
        "Too many levels of symbolic links",
    ]
