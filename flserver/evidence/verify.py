"""Check an evidence bundle of flserver with nothing but Python, 3.9 or newer: python3 -I verify.py bundle.zip --key KEY

It writes nothing, and runs nothing of it. Have this file, or its SHA-256, and the head or the key from elsewhere.
Exit codes: 0 it holds under what was given; 1 it does not; 2 it was not checked; 3 no head and no key: nobody vouches.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    del sys.path[0]  # what lies beside this file is none of Python's own modules

import argparse
import base64
import hashlib
import json
import re
import struct
from os.path import isfile
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Iterator  # noqa: UP035 — a line less

EVENTS, MODEL, SIGNATURE, KIND = "events.jsonl", "model.safetensors", "model.sig", "urn:x-flserver:round:v1"
MOST_BYTES, MOST_WHOLE, MOST_LINE = 2**31 - 1, 2**24, 2**23  # of the bundle, of a file that is read whole, of an event
NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")
HEAD = re.compile("([!-~]+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n(\n(?:— [!-~]+ [A-Za-z0-9+/=]+\n)+)?")
GIVEN = re.compile(r"^(?:(\S+)\n(?=[0-9]+\n))?([0-9]+)[:\n]([A-Za-z0-9+/]{43}=)\s", re.M)  # a head, or SIZE:ROOT
TYPED = re.compile(r"[^+\n]*\+[0-9A-Fa-f]{8}\+|\s*[0-9]+:|.*\n", re.S)  # no name of a file, whatever is beside it
KEY = re.compile(r"([^\s+]+)\+[0-9a-f]{8}\+(A[Q-Za-f][A-Za-z0-9+/]{42})\s*")
KEPT = ["seq", "at", "round", "attempt", "client_id", "identity", "data_size", "counted_size", "update_digest"]
KEPT += ["base_digest", "arithmetic", "checkpoint", "checkpoint_bytes", "model_digest", "loss", "accuracy"]
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # of Ed25519: the field, and the order of its base
D, BASE = -121665 * pow(121666, P - 2, P) % P, bytes.fromhex("58" + "66" * 31)
SUMMARY = """# What the record says about run {run}

| round | committed | its model | counted samples | accuracy | made of the updates of (weight) |
| --- | --- | --- | --- | --- | --- |
{table}
Of its events {events} are here, {payloads} with what they say. Withheld, or purged: {withheld} updates of these rounds.
{rounds} of run {run}, under head {head}, AS OF event {seq} ({at}): {ended}.
This page, `statements/` and `checkpoints.json` follow from them. They are what the server put on record: not that
clients are who they said, trained on what they said, or are all. `bom.json`, `model.sig`, `verify.py`: its maker's."""


def require(holds: object, said: str) -> None:
    if not holds:
        raise ValueError(said)


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def parse(data: bytes, what: str) -> dict[str, Any]:
    """The object that ``data`` is the one canonical form of. A number is cut off where reading it would take long."""
    found = json.loads(data, parse_int=lambda digits: int(digits[:4301]))
    require(isinstance(found, dict) and canonical(found) == data, f"{what} is not written as flserver writes it")
    return dict(found)


class Bundle:  # a zip without compression and times: its files' names and contents say what each of its bytes is
    def __init__(self, file: BinaryIO) -> None:
        self.file, self.found, listed, place, last = file, dict[str, tuple[int, int]](), list[bytes](), 0, b""
        require(file.seek(0, 2) <= MOST_BYTES, "it is larger than a bundle can be")
        while file.seek(place) == place and (header := file.read(30))[:4] == b"PK\3\4" and len(listed) < 65535:
            crc, size, length = struct.unpack("<14x2I4xH2x", header)
            name = file.read(min(length, 202))
            fields = struct.pack("<5H3I2H", 20, 0, 0, 0, 0x21, crc, size, size, len(name), 0)
            require(header == b"PK\3\4" + fields and NAME.fullmatch(name) and name > last, "it was zipped anew")
            listed.append(b"PK\1\2\x14\3" + fields + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, place) + name)
            self.found[name.decode()] = (place + 30 + len(name), size)
            place, last = place + 30 + len(name) + size, name
        listing, count = b"".join(listed), len(listed)
        ends = listing + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(listing), place, 0)
        require(file.seek(place) == place and file.read(len(ends) + 1) == ends, "it is no bundle, or not just one")

    def pieces(self, name: str, size: int = MOST_WHOLE) -> Iterator[bytes]:
        require(self.found.get(name, (0, MOST_BYTES + 1))[1] <= size, f"{name} is missing, or larger than it can be")
        self.file.seek(self.found[name][0])
        return (self.file.read(min(left, 2**20)) for left in range(self.found[name][1], 0, -(2**20)))

    def whole(self, name: str) -> bytes:
        return b"".join(self.pieces(name))

    def lines(self) -> Iterator[bytes]:
        place, left = self.found[EVENTS]
        self.file.seek(place)
        while left:
            yield (line := self.file.readline(min(left, MOST_LINE)))
            left -= len(line)


