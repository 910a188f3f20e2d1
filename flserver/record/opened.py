"""The record for Python: its runs, their rounds, and their models."""

import json
from collections.abc import Mapping
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flserver.errors import UsageError
from flserver.record.rows import Rows
from flserver.settings.folders import Folder, folder_of
from flserver.settings.places import Place, place_of
from flserver.text import printable

if TYPE_CHECKING:
    from flserver.models.state import State
    from flserver.store.reader import Row


def open(path: str | Place, checkpoint_dir: str | Folder | None = None) -> "Record":
    """The record in the SQLite database at ``path``, or in PostgreSQL's at a URL; ``checkpoint_dir`` is where the
    checkpoints lie now, a folder or ``s3://bucket/prefix``, if not where the server put them.

    It is read only, also while a server writes it: each question opens the database, sees one state of it and closes
    it again, so that nothing is held up, and what was asked outside of the ``with`` is answered too. Raises UsageError
    where there is no such database.
    """
    folder = folder_of(checkpoint_dir) if isinstance(checkpoint_dir, str) else checkpoint_dir
    record = Record(place_of(path), folder)
    record.query("SELECT 1")
    return record


class Record:
    """A database of runs. Every method raises UsageError where it cannot be read, and for SQL that is wrong or would
    write."""

    def __init__(self, path: Place, checkpoint_dir: Folder | None = None) -> None:
        self.path = path
        self._checkpoint_dir = checkpoint_dir
        # The package's other modules are used where SQLAlchemy would be slow, or is not there.
        from flserver.store.reader import Reader

        self._reader = Reader(path)

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing has stayed open."""

    def runs(self) -> Rows:
        """All rows of ``v1_runs``, the newest first; behind the view's columns ``state``, as :attr:`Run.state`."""
        from flserver.store.database import at

        columns, rows = self._reader.query("SELECT * FROM v1_runs ORDER BY started_at DESC, run_id DESC")
        shown, status, run_id = at(self.path).status_shown, columns.index("status"), columns.index("run_id")
        return Rows((*columns, "state"), ((*row, shown(row[status], row[run_id])) for row in rows))

    def run(self, ref: str | None = None) -> "Run":
        """The run that ``ref`` means: a run_id or its beginning, a run's name (the newest of that name), or ``newest``;
        left out it is the newest.

        Raises UsageError where there is none.
        """
        return Run(self, self._reader.run(ref))

    def query(self, sql: str, /, **parameters: Any) -> Rows:
        """The rows of one SELECT, over the ``v1_`` views best; ``parameters`` are the values of its ``:name``."""
        return Rows(*self._reader.query(sql, parameters))

    def __repr__(self) -> str:
        return f"<Record {self.path}>"


class Run:
    """A run: ``row`` is its row of ``v1_runs`` as it was when it was asked for; the methods say what is there now.

    ``status`` is that of the view, ``state`` the same for people: a run whose server was killed is ``running`` on
    record until the next server opens the database, and ``running (no server has it)`` here.
    """

    def __init__(self, record: Record, row: "Row") -> None:
        from flserver.store.database import at

        self._record = record
        self.row = dict(row)
        self.run_id: str = row["run_id"]
        self.name: str = row["name"]
        self.status: str = row["status"]
        self.state: str = at(record.path).status_shown(self.status, self.run_id)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings in force, by their keys."""
        found: Mapping[str, Any] = json.loads(self.row["config"])
        return found

    def rounds(self) -> Rows:
        """The rows of ``v1_rounds``, one for each attempt, aborted ones too: those with ``status`` ``committed`` are
        the rounds. Seconds, bytes; accuracy from 0 to 1, loss in nats."""
        return self._view("v1_rounds", "round, attempt")

    def updates(self) -> Rows:
        """The rows of ``v1_updates``, in the order of arrival: who sent what, what was decided, and why. Seconds;
        ``weight`` from 0 to 1; ``update_norm`` in the model's units, ``update_cosine`` from −1 to 1."""
        return self._view("v1_updates", "update_id")

    def clients(self) -> Rows:
        """The rows of ``v1_clients``: one for each registration. Samples."""
        return self._view("v1_clients", "client_id, registration")

    def participation(self) -> Rows:
        """The rows of ``v1_client_rounds``: one for each attempt and client invited. Seconds, bytes."""
        return self._view("v1_client_rounds", "round, attempt, client_id")

    def metrics(self) -> Rows:
        """The rows of ``v1_round_metrics``: what was measured on the rounds' models, here or by the clients."""
        return self._view("v1_round_metrics", "round, source, name")

    def query(self, sql: str, /, **parameters: Any) -> Rows:
        """As :meth:`Record.query`, where ``:run_id`` is this run."""
        return self._record.query(sql, **({"run_id": self.run_id} | parameters))

    def round(self, number: int | str = "last") -> "Round":
        """A committed round: a number from 0, the initial model, ``last`` or ``best`` (as ``export-model`` has it).

        Raises UsageError where there is none.
        """
        from flserver.audit.rounds_by_name import committed_round

        return Round(self, committed_round(self._record._reader, self.row, str(number)))

    def model(self, round: int | str = "last") -> "State":
        """The model of a committed round, as :meth:`Round.model`."""
        return self.round(round).model()

    def _view(self, view: str, order: str) -> Rows:
        return self.query(f"SELECT * FROM {view} WHERE run_id = :run_id ORDER BY {order}")

    def __repr__(self) -> str:
        return f"<Run {printable(self.name)} ({self.run_id}), {self.state}>"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"


class Round:
    """A committed round: ``row`` is its row of ``v1_rounds``, ``digest`` what ``sha256sum`` shows of its checkpoint."""

    def __init__(self, run: Run, row: "Row") -> None:
        self._run = run
        self.row = dict(row)
        self.number: int = row["round"]
        self.digest: str = row["model_digest"]

    def updates(self) -> Rows:
        """The rows of ``v1_updates`` that answer it, whatever was decided, in ascending order of the clients' ids."""
        return self._run.query(
            "SELECT * FROM v1_updates WHERE run_id = :run_id AND answers_round = :round ORDER BY client_id, update_id",
            round=self.number,
        )

    def model(self) -> "State":
        """Names to CPU tensors, with the model's own shapes and dtypes: the checkpoint, whose digest was checked.

        Raises UsageError where it was pruned, CheckpointError where it is missing or not what the record says.
        """
        from flserver.models.checkpoint_format import read

        return read(self._place(), self.digest)[0]

    def checkpoint(self) -> Folder:
        """Where its file lies, whose digest was checked. Raises as :meth:`model` does."""
        from flserver.models.digests import check_file

        check_file(place := self._place(), self.digest)
        return place

    def _place(self) -> Folder:
        from flserver.models.digests import located
        from flserver.settings.recorded import checkpoints_of

        if (deleted := self.row["checkpoint_deleted_at"]) is not None:
            raise UsageError(f"the checkpoint of round {self.number} was pruned at {deleted}")
        record = self._run._record
        folder = checkpoints_of(self._run.row, record._checkpoint_dir, record.path)
        return located(folder, self.row["checkpoint"])

    def __repr__(self) -> str:
        measured = [f"{name} {self.row[name]:.4g}" for name in ("loss", "accuracy") if self.row[name] is not None]
        return f"<Round {self.number} of {printable(self._run.name)}: {', '.join([*measured, self.digest])}>"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"
