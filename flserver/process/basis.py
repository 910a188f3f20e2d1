"""What a run's first model is made from, as far as the record and the settings say: looked up without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flserver.errors import UsageError
from flserver.files import check_makeable, group_id
from flserver.models.checkpoints import Checkpoints, checkpoints_in
from flserver.models.digests import located
from flserver.models.kept import Kept, kept_in
from flserver.models.stored import is_there
from flserver.process.own_code import digests_of
from flserver.process.soundness import or_go_back
from flserver.process.which_run import Parent, Plan
from flserver.settings import ServerSettings, StorePolicy
from flserver.settings.folders import Folder
from flserver.settings.policies import checkpoints_at
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Reader, Row


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors to begin with: those in the file at ``path``. ``option`` asked for them.

    Where they are a committed round's, ``digest`` is that of its checkpoint, and ``run_id`` and ``round`` say whose;
    ``strategy`` is that of a parent's run, whose own tensors are there too.
    """

    option: str
    path: Folder
    digest: str | None = None
    run_id: str | None = None
    round: int | None = None
    strategy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Basis:
    """``committed`` are the run's rounds so far (rows of v1_rounds), ``weights`` what it begins with where it has none
    and does not begin with what the model is built with. ``kept`` is where updates are kept, or were: those of
    ``kept_rounds`` on record. ``code`` is what events.RunStarted says, ``code_before`` what
    it said when a resumed run began."""

    committed: tuple[Row, ...]
    weights: Weights | None
    checkpoints: Checkpoints
    kept: Kept
    kept_rounds: frozenset[int]
    code: Mapping[str, str]
    code_before: Mapping[str, str]

    @property
    def round(self) -> int:
        """The last committed one; -1 where there is none."""
        return self.committed[-1]["round"] if self.committed else -1

    @property
    def digest(self) -> str | None:
        """Of that round's model."""
        return self.committed[-1]["model_digest"] if self.committed else None

    def clean(self) -> None:
        """Remove the checkpoints and the kept updates that a crash left: of the round that it cut short, and those it
        kept from deletion."""
        self.checkpoints.clean(self.round)
        self.kept.clean(self.kept_rounds)
        _delete_pruned(self.checkpoints, self.committed)


def clean_complete(run: Row, reader: Reader, given: str | None, store: StorePolicy) -> None:
    """Remove the checkpoints of a complete ``run`` (a row of v1_runs) that a crash at its very end kept from deletion;
    ``given`` is where they are said to lie now. Raises CheckpointError."""
    folder = checkpoints_of(run, checkpoints_at(given), store.db)
    _delete_pruned(checkpoints_in(folder, run["run_id"]), reader.committed_rounds(run["run_id"]))


def _delete_pruned(checkpoints: Checkpoints, committed: Iterable[Row]) -> None:
    for row in committed:
        if row["checkpoint_deleted_at"] is not None:
            checkpoints.delete(row["checkpoint"])


def look_up(plan: Plan, reader: Reader) -> Basis:
    """The basis of ``plan``. Nothing is written.

    Raises UsageError for what cannot be done, CheckpointError where the files do not fit the record.
    """
    settings, resumed = plan.settings, plan.resumed is not None
    store = settings.store
    place, patience = (store.checkpoint_dir, plan.run_id, group_id(store.group)), store.checkpoint_patience
    checkpoints = checkpoints_in(*place, patience)
    kept = kept_in(*place, store.keep_updates_rounds, patience)
    checkpoints.check_place()
    if store.spool_dir != store.checkpoint_dir:
        check_makeable(store.spool_dir, "--spool-dir")
    committed = tuple(reader.committed_rounds(plan.run_id)) if resumed else ()
    with or_go_back(plan, committed):
        checkpoints.check(committed[-1]["round"] if committed else -1)
    before = reader.code(plan.run_id) if resumed else {}
    return Basis(
        committed=committed,
        weights=None if committed else _weights(plan, reader),
        checkpoints=checkpoints,
        kept=kept,
        kept_rounds=reader.kept_rounds(plan.run_id) if kept.on_disk() else frozenset(),
        code=digests_of(settings),
        code_before={key: digest for key, digest in before.items() if key not in plan.overrides},
    )


def _weights(plan: Plan, reader: Reader) -> Weights | None:
    settings = plan.settings
    if plan.parent is not None:
        return of_parent(plan.parent, reader, settings)
    spec = settings.model.initial_weights
    return None if spec is None else initial_weights(spec, reader, settings.store)


def initial_weights(spec: str, reader: Reader, store: StorePolicy) -> Weights:
    """``FILE.safetensors``, or ``RUN[:ROUND]`` of this database: its last committed round where none is named.

    Raises UsageError or CheckpointError.
    """
    option = f"--initial-weights {spec}"
    if spec.endswith(".safetensors") or Path(spec).is_file():
        return Weights(option=option, path=Path(spec))
    ref, _, round_text = spec.partition(":")
    run = reader.run(ref, exact=True)  # a resumption asks again, and must mean the same one
    if round_text and not round_text.isdecimal():
        raise UsageError(f"{option}: {round_text!r} is not a round")
    committed = reader.committed_round(run["run_id"], int(round_text) if round_text else None)
    if committed["checkpoint_deleted_at"] is not None:
        raise UsageError(f"{option}: the checkpoint of round {committed['round']} was pruned")
    return _of_round(option, run, committed, store)


def of_parent(parent: Parent, reader: Reader, settings: ServerSettings) -> Weights:
    """The model of a child's first round. Raises UsageError or CheckpointError."""
    committed, option = reader.committed_round(parent.run["run_id"], parent.round), f"--resume-from {parent.round}"
    if committed["checkpoint_deleted_at"] is not None:
        raise UsageError(f"{option}: its checkpoint in run {parent.run['name']} was pruned")
    return _of_round(option, parent.run, committed, settings.store, parent.run["strategy"])


def _of_round(option: str, run: Row, committed: Row, store: StorePolicy, strategy: str | None = None) -> Weights:
    return Weights(
        option=option,
        path=_place(run, committed, store),
        digest=committed["model_digest"],
        run_id=run["run_id"],
        round=committed["round"],
        strategy=strategy,
    )


def _place(run: Row, committed: Row, store: StorePolicy) -> Folder:
    """Where the checkpoint of another ``run``'s round lies: not where this one's will, or moved to there."""
    folders = (store.checkpoint_dir, checkpoints_of(run, None, store.db))
    places = list(dict.fromkeys(located(folder, committed["checkpoint"]) for folder in folders))
    return next((path for path in places if is_there(path)), places[-1])