def add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    t = D * p[0] * q[0] * p[1] * q[1]
    return (p[0] * q[1] + q[0] * p[1]) * pow(1 + t, -1, P) % P, (p[1] * q[1] + p[0] * q[0]) * pow(1 - t, -1, P) % P


def times(number: int, p: tuple[int, int]) -> tuple[int, int]:
    return (0, 1) if not number else times(number >> 1, add(p, p)) if not number & 1 else add(p, times(number - 1, p))


def point(data: bytes) -> tuple[int, int]:
    y, odd = int.from_bytes(data, "little") & (2**255 - 1), data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    require(y < P and x * x % P == square and (x or not odd), "a signature or a key is no point of the curve")
    return (x if x & 1 == odd else P - x), y


def ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is of ``message``, and by the key that ``public`` is of (RFC 8032)."""
    hashed = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    r, s = point(signature[:32]), int.from_bytes(signature[32:], "little")
    return len(signature) == 64 and s < L and times(s, point(BASE)) == add(r, times(hashed, point(public)))


def root_of(leaf: bytes, index: int, size: int, proof: list[str]) -> bytes:
    """The root of a tree of ``size`` leaves with that one at ``index`` (RFC 9162 §2.1.3.2)."""
    place, last, found = index, size - 1, hashlib.sha256(b"\0" + leaf).digest()
    for part in map(bytes.fromhex, proof):
        left = place & 1 or place == last
        found = hashlib.sha256(b"\1" + (part + found if left else found + part)).digest() if last else b""
        while left and place and not place & 1:
            place, last = place >> 1, last >> 1
        place, last = place >> 1, last >> 1
    return b"" if last or index >= size else found


def walk(lines: Iterable[bytes], run_id: str, size: int, root: bytes) -> dict[str, Any]:
    """What a run's events say, each held against the head: by a proof, or by the chain to one that has a proof."""
    facts: dict[str, Any] = {name: {} for name in ("AttemptStarted", "UpdateReceived", "RoundCommitted")}
    seq, leaf, proven, payloads, events, over = 0, bytes(32), True, 0, 0, False
    for events, line in enumerate(lines, 1):
        require(line.endswith(b"\n"), f"line {events} of {EVENTS} has no end")
        row = parse(line[:-1], f"line {events} of {EVENTS}")
        event, what = row["event"], f"event {row['event'].get('seq')}"
        only = event["run_id"] == run_id and row.keys() <= {"event", "payload", "salt", "proof"}
        digits = "".join((row.get("salt", ""), *row.get("proof", ())))
        require(only and bytes.fromhex(digits).hex() == digits, f"{what} is another run's, or more than an event")
        gap, before = event["seq"] - seq, event["previous_digest"] == "sha256:" + leaf.hex()
        require(before if gap == 1 else proven and gap > 1, f"{what} does not follow the one before it")
        leaf, seq, proven = hashlib.sha256(canonical(event)).digest(), event["seq"], "proof" in row
        require(not proven or root_of(leaf, seq - 1, size, row["proof"]) == root, f"{what} is not in the head's record")
        require("payload" in row or event["type"] != "RoundCommitted", f"{what} is a round, and without what it says")
        over = '"status":"completed"' in row.get("payload", "") if re.match("Run|Attempt", event["type"]) else over
        if "payload" in row:
            salted = "sha256:" + hashlib.sha256(bytes.fromhex(row["salt"]) + row["payload"].encode()).hexdigest()
            require(salted == event["payload_digest"], f"{what}: the payload is not the one on record")
            payloads += 1
            if event["type"] in facts:
                said = {**parse(row["payload"].encode(), f"{what}: the payload"), "seq": seq}
                used = [one for one in said.get("outcomes", ()) if one["weight"] is not None]
                kept = {name: said[name] for name in KEPT if not isinstance(said.get(name, ()), (dict, list, tuple))}
                kept["materials"] = [(str(o["client_id"]), 0 + o["update_id"], 0.0 + o["weight"]) for o in used]
                facts[event["type"]][said.get("update_id") or (said["round"], said["attempt"])] = kept
    require(proven and events, "the last event is not proven to be in the head's record")
    return {**facts, "events": events, "payloads": payloads, "over": over, "seq": seq, "at": plain(event["at"])}


