"""``ops/draw-fleet``: simulates a fleet of a thousand, and draws what came of each trainer in each round.

python -m tests.fleet_picture [FILE.svg] [--db RUNS.sqlite]    of a run that is there already
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from flserver.report.participation import Picture, read_participation
from flserver.report.picture import states_picture
from flserver.report.states import ABSENT, STATES
from flserver.store.reader import Reader

ROOT = Path(__file__).parents[1]
DRAWN = ROOT / ".github" / "fleet.svg"
STYLE = ROOT / "flserver" / "report" / "templates" / "report.css"
TRAINERS, ROUNDS = 1000, 24
SHARES = "--drop-out 0.3 --lag 0.05 --lag-seconds 0.5 --lie 0.1"
COMMAND = f"simulate --trainers {TRAINERS} --rounds {ROUNDS} {SHARES} --seed 7"
TITLE, LEGEND = 26, 44  # pixels
NOT_THERE = "not there"


def simulate(db: Path) -> None:
    subprocess.run([sys.executable, "-m", "flserver", *COMMAND.split(), "--db", str(db)], cwd=ROOT, check=True)


def draw(reader: Reader) -> str:
    """The newest run's clients from left to right, those with whom all went well first; its rounds from top to
    bottom."""
    run_id = reader.run()["run_id"]
    found = read_participation(reader, run_id, most=TRAINERS).picture
    assert found is not None
    ((refused,),) = reader.query(_REFUSED, {"run_id": run_id})[1]
    states = np.pad(found.state, ((0, refused), (0, 0)), constant_values=ABSENT)
    order = sorted(range(len(states)), key=lambda row: _trouble(states[row]))
    turned = Picture([str(number) for number in range(found.first, found.last + 1)], 1, len(states), 1)
    turned.state = states[order].T
    return _alone(str(states_picture(turned, "fleet", turned.clients)), turned)


_REFUSED = """
    SELECT COUNT(DISTINCT client_id) FROM v1_messages
    WHERE run_id = :run_id AND header = '<METADATA>' AND outcome = 'refused'
      AND client_id NOT IN (SELECT client_id FROM v1_clients WHERE run_id = :run_id)"""


def _trouble(states: np.ndarray) -> tuple[int, list[int]]:
    """Later trouble first: a key to sort by."""
    wrong = np.flatnonzero(states != 0)
    return (-int(wrong[0]), states[wrong].tolist()) if wrong.size else (-len(states), [])


def _alone(drawn: str, picture: Picture) -> str:
    """The drawing as a file of its own, with its colours, a title and a legend."""
    head, body = re.match(r"<svg[^>]*>", drawn), re.sub(r"^<svg[^>]*>|<title>[^<]*</title>", "", drawn)
    assert head is not None
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head[0])
    assert box is not None
    width, high = float(box[1]), float(box[2])
    counts = Counter(picture.state.ravel().tolist())
    looks = [(f"var(--s-{state.key})", state.top, state.height, state.label) for state in STATES]
    there = [(*looks[number], counts[number]) for number in range(len(STATES)) if counts[number]]
    there += [("none", 0, 1, NOT_THERE, counts[ABSENT])] if counts[ABSENT] else []
    legend, x = [], 34.0
    for colour, top, tall, label, count in there:
        text = f"{label} {count:,}"
        legend.append(
            f'<rect class="cell" x="{x:g}" y="0" width="12" height="12"/>'
            f'<rect x="{x:g}" y="{12 * top:g}" width="12" height="{12 * tall:g}" fill="{colour}"/>'
            f'<text x="{x + 17:g}" y="10">{escape(text)}</text>'
        )
        x += 40 + 6.6 * len(text)
    rounds, clients = len(picture.clients), picture.columns
    title = f"{clients:,} simulated trainers, from left to right, in {rounds} rounds, from top to bottom"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {high + TITLE + LEGEND:g}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n"
        f'<rect class="paper" width="{width:g}" height="{high + TITLE + LEGEND:g}"/>\n'
        f'<text x="34" y="17">{escape(title)}</text>\n'
        f'<g transform="translate(0 {TITLE})">{body.removesuffix("</svg>")}</g>\n'
        f'<g transform="translate(0 {TITLE + high + 12:g})">{"".join(legend)}</g>\n</svg>\n'
    )


def _style() -> str:
    """The report's colours, in the light and in the dark."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
    kept = (
        " ".join(re.findall(r"--(?:s-[a-z_]+|cell|paper|muted): #[0-9a-f]{6};", colours)) for colours in (light, dark)
    )
    by_light, by_dark = kept
    return (
        f"svg {{ {by_light} }} @media (prefers-color-scheme: dark) {{ svg {{ {by_dark} }} }} "
        ".paper { fill: var(--paper) } .cell { fill: var(--cell) } .row { fill: none } path { fill: none } "
        "text { font: 12px system-ui, sans-serif; fill: var(--muted) }"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="ops/draw-fleet", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=DRAWN)
    parser.add_argument("--db", type=Path, help="the record to draw, in place of a new one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = given.db or Path(folder) / "fleet.sqlite"
        if given.db is None:
            simulate(db)
        given.out.write_text(draw(Reader(db)), encoding="utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
