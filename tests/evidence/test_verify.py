"""``verify.py`` by itself: what it needs, what it computes, and that a hostile bundle costs it little."""

import ast
import hashlib
import io
import json
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flserver.evidence import verify
from flserver.evidence.make import VERIFIER
from flserver.evidence.verify import Bundle, ed25519, plain, root_of
from flserver.heads.tree import leaf_hash
from tests.evidence.conftest import Verifies
from tests.evidence.record import LOG
from tests.evidence.zips import as_they_are, bundled, canonical, files_of, wrong
from tests.heads.naive import mth
from tests.heads.naive import path as naive_path
from tests.patience import PATIENCE

SOURCE = VERIFIER.read_text(encoding="utf-8")
RFC_8032 = [  # §7.1: the public key, the message, the signature
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
]


def test_it_is_short_old_python_and_the_standard_library_alone() -> None:
    assert len(SOURCE.splitlines()) <= 250
    tree = ast.parse(SOURCE, feature_version=(3, 9))
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    of = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    assert not [ast.unparse(node) for node in of if "None" in ast.unparse(node)], "X | None is read where it stands"
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    assert not names & {"os", "subprocess", "shutil", "importlib", "runpy", "pickle", "zipfile", "tempfile"}


def test_no_number_is_read_that_a_python_without_a_limit_would_read_for_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    def counted(digits: str) -> int:
        read.append(len(digits))
        return int(digits)

    monkeypatch.setattr(verify, "int", counted, raising=False)  # which a number of JSON's own would not come by
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # as before Python 3.10.7
    try:
        with pytest.raises(ValueError, match="it is not written as flserver writes it"):
            verify.parse(b'{"n":' + b"1" * 100_000 + b"}", "it")
        assert verify.parse(b'{"n":12}', "it") == {"n": 12}
    finally:
        sys.set_int_max_str_digits(limit)
    assert (max(read), min(read)) == (4301, 2)


def test_it_neither_writes_nor_runs_anything() -> None:
    calls = [node.func for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Call)]
    functions = {func.id for func in calls if isinstance(func, ast.Name)}
    methods = {func.attr for func in calls if isinstance(func, ast.Attribute)}
    assert {"print", "len"} <= functions, "calls are found"
    assert {"loads", "read"} <= methods
    assert not functions & {"open", "eval", "exec", "compile", "getattr", "__import__"}
    assert not methods & {"open", "write", "write_text", "write_bytes", "mkdir", "unlink", "rename", "import_module"}
    assert SOURCE.count("FileType(") == SOURCE.count('FileType("rb")') == 1


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(public: str, message: str, signature: str) -> None:
    key, signed = bytes.fromhex(public), bytes.fromhex(signature)
    assert ed25519(key, signed, bytes.fromhex(message))
    assert not ed25519(key, signed, b"another")


def test_signatures_are_those_that_cryptography_makes_and_no_others() -> None:
    drawn = random.Random(1)
    for _ in range(10):
        key, message = Ed25519PrivateKey.from_private_bytes(drawn.randbytes(32)), drawn.randbytes(50)
        public, made = key.public_key().public_bytes_raw(), key.sign(message)
        assert ed25519(public, made, message)
        at = drawn.randrange(8)
        broken = made[:at] + bytes([made[at] ^ 1]) + made[at + 1 :]
        with suppress(ValueError):  # no point of the curve
            assert not ed25519(public, broken, message)
    order = 2**252 + 27742317777372353535851937790883648493
    larger = (int.from_bytes(made[32:], "little") + order).to_bytes(32, "little")
    assert not ed25519(public, made[:32] + larger, message), "the same number, written in another way"


def test_proofs_lead_to_the_roots_of_the_naive_tree() -> None:
    leaves = [bytes([number]) * 32 for number in range(20)]
    for size in range(1, 21):
        for index in range(size):
            shown = [one.hex() for one in naive_path(index, leaves[:size])]
            assert root_of(leaves[index], index, size, shown) == mth(leaves[:size])
            assert root_of(leaves[index], index + 1, size, shown) != mth(leaves[:size])
            assert root_of(leaves[index], index, size, [*shown, bytes(32).hex()]) != mth(leaves[:size])
            assert size == 1 or root_of(leaves[index], index, size, shown[:-1]) != mth(leaves[:size])
    assert root_of(leaves[0], 0, 1, []) == leaf_hash(leaves[0])


@pytest.mark.parametrize("text", ["`", '"', "|", "\n", "<b>", "\\u{60}", "é", "\x1b[2J", "]("])
def test_text_in_the_summary_cannot_end_its_code(text: str) -> None:
    told = plain(f"a{text}b")
    assert told.startswith("`a")
    assert told.endswith("b`")
    assert told.isprintable()
    assert not set(told[1:-1]) & set('`"|<>\n[]()*#&')
    assert told != plain("ab")


