"""What of a run's start needs torch: its model, strategy and evaluation, checked and made."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from flserver.aggregation import Strategy, load_strategy
from flserver.aggregation.steps import Step, step_of
from flserver.errors import CheckpointError, PickleRefused, UsageError, one_line
from flserver.models.architectures import build, payload_of, wire_module
from flserver.models.carried import check_survival, hooks_of, what_is_not_pickled
from flserver.models.checkpoint_format import read
from flserver.models.checkpoints import Checkpoints
from flserver.models.datasets import to_be_fetched
from flserver.models.evaluation import Evaluator, evaluator_for
from flserver.models.kept import Kept
from flserver.models.retention import MadeRound
from flserver.models.state import State, check_same_layout, read_weights, state_of, tied_names
from flserver.process.basis import Basis, Weights
from flserver.process.own_code import changes
from flserver.process.room import check_room
from flserver.process.soundness import or_go_back
from flserver.process.which_run import Plan
from flserver.rounds.model import CurrentModel
from flserver.settings import ServerSettings
from flserver.store.reader import Row
from flserver.wire.messages import GlobalModel
from flserver.wire.template import Template

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Prepared:
    """``model`` is the last committed round's, or the initial one; ``made`` are the committed rounds whose checkpoints
    are on disk; ``tied`` maps the later name of shared weights to the first one;
    ``buffers`` are the tensors that are no parameters. The model has ``parameters`` numbers in ``parameter_tensors``
    tensors."""

    model: CurrentModel
    made: tuple[MadeRound, ...]
    tied: dict[str, str]
    buffers: frozenset[str]
    template: Template
    strategy: Strategy
    evaluator: Evaluator | None
    checkpoints: Checkpoints
    kept: Kept | None
    parameters: int
    parameter_tensors: int

    def hand_over(self) -> CurrentModel:
        """The model, for whoever replaces it by the next one: only what it is called stays here, and not its memory."""
        model, self.model = self.model, replace(self.model, state={}, step=None)
        return model


def prepare(plan: Plan, basis: Basis, say: Callable[[str], None], *, fetch: bool = True) -> Prepared:
    """Build the model, the strategy and the evaluation of ``plan``; read the last checkpoint, or the weights to begin
    with. Nothing is written but data that has to be fetched; without ``fetch`` it is said that it has to, and there is
    no evaluation.

    Raises UsageError for what cannot be done, CheckpointError where the files do not fit the record.
    """
    settings = plan.settings
    built = build_model(settings)
    state, built.state = built.state, {}  # two models are in memory now; a third one has to do for all the rest
    layout = {name: tensor.to("meta") for name, tensor in state.items()}
    strategy = load_strategy(settings.model.strategy)
    evaluator = _evaluator(settings, say, fetch=fetch)
    for line in changes(settings, basis.code_before):
        logger.warning("%s", line)
    rows = basis.committed
    if rows:
        state.clear()
        with or_go_back(plan, rows[:-1]):
            model = _last_model(rows[-1], layout, strategy, basis.checkpoints)
        model = replace(model, step=_last_step(rows, model.state, basis.checkpoints))
    else:
        if basis.weights is not None:
            state.clear()
            given = load_weights(basis.weights, settings.model.strategy, strategy)
            check_same_layout(layout, given, basis.weights.option)
            state = {name: given[name].contiguous() for name in layout}
        model = CurrentModel(-1, state, None)
    check_room(plan.settings, model, say)
    return Prepared(
        model=model,
        made=tuple(MadeRound.of(row) for row in rows if row["checkpoint_deleted_at"] is None),
        tied=built.tied,
        buffers=built.buffers,
        template=built.template,
        strategy=strategy,
        evaluator=evaluator,
        checkpoints=basis.checkpoints,
        kept=basis.kept if settings.store.keep_updates else None,
        parameters=built.parameters,
        parameter_tensors=built.parameter_tensors,
    )


@dataclass(kw_only=True)
class Built:
    """The model as its code makes it: its ``state``, the template of its message, and the rest as in ``Prepared``."""

    state: State
    template: Template
    tied: dict[str, str]
    buffers: frozenset[str]
    parameters: int
    parameter_tensors: int


def build_model(settings: ServerSettings) -> Built:
    """Make the model that the settings name. Raises UsageError where it cannot be made, or cannot be sent."""
    module = build(settings.model.model, settings.model.seed)
    state = state_of(module, shared=True)
    template = template_of(module, settings.model.model)
    if list(template.module.tensors) != list(state):
        raise UsageError(f"--model {settings.model.model}: its pickle does not hold the tensors of its state_dict")
    sizes = [parameter.numel() for parameter in module.parameters()]
    return Built(
        state=state,
        template=template,
        tied=tied_names(module),
        buffers=frozenset(state) - {name for name, _ in module.named_parameters(remove_duplicate=False)},
        parameters=sum(sizes),
        parameter_tensors=len(sizes),
    )


def _evaluator(settings: ServerSettings, say: Callable[[str], None], *, fetch: bool) -> Evaluator | None:
    dataset = settings.evaluation.eval_data
    missing = to_be_fetched(dataset, settings.evaluation.data_dir) if dataset is not None and not fetch else None
    if missing is not None:
        say(f"--eval-data {dataset}: nothing of it is in {missing}; a start fetches it")
        return None
    evaluator = evaluator_for(settings.evaluation, lambda: build(settings.model.model, settings.model.seed))
    if evaluator is None:
        say(
            "no --eval-data: the rounds' loss and accuracy stay empty. A learning curve then needs trainers that "
            "report metrics, as flclient does; unchanged trainers report none"
        )
    return evaluator


def _last_model(committed: Row, layout: State, strategy: Strategy, checkpoints: Checkpoints) -> CurrentModel:
    """Read the model of the last ``committed`` round, a row of v1_rounds, and give the strategy back its own tensors.

    Raises CheckpointError, and UsageError where it has not the names, shapes and dtypes of ``layout``.
    """
    stored, own = checkpoints.read(committed["checkpoint"], committed["model_digest"])
    check_same_layout(layout, stored, f"checkpoint {committed['checkpoint']}")
    strategy.load_state(own)
    return CurrentModel(committed["round"], {name: stored[name] for name in layout}, committed["model_digest"])


def _last_step(rows: Sequence[Row], state: State, checkpoints: Checkpoints) -> Step | None:
    """How the model of the last round came of the one before, where that one's checkpoint is there and sound: nothing
    but a measure of updates rests on it."""
    if len(rows) < 2 or rows[-2]["checkpoint_deleted_at"] is not None:
        return None
    with suppress(CheckpointError, UsageError):
        before, _ = checkpoints.read(rows[-2]["checkpoint"], rows[-2]["model_digest"])
        check_same_layout(state, before, "")
        return step_of({name: before[name] for name in state}, state)
    return None


def load_weights(weights: Weights, named: str, strategy: Strategy) -> State:
    """The tensors to begin with; where they are of a parent with the strategy that is ``named``, ``strategy`` gets its
    own back.

    Raises UsageError, and CheckpointError where a round's file is not what the record says.
    """
    if weights.digest is None:
        assert isinstance(weights.path, Path)  # a file that the operator named
        return read_weights(weights.path)
    try:
        model, own = read(weights.path, weights.digest)
    except CheckpointError as error:
        if weights.strategy is None:
            raise
        raise UsageError(f"{weights.option}: {error}") from error
    if weights.strategy == named:
        strategy.load_state(own)
    return model


def template_of(module: nn.Module, spec: str) -> Template:
    """The model as it goes on the wire. Raises UsageError where it cannot, or would lose its hooks on the way."""
    twin = wire_module(module)
    try:
        template = Template.of({"header": GlobalModel.header, "model": twin}, payload_of)
    except PickleRefused as error:
        raise UsageError(f"--model {spec}: trainers' answers could not be read: {error}") from error
    except Exception as error:  # pickle's own, and whatever the model's __reduce__ or __getstate__ raises
        raise UsageError(f"--model {spec} cannot be pickled: {what_is_not_pickled(twin) or one_line(error)}") from error
    if hooks_of(module):
        check_survival(module, template.buffer, f"--model {spec}")
    return template
