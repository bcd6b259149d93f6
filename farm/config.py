"""From the command line and a study's YAML file to one resolved, checked configuration.

Selectors (`problem`, `study`, `profile`, `site`, `trial=ID`) are taken from the command line first, because
they decide which files are read; then defaults, site, study, profile and overrides merge in that order.
Imports neither torch nor Ray.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from farm.checks import axis_values, check_ranges, check_reserved, check_retry, nearest, short_path, typed
from farm.command_line import CONF, SELECTORS, check_utf8, read, site_file, split, studies, study_file
from farm.errors import UsageError
from farm.recorded import named, naming_words
from farm.settings import Resources, Settings
from farm.site import check_options, check_time, expand
from trials.spec import ModuleError, Scalar, parameter_types, trial_module

__all__ = [
    "CONF", "ROOT", "Config", "Place", "Resources", "Settings", "data_directory", "load", "load_place", "place_of",
    "results_directory", "studies",
]  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    """The resolved configuration of one run of a study."""

    study: str
    study_file: Path
    profile: str | None
    site: str
    chosen: tuple[str, ...]
    """Beginnings of the ids of the trials that the grid is narrowed to; none: all of it."""
    settings: Settings
    parameters: dict[str, Scalar]
    sweep: dict[str, list[Scalar]]
    zip: list[dict[str, list[Scalar]]]
    extra: list[dict[str, Scalar]]
    results: Path
    tree: DictConfig
    looking: bool = False
    """Nothing is run by it: a timed study is of the GPU model that its ledger has, whatever this machine has."""
    with_finished: bool = False
    """The plan holds, beside the grid, what has finished and differs from it only in what is swept, and in seeds."""

    @property
    def ledger(self) -> Path:
        """Directory of the study's results."""
        return self.results / self.study

    @property
    def data_root(self) -> Path:
        """Directory of CIFAR-10: `data_root=`, else data/ in the checkout, where `farm data fetch` puts it."""
        return data_directory(self.settings.data_root)

    @property
    def cache(self) -> Path:
        """Directory of decoded datasets, beside the ledgers so that all nodes see it."""
        return self.results / ".cache"

    def yaml(self) -> str:
        """The resolved configuration as YAML, study and selectors first."""
        tree = OmegaConf.to_container(self.tree)
        assert isinstance(tree, dict)
        head = {"study": self.study, "profile": self.profile, "site": self.site}
        shown: dict[Any, Any] = {**head, **tree, "results": str(self.results)}
        return OmegaConf.to_yaml(OmegaConf.create(shown))


@dataclass(frozen=True)
class Place:
    """Where a study would run: a site's settings without a study."""

    site: str
    settings: Settings
    results: Path


def place_of(config: Config) -> Place:
    """The place of a configured study."""
    return Place(config.site, config.settings, config.results)


def load_place(arguments: list[str]) -> Place:
    """Resolve `key=value` arguments that need not name a study: the site's settings and the results directory."""
    selectors, overrides = split(arguments)
    site = selectors.get("site", "local")
    layer = read(site_file(site))
    default = layer.pop("results", None)
    for skipped in ("trial", "sweep", "zip", "extra"):
        overrides.pop(skipped, None)
    tree = _layered(OmegaConf.structured(Settings), [(f"site {site}", layer), ("the command line", overrides)])
    settings = _resolved(tree)
    return Place(site, settings, results_directory(settings.results, default))


def load(arguments: list[str], looking: bool = False) -> Config:
    """Resolve `key=value` arguments into a configuration. Raises `UsageError` with the nearest key or range."""
    selectors, overrides = split(arguments)
    try:
        file = study_file(selectors, [str(k) for k in overrides])
    except UsageError as error:
        raise UsageError(f"{error}{_with_results(selectors.get('study'), arguments)}") from None
    study = read(file)
    name = str(study.pop("study", file.stem))
    if name in studies() and not file.resolve().is_relative_to(CONF):
        raise UsageError(
            f"{short_path(file)}: study: {name} is one of the farm's own, whose results have that name; "
            f"choose another name, as study: my-{name}"
        )
    profiles: Any = study.pop("profiles", None) or {}
    if not isinstance(profiles, dict):
        raise UsageError(f"{short_path(file)}: profiles: a mapping of names to overrides is expected")
    layers: list[tuple[str, Any]] = [(f"study {name}", study)]
    if profile := selectors.get("profile"):
        if profile not in profiles:
            raise UsageError(f"profile={profile}: study {name} has {_listing(profiles)}")
        if not isinstance(profiles[profile], dict):
            raise UsageError(f"profile {profile} of study {name}: a mapping of keys to values is expected")
        layers.append((f"profile {profile}", profiles[profile]))
    site = selectors.get("site", "local")
    place = read(site_file(site))
    results = place.pop("results", None)
    layers.insert(0, (f"site {site}", place))
    layers.append(("the command line", overrides))
    tree = _merge(layers, file)
    config = _checked(name, file, selectors, tree, results)
    _check_axes(tree, overrides)  # after the ranges: what it suggests has to be right
    if looking:  # at what was run when there was no such check
        return dataclasses.replace(config, looking=True)
    files = [layer.get("resources") for _, layer in layers[:-1]]
    check_reserved(config, {k: v for part in files if isinstance(part, dict) for k, v in part.items()})
    return config


