"""The fuzzer's own parts, without atheris: honest input is no finding, a planted defect is one, and a run says so."""

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.campaign import ROOT, report, run
from tests.fuzz.mutations import OPCODES, mutated, opcode, pieces
from tests.fuzz.seeds import dictionary, seeds
from tests.fuzz.target import MEMORY, SECONDS, SUSPICIOUS, Defect, read_in_every_way, try_input

SEEDS = dict(seeds())


@pytest.mark.parametrize("memory", [True, False])
def test_no_seed_is_a_finding(memory: bool) -> None:
    for body in SEEDS.values():
        try_input(body, memory=memory)


def test_seeds_are_read_and_not_only_refused() -> None:
    read = {name: read_in_every_way(body) for name, body in SEEDS.items()}
    assert {name for name, ways in read.items() if ways == 0} == {"nothing", "odd-metadata"}
    # As an update, as a global model and as a template; from protocol 2 there is no template.
    assert {ways for name, ways in read.items() if name.startswith("update-")} == {3}
    assert {ways for name, ways in read.items() if name.startswith("told-")} == {1, 2}


def test_seeds_are_the_same_in_every_process() -> None:
    """Else no run could be repeated."""
    script = "from tests.fuzz.seeds import seeds; print({name: body.hex() for name, body in seeds()})"
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made.strip() == str({name: body.hex() for name, body in SEEDS.items()})


def test_every_opcode_is_among_the_words() -> None:
    words = dictionary()
    assert all(any(word[0] == code for word in words) for code in OPCODES)
    assert all(pieces(word + b".")[-1] == b"." for word in (opcode(code, b"ab", 1) for code in OPCODES))


def raises_what_it_must_not(body: bytes) -> None:
    raise KeyError(body)


def acts(body: bytes) -> None:
    compile("1", "<what a peer sent>", "eval")


def takes_memory(body: bytes) -> None:
    bytearray(int(MEMORY[0]) * 2)


def takes_time(body: bytes) -> None:
    until = time.process_time() + SECONDS * 1.1
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("planted", "memory", "told"),
    [
        (raises_what_it_must_not, True, "three bytes"),
        (acts, False, "it acts: .*compile"),
        (takes_memory, True, "60 MB for 11 bytes"),
        (takes_time, False, "s of the processor for 11 bytes"),
    ],
)
def test_a_planted_defect_is_reported(planted: object, memory: bool, told: str) -> None:
    with pytest.raises((Defect, KeyError), match=told):
        try_input(b"three bytes", memory=memory, reader=planted)  # type: ignore[arg-type]


def test_memory_is_measured_where_an_input_took_long() -> None:
    def fills(body: bytes) -> None:
        _ = [bytes(1000) for _ in range(100_000)]
        took_long = time.process_time() + SUSPICIOUS  # for a process that has the memory already, filling it may not
        while time.process_time() < took_long:
            pass

    with pytest.raises(Defect, match="MB for 1 bytes"):
        try_input(b"N", memory=False, reader=fills)


def test_a_mutation_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    bodies = list(SEEDS.values())
    first, again = [[mutated(bodies[0], Random(seed), bodies) for seed in range(50)] for _ in range(2)]
    assert first == again
    assert len(set(first)) > 40


WORKER = """
import subprocess
import sys
import time
from pathlib import Path
from random import Random

assert (Path(sys.argv[1]) / "finished").read_bytes().startswith(b"\\x80")
options = dict(option[1:].split("=") for option in sys.argv[2:-1])
assert (options["max_total_time"], options["seed"]) == ("5", "7")
assert Path(options["dict"]).read_text().startswith('"\\\\x')
print("#2\\tINITED cov: 12 ft: 13")
print("stat::number_of_executed_units: 4711")
"""
FINDS = """
print(" === Uncaught Python exception: ===")
print("tests.fuzz.target.Defect: it acts: ['import']")
print("==1== ERROR: libFuzzer: fuzz target exited")
Path(options["artifact_prefix"] + "crash-1").write_bytes(b"bad")
sys.exit(77)
"""
FAILS = "sys.exit('it cannot start')"


def ended(script: str, folder: Path) -> tuple[int, str]:
    campaign = run(
        5, 7, seeds=seeds(), words=dictionary(), findings=folder / "found", worker=(sys.executable, "-c", script)
    )
    return report(campaign, 5, 7)


def test_a_run_without_findings_is_one_line_of_counts(tmp_path: Path) -> None:
    code, text = ended(WORKER, tmp_path)
    assert (code, text) == (0, "4711 inputs in 5 s, 12 edges covered, seed 7: nothing found")


def test_a_run_with_a_finding_fails_and_ends_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "crash-0").write_bytes(b"of an earlier run")
    code, text = ended(WORKER + FINDS, tmp_path)
    assert code == 1
    assert text.splitlines()[0] == "tests.fuzz.target.Defect: it acts: ['import']"
    assert text.splitlines()[1:] == [
        "4711 inputs in 5 s, 12 edges covered, seed 7: found",
        str(tmp_path / "found" / "crash-1"),
    ]


@pytest.mark.parametrize("script", [WORKER + FAILS, "", FAILS])
def test_a_fuzzer_that_does_not_fuzz_is_no_success(tmp_path: Path, script: str) -> None:
    code, text = ended(script, tmp_path)
    assert code == 1
    assert "the fuzzer itself failed" in text
