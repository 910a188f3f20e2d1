"""The hash chain finds every change, and bears a purge."""

import hashlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.store.chain import GENESIS, Link, payload_digest, verify
from flserver.store.payloads import canonical_json
from flserver.store.reader import Reader
from tests.store import story


def tamper(path: Path, *statements: str) -> tuple[str, ...]:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
    connection.close()
    return Reader(path).verify_chain().problems


def test_an_untouched_record_verifies_across_processes(recorded: Path) -> None:
    found = Reader(recorded).verify_chain()
    assert found.problems == ()
    assert found.events == len(story.whole_run()) + len(story.left_over())
    assert Reader(recorded).query("SELECT digest FROM v1_events ORDER BY seq DESC LIMIT 1")[1] == [(found.head,)]


def test_the_first_row_follows_zeros(recorded: Path) -> None:
    first = Reader(recorded).query("SELECT seq, previous_digest FROM v1_events ORDER BY seq LIMIT 1")[1]
    assert first == [(1, "sha256:" + "0" * 64)]


@given(st.builds(Link, seq=st.integers(), process_id=st.integers()))
def test_a_rows_digest_is_that_of_its_columns_as_canonical_json(link: Link) -> None:
    assert link.digest() == "sha256:" + hashlib.sha256(canonical_json(vars(link)).encode()).hexdigest()


@pytest.mark.parametrize("column", ["run_id", "type", "at", "payload_digest", "digest"])
def test_a_changed_column_is_found(recorded: Path, column: str) -> None:
    problems = tamper(recorded, f"UPDATE events SET {column} = 'sha256:other' WHERE seq = 5")
    assert problems
    assert problems[0].startswith("event 5: ")
    assert len(problems) == 1


def test_a_changed_process_is_found(recorded: Path) -> None:
    assert tamper(recorded, "UPDATE events SET process_id = 9 WHERE seq = 5") == ("event 5: the row was changed",)


def test_a_changed_payload_is_found(recorded: Path) -> None:
    problems = tamper(recorded, "UPDATE events SET payload = replace(payload, '1', '2') WHERE seq = 5")
    assert problems == ("event 5: the payload was changed",)


def test_a_removed_row_is_found(recorded: Path) -> None:
    assert tamper(recorded, "DELETE FROM events WHERE seq = 5")[0].startswith("event 6: does not follow")


def test_a_removed_first_row_is_found(recorded: Path) -> None:
    assert tamper(recorded, "DELETE FROM events WHERE seq = 1")[0].startswith("event 2: does not follow")


def test_swapped_rows_are_found(recorded: Path) -> None:
    problems = tamper(
        recorded,
        "UPDATE events SET seq = -1 WHERE seq = 5",
        "UPDATE events SET seq = 5 WHERE seq = 6",
        "UPDATE events SET seq = 6 WHERE seq = -1",
    )
    assert problems[0].startswith("event 5: ")


def test_a_shorter_record_shows_in_its_head(recorded: Path) -> None:
    before = Reader(recorded).verify_chain()
    assert tamper(recorded, f"DELETE FROM events WHERE seq = {before.events}") == ()
    assert Reader(recorded).verify_chain().head != before.head


def test_a_purged_payload_verifies_and_is_counted(recorded: Path) -> None:
    assert tamper(recorded, "UPDATE events SET payload = NULL, salt = NULL WHERE type = 'ClientRegistered'") == ()
    assert Reader(recorded).verify_chain().purged == 6


def test_a_missing_salt_is_no_purge(recorded: Path) -> None:
    assert tamper(recorded, "UPDATE events SET salt = NULL WHERE seq = 5") == ("event 5: the payload was changed",)


def test_equal_payloads_have_different_digests(recorded: Path) -> None:
    pairs = "SELECT COUNT(DISTINCT salt), COUNT(DISTINCT payload_digest), COUNT(*) FROM events"
    ((salts, digests, events),) = Reader(recorded).query(pairs)[1]
    assert salts == digests == events


def test_the_digests_are_what_the_documentation_says() -> None:
    link = Link(
        seq=1, run_id="r", process_id=2, type="T", at="t", payload_digest=payload_digest("00ff", "{}"),
        previous_digest=GENESIS,
    )  # fmt: skip
    # printf '\x00\xff{}' | sha256sum
    assert link.payload_digest == "sha256:d74d568b32ee9c59af9b3e26dc02c6d86388eda2f8ac72833649630900740f9f"
    assert link.digest() == "sha256:7c2494e7801e6eb90454d10d210315e55a0009d13f3ee44f668361d209843478"


def test_rows_numbered_anew_from_the_middle_are_found() -> None:
    link = Link(
        seq=2, run_id="r", process_id=2, type="T", at="t", payload_digest="sha256:", previous_digest=GENESIS
    )  # fmt: skip
    row = vars(link) | {"payload": None, "salt": None, "digest": link.digest()}
    assert verify([row]).problems == ("event 2: stands at place 1",)