def _with_results(study: str | None, arguments: list[str]) -> str:
    """How the study is named of which there are results by this name, as a part of a message; "" without any."""
    with contextlib.suppress(UsageError):
        if study and study.replace("-", "").replace("_", "").isalnum():
            words = naming_words(load_place(arguments).results / study)
            return f"; the results of {study} are named by {named(words)}" if words else ""
    return ""


def results_directory(value: str | None, site: str | None = None) -> Path:
    """`results=`, else $FARM_RESULTS, else the site's, else <checkout>/results, made absolute.

    Raises `UsageError` for a path that is not UTF-8.
    """
    chosen = value or os.environ.get("FARM_RESULTS") or (site and expand(site))
    found = Path(chosen).expanduser().absolute() if chosen else ROOT / "results"
    check_utf8(f"results={found}")
    return found


def data_directory(value: str | None) -> Path:
    """`data_root=`, else <checkout>/data, made absolute."""
    return Path(value).expanduser().absolute() if value else ROOT / "data"


def _merge(layers: list[tuple[str, Any]], study_file: Path) -> DictConfig:
    """Merge layers onto the typed defaults; a wrong key or type names the layer it came from."""
    tree = OmegaConf.structured(Settings)
    module = next((layer["module"] for _, layer in reversed(layers) if "module" in layer), None)
    if not module:
        raise UsageError(f"{short_path(study_file)}: `module` is missing (a trial module, e.g. trials.problem4)")
    tree.trial = _parameters(str(module), study_file)
    return _layered(tree, layers)


def _layered(tree: Any, layers: list[tuple[str, Any]]) -> DictConfig:
    for origin, layer in layers:
        try:
            tree = OmegaConf.merge(tree, layer)
        except ConfigKeyError as error:
            raise UsageError(f"{_unknown_key(error, tree)} (in {origin})") from None
        except (ValidationError, OmegaConfBaseException, ValueError, TypeError) as error:
            text = _unlike(tree, layer) or f"{getattr(error, 'full_key', '') or ''}: {str(error).splitlines()[0]}"
            raise UsageError(f"{text} (in {origin})") from None
    assert isinstance(tree, DictConfig)
    return tree


def _unlike(tree: Any, layer: Any, prefix: str = "") -> str:
    """The first key that has no list, or no mapping, where one is expected; OmegaConf's error does not say it so."""
    for key, value in layer.items() if isinstance(layer, dict) else ():
        held = tree.get(key) if isinstance(tree, DictConfig) else None
        if isinstance(held, DictConfig) and not isinstance(value, dict):
            return f"{prefix}{key}: a mapping is expected"
        if isinstance(held, ListConfig) and not isinstance(value, list):
            shown = "…" if isinstance(value, dict) or value is None else value
            return f"{prefix}{key}: a list is expected, as {prefix}{key}=[{shown}]"
        if found := _unlike(held, value, f"{prefix}{key}."):
            return found
    return ""


def _parameters(module: str, study_file: Path) -> DictConfig:
    """The module's `Parameters`, as they are declared; a module that lies beside its study file is found too."""
    if not study_file.is_relative_to(CONF):  # after the farm's own, which `pip install -e` finds behind all paths
        sys.path += [p for p in (str(ROOT), str(study_file.parent)) if p not in sys.path]
    try:
        parameters = trial_module(module).Parameters
        dataclasses.fields(parameters)
        parameter_types(module)
        return typed(parameters)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"module: {module}: Parameters: {error.full_key or ''}: {reason}") from None
    except ModuleError as error:
        raise UsageError(f"module: {error}") from None
    except Exception as error:  # the user's own code is run here for the first time, and may hold any mistake
        reason = str(error).partition("\n")[0]  # OmegaConf adds lines of its own
        raise UsageError(f"module: {module}: {type(error).__name__}: {reason}") from None


