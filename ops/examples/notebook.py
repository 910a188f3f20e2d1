"""A run from Python, cell by cell. VS Code, PyCharm and Spyder open this file with its cells; `jupytext --to notebook`
makes an .ipynb of it. As a program: .venv/bin/python ops/examples/notebook.py quickstart-run/runs.sqlite RUN

It needs pandas, which the extra notebook brings (.venv/bin/pip install -e '.[notebook]'), and only reads: a server may
be writing meanwhile."""

# %% The record, and its newest run. In a notebook, write the path of yours here
import sys

from flserver import record
from flserver.errors import UsageError

path, ref = "quickstart-run/runs.sqlite", "newest"
if "ipykernel" not in sys.modules:  # a program
    if len(sys.argv) not in (2, 3):
        sys.exit(f"of which database? After ops/quickstart: python {sys.argv[0]} {path}")
    path, ref = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else ref
try:
    r = record.open(path)
    run = r.run(ref)
except UsageError as error:
    sys.exit(str(error))
print(run)

# %% How it learnt: a row for each committed round, times as times
rounds = run.rounds().frame()
rounds = rounds[rounds.status == "committed"].set_index("round")
print(rounds[["ended_at", "clients", "updates_accepted", "loss", "accuracy"]].to_string())

# %% Where the time of a round goes: means in seconds
phases = ["broadcast_seconds", "wait_seconds", "aggregate_seconds", "evaluate_seconds", "checkpoint_seconds"]
print(rounds[phases].astype(float).mean())

# %% Who contributed how much, and in which direction
updates = run.updates().frame()
accepted = updates[updates.decision == "accepted"]
print(accepted.groupby("client_id").agg(rounds=("answers_round", "nunique"), weight=("weight", "mean")))
print(accepted.pivot_table(index="answers_round", columns="client_id", values="update_cosine"))

# %% Any other question: SQL over the views, where :run_id is the run
decided = run.query("SELECT decision, COUNT(*) AS updates FROM v1_updates WHERE run_id = :run_id GROUP BY decision")
print(decided.frame())

# %% A model as tensors: its digest was checked, and sha256sum shows the same of the file
last = run.round("last")
print(last)
for name, tensor in last.model().items():
    print(name, tuple(tensor.shape), tensor.dtype, f"L2 {float(tensor.double().norm()):.4f}")
