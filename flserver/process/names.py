"""What the settings name, looked at without torch: a slip of the pen is said at once, with what was perhaps meant."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from flserver.cluster.ray import check_cluster
from flserver.errors import NotInstalled, UsageError
from flserver.files import complaints, group_id
from flserver.plugins import check_importable, check_name
from flserver.process.ray.room import require_room
from flserver.settings import DATASETS, SERVER_SETTINGS, STRATEGIES, ServerSettings, StorePolicy, defaults
from flserver.settings.hosts import Unresolved, addresses
from flserver.settings.policies import check_kept
from flserver.text import did_you_mean

LOCAL_HOSTS = ("127.0.0.1", "localhost", "0.0.0.0")
BUILT_IN_MODEL: str = defaults(SERVER_SETTINGS)["model"]


def check_names(settings: ServerSettings, *, begun: bool = False) -> None:
    """Raises UsageError where an option names what is not there, as far as that can be told without torch."""
    for check in checks(begun=begun):
        check(settings)


def checks(*, begun: bool) -> tuple[Callable[[ServerSettings], None], ...]:
    """What is looked at, each by itself; of a run that has ``begun`` the model is in its checkpoints."""
    return NAMES if begun else (*NAMES, _initial_weights)


def _host(settings: ServerSettings) -> None:
    host = settings.network.host
    try:
        addresses(host or LOCAL_HOSTS[-1], settings.network.server_port, "--host")
    except Unresolved as error:
        raise Unresolved(f"{error}{did_you_mean(host, LOCAL_HOSTS)}") from error


def _model(settings: ServerSettings) -> None:
    spec = settings.model.model
    source, built_in = spec.partition(":")[0], BUILT_IN_MODEL.partition(":")[0]
    if spec == BUILT_IN_MODEL or source == "torchvision":
        return
    try:
        check_importable(spec, "--model", known=("torchvision", built_in))
    except UsageError as error:
        if source != built_in:
            raise
        raise UsageError(f"{error}; built in is {BUILT_IN_MODEL!r}") from error


def _group(settings: ServerSettings) -> None:
    group_id(settings.store.group)


def open_files(store: StorePolicy) -> list[str]:
    """A line for each thing that is there already and that not just those may read who are meant to: it stays so."""
    group, places = group_id(store.group), (store.db, store.checkpoint_dir)
    return [line for place in places if isinstance(place, Path) for line in complaints(place, group)]


def _strategy(settings: ServerSettings) -> None:
    check_name(settings.model.strategy, "--strategy", STRATEGIES)


def _eval_data(settings: ServerSettings) -> None:
    spec = settings.evaluation.eval_data
    if spec is not None and spec not in DATASETS:
        known = f"choose from {', '.join(DATASETS)}"
        raise UsageError(f"--eval-data {spec!r}: there is no such data set; {known}{did_you_mean(spec, DATASETS)}")
    if spec == "digits" and find_spec("sklearn") is None:
        raise NotInstalled("--eval-data digits needs scikit-learn", "demo")


def _evaluate(settings: ServerSettings) -> None:
    if settings.evaluation.evaluate is not None:
        check_importable(settings.evaluation.evaluate, "--evaluate")


def _initial_weights(settings: ServerSettings) -> None:
    spec = settings.model.initial_weights
    begins_with_them = settings.store.resume_from is None
    if begins_with_them and spec is not None and spec.endswith(".safetensors") and not Path(spec).exists():
        raise UsageError(f"--initial-weights {spec}: there is no such file")


def _kept_updates(settings: ServerSettings) -> None:
    check_kept(settings.store.keep_updates, settings.store.keep_updates_rounds)


def _sign_key(settings: ServerSettings) -> None:
    if settings.store.sign_key is not None:
        from flserver.process.signing import signer  # with cryptography and SQLAlchemy

        signer(settings.store)
    elif settings.store.sign_key_passphrase_file is not None:
        raise UsageError("--sign-key-passphrase-file needs --sign-key: it has that key's passphrase")


def _ray(settings: ServerSettings) -> None:
    address = settings.ingest.ray_address
    if address is not None:
        check_cluster(address)  # first: Ray would try for a minute
        require_room(address, settings.ingest.ingest)


NAMES = (_ray, _host, _group, _model, _strategy, _eval_data, _evaluate, _kept_updates, _sign_key)