def plain(value: object) -> str:
    """What the record has, as code in Markdown, which nothing in it can end or pass for; of a number six digits."""
    text = f"{value:.6g}" if isinstance(value, float) else f"{value}"
    return "`" + (re.sub("^ | $|[^A-Za-z0-9 .:@_-]", lambda c: f"\\u{{{ord(c[0]):x}}}", text) or "(empty)") + "`"


def derive(facts: dict[str, Any], run_id: str, head: str) -> dict[str, bytes]:
    """The files that say what the events say and nothing else, by their names. ``head`` is SIZE:ROOT."""
    files, rows, checkpoints = dict[str, bytes](), list[str](), list[dict[str, Any]]()
    withheld, first = 0, min(facts["RoundCommitted"])[0]
    for at, made in sorted(facts["RoundCommitted"].items()):
        used: list[dict[str, Any]] = []
        require(at[0] == first + len(rows), f"round {first + len(rows)} is left out")
        for client, number, weight in made["materials"]:
            update = facts["UpdateReceived"].get(number, {"client_id": client})
            require(update["client_id"] == client, f"round {at[0]} has an update of two clients")
            about = {name: update[name] for name in update if name not in ("materials", "update_digest")}
            of = dict([update["update_digest"].split(":")]) if update.get("update_digest") else {}
            withheld += number not in facts["UpdateReceived"]
            used.append({"name": f"update {number}", "digest": of, "annotations": {**about, "weight": weight}})
        checkpoints.append({name: made[name] for name in made if name != "materials"})
        subject = {"name": MODEL, "digest": dict([made["model_digest"].split(":")])}
        kind = {"_type": "https://in-toto.io/Statement/v1", "predicateType": KIND, "subject": [subject]}
        predicate = {**facts["AttemptStarted"].get(at, {}), **made, "run_id": run_id, "materials": used}
        files[f"statements/round-{at[0]:06d}.json"] = canonical({**kind, "predicate": predicate})
        who = [f"{plain(client)} ({weight:.4f})" for client, _, weight in made["materials"]]
        who[20:] = [f"{len(who) - 20} more"] * (len(who) > 20)  # whom the statement has too
        has = [plain("-" if v is None else v) for v in map(made.get, ("at", "model_digest", "data_size", "accuracy"))]
        rows.append(f"| {at[0]:d} | {' | '.join(has)} | {', '.join(who)} |\n")
    ended = f"the run is complete: {at[0]} of {at[0]} rounds" if facts["over"] else "what came after is NOT in it"
    told = {"table": "".join(rows), "head": head, "withheld": withheld, "ended": ended}
    told["rounds"] = f"Rounds {first} to {at[0]}" if at[0] > first else f"Round {first}"
    page = SUMMARY.format(**facts, **told, run=plain(run_id)) + "\n"
    return {**files, "checkpoints.json": canonical({"checkpoints": checkpoints}), "SUMMARY.md": page.encode()}


