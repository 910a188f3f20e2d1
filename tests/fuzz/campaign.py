"""One run of the fuzzer: seeds and words in a temporary folder, a process that fuzzes, and what is said about it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent.parent
FINDINGS = ROOT / "fuzz-findings"
WORKER = (sys.executable, "-m", "tests.fuzz.worker")

LONGEST = 32 * 1024  # bytes of an input
INPUT_SECONDS = 20  # after which libFuzzer ends an input that does not end by itself
RSS_MB = 1024  # of the process, its corpus included
GRACE = 120.0  # seconds beyond those asked for, in which a run has ended by itself
TOLD_LINES = 20  # of what the worker printed where it is no traceback


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """How it went: inputs tried, edges covered, the inputs kept because of what they did, and the worker's words."""

    inputs: int
    covered: int
    findings: list[Path]
    failed: bool
    output: str


def run(
    seconds: int,
    seed: int,
    *,
    seeds: Iterable[tuple[str, bytes]],
    words: Iterable[bytes],
    findings: Path = FINDINGS,
    worker: Sequence[str] = WORKER,
) -> Campaign:
    """Fuzzes for ``seconds``, or up to the first finding, which is then a file in ``findings``."""
    findings.mkdir(exist_ok=True)
    before = set(findings.iterdir())
    with TemporaryDirectory(prefix="fuzz-") as folder:
        corpus, dictionary = Path(folder, "corpus"), Path(folder, "words")
        corpus.mkdir()
        for name, body in seeds:
            (corpus / name).write_bytes(body)
        dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words))
        options = (
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-max_len={LONGEST}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={RSS_MB}",
            f"-dict={dictionary}",
            f"-artifact_prefix={findings}/",
            "-reload=0",  # a run is repeated by its seed only if no clock has a say
            "-print_final_stats=1",
        )
        environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        output, failed = _ended([*worker, str(corpus), *options, str(corpus)], environment, seconds + GRACE)
    inputs = re.findall(r"stat::number_of_executed_units:\s*(\d+)", output) or re.findall(r"^#(\d+)\t", output, re.M)
    covered = re.findall(r"\bcov: (\d+)", output)
    return Campaign(
        inputs=int(inputs[-1]) if inputs else 0,
        covered=int(covered[-1]) if covered else 0,
        findings=sorted(set(findings.iterdir()) - before),
        failed=failed,
        output=output,
    )


def _ended(command: list[str], environment: dict[str, str], seconds: float) -> tuple[str, bool]:
    """What a process printed, and whether it failed; one that does not end by itself has failed."""
    with TemporaryDirectory(prefix="fuzz-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as file:
            try:
                status = subprocess.run(
                    command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=seconds, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                status = 1
                file.write(b"\nit did not end by itself\n")
        return log.read_text(errors="backslashreplace"), status != 0


def report(campaign: Campaign, seconds: int, seed: int) -> tuple[int, str]:
    """The exit code and what to print: one line where nothing was found."""
    counts = f"{campaign.inputs} inputs in {seconds} s, {campaign.covered} edges covered, seed {seed}"
    if campaign.findings:
        paths = "\n".join(str(path) for path in campaign.findings)
        return 1, f"{_told(campaign.output)}\n{counts}: found\n{paths}"
    if campaign.failed or not campaign.inputs:
        return 1, f"{_told(campaign.output)}\n{counts}: the fuzzer itself failed, and kept no input"
    return 0, f"{counts}: nothing found"


def _told(output: str) -> str:
    """What the worker printed last: the traceback alone, where there is one."""
    traceback = re.findall(r"=== Uncaught Python exception: ===\n(.*?)(?=^==\d+==|\Z)", output, re.M | re.S)
    return str(traceback[-1]).strip() if traceback else "\n".join(output.strip().splitlines()[-TOLD_LINES:])


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