def run(folder: Path, *arguments: object, isolated: bool = False) -> tuple[int, str]:
    options = ["-I"] if isolated else []
    command = [sys.executable, *options, "verify.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout + done.stderr


def test_it_runs_by_itself_and_says_by_its_exit_code_what_it_found(tmp_path: Path, bundle: bytes) -> None:
    (tmp_path / "verify.py").write_bytes(files_of(bundle)["verify.py"])
    (tmp_path / "it.zip").write_bytes(bundle)
    (tmp_path / "bad.zip").write_bytes(bundle[:-1])
    (tmp_path / "key").write_text(f"{LOG.public}\n")
    for beside in ("json.py", "hashlib.py", "struct.py"):
        (tmp_path / beside).write_text("raise SystemExit('what lies beside it was run')")
    names = sorted(path.name for path in tmp_path.iterdir())
    for isolated in (True, False):
        assert run(tmp_path, "it.zip", "--key", "key", isolated=isolated)[0] == 0
    code, said = run(tmp_path, "it.zip")
    assert (code, "nobody vouches for it" in said) == (3, True)
    assert run(tmp_path, "bad.zip", "--key", "key")[0] == 1
    for wrongly in (["none.zip"], ["it.zip", "--key", "nonsense"], ["it.zip", "--head", "12"], []):
        assert run(tmp_path, *wrongly)[0] == 2
    for of_the_chain in (f"sha256:{'0a' * 32}", f"12:{'0a' * 32}"):
        code, said = run(tmp_path, "it.zip", "--head", of_the_chain)
        assert (code, "SIZE:ROOT as evidence prints it (hex is a chain head)" in said) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == names, "nothing was written"


def bomb(bundle: bytes) -> bytes:
    """128 MiB of nothing, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped, zipped.open("SUMMARY.md", "w") as file:
        for _ in range(8):
            file.write(bytes(2**24))
    return out.getvalue()


def claims(bundle: bytes) -> bytes:
    """A file that claims to be as large as can be written down."""
    return bundle[:18] + struct.pack("<2I", 2**32 - 1, 2**32 - 1) + bundle[26:]


def many_files(bundle: bytes) -> bytes:
    return as_they_are({f"f{number:06d}": b"" for number in range(3000)})


def deep(bundle: bytes) -> bytes:
    return as_they_are(files_of(bundle) | {"bundle.json": b"[" * 10**6})


def deep_events(bundle: bytes) -> bytes:
    return bundled(files_of(bundle) | {"events.jsonl": b'{"a":' * 10**5 + b"\n"})


def huge_number(bundle: bytes) -> bytes:
    return as_they_are(files_of(bundle) | {"bundle.json": b'{"a":' + b"7" * 10**6 + b"}"})


def one_line(bundle: bytes) -> bytes:
    return bundled(files_of(bundle) | {"events.jsonl": b"x" * (2**24 + 1)})


def long_proof(bundle: bytes) -> bytes:
    files = files_of(bundle)
    rows = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    rows[-1]["proof"] = ["00" * 32] * 10**4
    return bundled(files | {"events.jsonl": b"".join(canonical(row) + b"\n" for row in rows)})


def swollen(bundle: bytes) -> bytes:
    """A payload with what costs most memory for its length, and is not needed."""
    files = files_of(bundle)
    rows = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    row = next(row for row in rows if row["event"]["type"] == "AttemptStarted")
    row["payload"] = '{"clients":[' + "[]," * 300000 + "[]]}"
    salted = bytes.fromhex(row["salt"]) + row["payload"].encode()
    row["event"]["payload_digest"] = "sha256:" + hashlib.sha256(salted).hexdigest()
    return bundled(files | {"events.jsonl": b"".join(canonical(row) + b"\n" for row in rows[rows.index(row) :])})


HOSTILE = (swollen, bomb, claims, many_files, deep, deep_events, huge_number, one_line, long_proof)


@pytest.mark.parametrize("make", HOSTILE)
def test_a_hostile_bundle_is_refused_and_costs_little(bundle: bytes, make: Callable[[bytes], bytes]) -> None:
    hostile = make(bundle)
    tracemalloc.start()
    try:
        assert wrong(hostile) is not None
        assert tracemalloc.get_traced_memory()[1] < 80 * 2**20, "a line is 8 MiB, a file 16"
    finally:
        tracemalloc.stop()


def test_what_it_prints_is_plain_whatever_the_bundle_says(bundle: bytes, verifies: Verifies) -> None:
    files = files_of(bundle)
    hostile = files["events.jsonl"].replace(b'"seq":1', b'"seq":"\\u001b[2J"', 1)
    code, said = verifies(bundled(files | {"events.jsonl": hostile}))
    assert code == 1
    assert said.removesuffix("\n").isprintable()


def test_names_that_lead_out_of_a_folder_are_refused() -> None:
    for name in ("../x", "/x", "a/../x", "a\\b", ".x", "a/.x", "a//b", "é", "a" * 300, "a/b/c", "x\n"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as zipped:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            zipped.writestr(entry, b"")
        with pytest.raises(ValueError):
            Bundle(io.BytesIO(out.getvalue()))