def check(bundle: Bundle, key: Any = None, at: Any = None) -> str:
    """Hold a bundle against itself, and against a key and a head if any. What it says, in short."""
    about, text = parse(bundle.whole("bundle.json"), "bundle.json"), b"".join(bundle.pieces("head", 2**16)).decode()
    head, digests, found = HEAD.fullmatch(text), about["files"], bundle.found.keys()
    if head is None or (about["format"], len(about)) != (1, 3) or digests.keys() != found - {"bundle.json"}:
        raise ValueError("the head or the format is none, or bundle.json lists other files")
    require(not at or at[2] == head[2], f"it is about the head of {head[2]} events, and --head is of another size")
    other = f"the head given, {at and at[2]}:{at and at[3]}, is not this bundle's, {head[2]}:{head[3]}: either it was "
    other += "copied wrongly or the record is another"
    require(not at or (at[3] == head[3] and at[1] in (None, head[1])), other)
    if key:  # it signs once; each signature takes a while
        raw, told = base64.b64decode(key[2]), re.findall(f"^— {re.escape(key[1])} (.+)$", text, re.M)
        hint, signs = hashlib.sha256(f"{key[1]}\n".encode() + raw).digest()[:4], "{}\n{}\n{}\n".format(*head.groups())
        made = [one[4:] for one in map(base64.b64decode, told) if one[:4] == hint][:3]
        require(any(ed25519(raw[1:], one, signs.encode()) for one in made), "the key has not signed its head")
    for name in digests:
        hashed = hashlib.sha256()
        any(map(hashed.update, bundle.pieces(name, MOST_BYTES)))  # all of them, for it returns nothing
        require(hashed.hexdigest() == digests[name], f"{name} was changed")
    facts = walk(bundle.lines(), about["run_id"], int(head[2]), base64.b64decode(head[3]))
    files, newest = derive(facts, about["run_id"], f"{head[2]}:{head[3]}"), max(facts["RoundCommitted"].items())[1]
    for name in files:
        require(bundle.whole(name) == files[name], f"{name} says something else than the events")
    told, model = parse(bundle.whole("bom.json"), "bom.json")["metadata"]["component"], newest["model_digest"][7:]
    of = [told["hashes"], told["version"], told["name"], digests.get(MODEL, model)]
    ours = [[{"alg": "SHA-256", "content": model}], f"round {newest['round']}", about["run_id"], model]
    require(of == ours, f"bom.json is of another model, round or run, or {MODEL} is another model")
    require(found <= {*files, "bundle.json", "head", EVENTS, "bom.json", "verify.py", MODEL, SIGNATURE}, "it has more")
    return "\n".join(re.findall(r"^(\|.*\|(?= .* \|$)|[RO].*)", files["SUMMARY.md"].decode(), re.M))


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=argparse.FileType("rb"))
    read = lambda text: text if TYPED.match(text) or not isfile(text) else Path(text).read_text("utf-8")  # noqa: E731
    for option, meant in (("--head", "a head from elsewhere, as SIZE:ROOT"), ("--key", "the key that signs heads")):
        parser.add_argument(option, type=read, default="", help=f"{meant}, or its file")
    asked = parser.parse_args(arguments)
    key, at = KEY.fullmatch(asked.key), GIVEN.search(f"{asked.head}\n")
    if (asked.key and not key) or (asked.head and not at):
        parser.error("--key: name+id+base64; --head: SIZE:ROOT as evidence prints it (hex is a chain head); or files")
    try:
        with asked.bundle as file:
            said, _, as_of = check(Bundle(file), key, at).rpartition(", AS OF event ")
    except Exception as error:  # whatever is wrong with it, it is no bundle that holds
        print("DOES NOT HOLD:", re.sub("[^ -~]", "?", f"{error}"[:300]) or type(error).__name__)
        return 1
    by = " and ".join(["the head that was given"] * bool(at) + ["a signature of the key that was given"] * bool(key))
    verdict = f"HOLDS under {by}" if by else "CONSISTENT IN ITSELF; nobody vouches for it: no --head, no --key"
    print(f"{said}.\n{verdict}, AS OF event {as_of}")
    return 0 if by else 3


if __name__ == "__main__":
    sys.exit(main())
