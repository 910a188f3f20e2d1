"""The process that fuzzes: libFuzzer with the code of flserver/wire instrumented. ``tests.fuzz`` starts and judges it.

Everything it imports of flserver is imported under instrumentation, so nothing else may be imported at the top.
"""

import itertools
import random
import resource
import sys
from pathlib import Path

import atheris

from tests.fuzz.mutations import mutated

ADDRESS_SPACE = 4 << 30  # bytes: what is only claimed and never touched ends in MemoryError
TRACED_EVERY = 32  # inputs; and every one that takes long

with atheris.instrument_imports(include=["flserver.wire"], enable_loader_override=False):
    from tests.fuzz.target import try_input


def main() -> None:
    """Arguments: the folder of seeds, then libFuzzer's own."""
    folder, *options = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    seeds = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    turn = itertools.count()

    def target(body: bytes) -> None:
        try_input(body, memory=next(turn) % TRACED_EVERY == 0)

    def mutator(body: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.3:
            return bytes(atheris.Mutate(body, longest))
        return mutated(body, chance, seeds)[:longest]

    atheris.Setup([sys.argv[0], *options], target, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
