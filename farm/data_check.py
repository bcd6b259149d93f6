"""Whether the data that planned trials read are here: a run has them prepared, a plan only looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from farm.config import Config
from farm.errors import PreflightError
from farm.plan import Plan


def prepare(config: Config, plan: Plan) -> None:
    """Have the dataset decoded and cached before any trial asks for it.

    Where no node here can hold what is left, a `data_root=` that is wrong is said all the same. Raises
    `PreflightError` for data that are not there, or not what they should be.
    """
    from trials import data

    with _refused(config):
        if plan.to_run and config.settings.data != "none":
            data.load(config.settings.data, config.data_root, config.cache)
        else:
            _look(config, plan)


def foreseen(config: Config, plan: Plan) -> str:
    """What `prepare` would be refused by, as far as folders and the files' footers tell; "" where it is not seen."""
    try:
        with _refused(config):
            _look(config, plan)
    except PreflightError as error:
        return str(error)
    return ""


def _look(config: Config, plan: Plan) -> None:
    from trials import data

    left = any(t.state != "done" for t in plan.trials)
    if config.settings.data == "cifar10" and left and (plan.to_run or config.settings.data_root):
        data.find_cifar10(config.data_root)


@contextlib.contextmanager
def _refused(config: Config) -> Iterator[None]:
    from trials import data

    try:
        yield
    except data.DataError as error:
        raise PreflightError(f"data={config.settings.data}: {error}") from None