def _unknown_key(error: ConfigKeyError, tree: Any) -> str:
    full = str(getattr(error, "full_key", "") or getattr(error, "key", ""))
    parent, dot, key = full.rpartition(".")
    names = [str(k) for k in (OmegaConf.select(tree, parent) if parent else tree) or ()]
    if not parent:
        names += [*SELECTORS, *(f"trial.{k}" for k in tree.trial)]
    return f"{full}: no such key{nearest(key, names, prefix=f'; nearest is {parent}{dot}')}"


def _check_axes(tree: DictConfig, overrides: Mapping[str, Any]) -> None:
    """Refuse what would be ignored in silence: a value for an axis, no axes at all, or one axis zipped twice.

    A zipped parameter takes the place of an axis of the same name.
    """
    swept = [str(k) for k in tree.sweep]
    zipped = [str(k) for group in tree.zip if isinstance(group, DictConfig) for k in group]
    for key in zipped:
        if zipped.count(key) > 1:
            raise UsageError(f"zip: {key} stands in more than one group")
    if swept and overrides.get("sweep") == {}:
        raise UsageError(f"sweep={{}} changes nothing: the axes {', '.join(swept)} stay; sweep.AXIS=[VALUE] fixes one")
    trial = overrides.get("trial")
    given: dict[Any, Any] = trial if isinstance(trial, dict) else {}
    for key, value in given.items():
        if key in swept or key in zipped:
            raise UsageError(f"trial.{key}={value}: {key} is an axis of this study; sweep.{key}=[{value}] sets it")


def _listing(names: Any) -> str:
    return f"profiles {', '.join(sorted(names))}" if names else "no profiles"


def _ids(text: str | None) -> tuple[str, ...]:
    """What `trial=` names."""
    if text is None:
        return ()
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise UsageError(f"trial={text}: ids of trials are expected; `farm plan` lists them")
    return found


def _resolved(tree: DictConfig) -> Settings:
    """The typed settings, each value within its range."""
    try:
        OmegaConf.resolve(tree)
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UsageError(f"{getattr(error, 'full_key', '')}: {str(error).splitlines()[0]}") from None
    assert isinstance(settings, Settings)
    check_ranges(settings, "")
    check_ranges(settings.resources, "resources.")
    check_ranges(settings.slurm, "slurm.")
    check_retry(settings.retry)
    check_time(settings.time, settings.slurm.signal_seconds)
    check_options("slurm.options", settings.slurm.options)
    check_options("slurm.head_options", settings.slurm.head_options)
    for kind, node in settings.slurm.node_types.items():
        check_ranges(node, f"slurm.node_types.{kind}.")
    return settings


def _checked(
    name: str, study_file: Path, selectors: dict[str, str], tree: DictConfig, site_default: str | None
) -> Config:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"study: {name!r} may hold letters, digits, - and _ only (it names a directory)")
    settings = _resolved(tree)
    check_ranges(settings.trial, "trial.")
    schema = type(settings.trial)
    if not settings.seeds or min(settings.seeds) < 0 or max(settings.seeds) >= 2**32:
        raise UsageError(f"seeds: at least one, each from 0 to {2**32 - 1}; here {settings.seeds}")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(f"seeds={settings.seeds}: a value stands there twice")
    groups = [axis_values(group, schema, f"zip.{i}") for i, group in enumerate(settings.zip)]
    for i, group in enumerate(groups):
        if len({len(values) for values in group.values()}) != 1:
            raise UsageError(f"zip.{i}: lists of equal length are expected, they move together")
    points = []
    for i, point in enumerate(settings.extra):
        if not isinstance(point, dict):
            raise UsageError(f"extra.{i}: a mapping of parameters to values is expected")
        single = axis_values({k: [v] for k, v in point.items()}, schema, f"extra.{i}")
        points.append({key: values[0] for key, values in single.items()})
    return Config(
        study=name,
        study_file=study_file,
        profile=selectors.get("profile"),
        site=selectors.get("site", "local"),
        chosen=_ids(selectors.get("trial")),
        settings=settings,
        parameters=dataclasses.asdict(settings.trial),
        sweep=axis_values(settings.sweep, schema, "sweep"),
        zip=groups,
        extra=points,
        results=results_directory(settings.results, site_default),
        tree=tree,
    )
