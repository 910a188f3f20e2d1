"""Finding a strategy by its name."""

from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.aggregation.strategy import Strategy
from flserver.errors import UsageError
from flserver.plugins import check_name, import_attribute

STRATEGIES: dict[str, type[Strategy]] = {"fedavg": FedAvg}


def load_strategy(spec: str) -> Strategy:
    """Make the strategy that ``spec`` names: one of ``STRATEGIES``, or ``package.module:Class``, without arguments.

    Raises UsageError, one line, where there is none, it cannot be made, or it is no Strategy.
    """
    check_name(spec, "--strategy", STRATEGIES)
    made = STRATEGIES.get(spec) or import_attribute(spec, "--strategy")
    try:
        strategy = made()
    except Exception as error:  # whatever a user's class raises
        raise UsageError(f"--strategy {spec}: {type(error).__name__}: {error}") from error
    if not isinstance(strategy, Strategy):
        raise UsageError(f"--strategy {spec} is not a flserver.aggregation.Strategy")
    return strategy
