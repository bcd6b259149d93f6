"""From the command line and a study's YAML file to one resolved, checked configuration.

Selectors (`problem`, `study`, `profile`, `site`, `trial=ID`) are taken from the command line first, because
they decide which files are read; then defaults, site, study, profile and overrides merge in that order.
Imports neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, GrammarParseError, OmegaConfBaseException, ValidationError
from yaml import YAMLError

from farm.checks import axis_values, check_ranges, nearest, short_path, typed
from farm.errors import UsageError
from farm.site import Slurm, check_time, expand
from trials.spec import Scalar, parameter, trial_module

ROOT = Path(__file__).resolve().parent.parent
CONF = Path(__file__).resolve().parent / "conf"
TEXTS = ("time", "results", "data_root", "hardware", "title", "module", "ray_address")
"""Keys whose values are text, whatever YAML would make of it."""
QUOTES = "'\""
SELECTORS = ("problem", "study", "profile", "site", "trial")


@dataclass
class Resources:
    """What one trial holds while it runs. `cpu` and `gpu` are numbers or the name of a parameter."""

    cpu: Any = parameter(1, "CPUs of one trial, a number or a parameter's name", unit="CPUs", minimum=0)
    gpu: Any = parameter(0, "GPUs of one trial, fractions allowed, or a parameter's name", unit="GPUs", minimum=0)
    exclusive: str = parameter("", "`node` keeps every other trial off the node", choices=("", "node"))


@dataclass
class Settings:
    """Every key of a study file and of the command line, except the trial module's own parameters."""

    problem: str = parameter("", "problem of the homework sheet that the study answers")
    title: str = parameter("", "one line for reports")
    module: str = parameter("", "trial module that runs a spec, e.g. trials.problem4")
    data: str = parameter("cifar10", "dataset", choices=("cifar10", "synthetic", "none"))
    data_root: str | None = parameter(None, "directory of CIFAR-10: torchvision's batches or Parquet shards")
    results: str | None = parameter(None, "directory of results (else $FARM_RESULTS, the site's, ./results)")
    device: str = parameter("auto", "device of a trial", choices=("auto", "cpu", "cuda"))
    timed: bool = parameter(False, "the wall-clock is a result: a trial has its GPUs to itself")
    hardware: str | None = parameter(None, "GPU model of timed trials (else read from this machine)")
    threads: int = parameter(1, "CPU threads of a trial", unit="threads", minimum=1, maximum=1024)
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "seeds; each repeats the whole grid"})
    trial: Any = field(default_factory=dict, metadata={"help": "values of the trial module's parameters"})
    sweep: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "axes of the grid: a list of values for each parameter"}
    )
    zip: list[Any] = field(default_factory=list, metadata={"help": "groups of axes that move together"})
    extra: list[Any] = field(default_factory=list, metadata={"help": "points outside the product"})
    resources: Resources = field(default_factory=Resources)
    executor: str = parameter("ray", "`inline` runs in this process, without Ray", choices=("ray", "inline"))
    ray_address: str | None = parameter(
        None, "Ray cluster to join, `up` for that of `farm up` (else $RAY_ADDRESS, else a local Ray)"
    )
    cpus: int | None = parameter(None, "CPUs of the local Ray (else all)", unit="CPUs", minimum=1)
    gpus: int | None = parameter(None, "GPUs of the local Ray (else all; may be logical)", unit="GPUs", minimum=0)
    commit_seconds: float = parameter(30.0, "least time between two commits of a trial", unit="s", minimum=0)
    drain_seconds: float = parameter(
        5.0, "on a stop, an epoch that ends within this time is finished", unit="s", minimum=0
    )
    retries: int = parameter(3, "times that a trial is tried again after an infrastructure failure", minimum=0)
    back_off_seconds: float = parameter(
        1.0, "pause before the first of these, four times as long before each further one", unit="s", minimum=0
    )
    max_gpu_hours: float | None = parameter(
        None,
        "run nothing where the plan's estimate is above it, or where a trial has none",
        unit="GPU-hours",
        minimum=0,
    )
    retry: str = parameter("none", "`failed` runs trials again that failed", choices=("none", "failed"))
    keep: str = parameter("none", "`weights` keeps the final state of each trial", choices=("none", "weights"))
    view: str = parameter("auto", "live table or plain lines", choices=("auto", "live", "plain"))
    nodes: int = parameter(1, "nodes of a Slurm allocation", unit="nodes", minimum=1)
    gpus_per_node: int | None = parameter(
        None, "GPUs of each node of a Slurm allocation (else what one trial needs)", unit="GPUs", minimum=0
    )
    time: str = parameter("04:00:00", "walltime of a Slurm job")
    head: str = parameter("job", "`farm up`: a Slurm job of its own, or `here`", choices=("job", "here"))
    slurm: Slurm = field(default_factory=Slurm)


@dataclass(frozen=True)
class Config:
    """The resolved configuration of one run of a study."""

    study: str
    study_file: Path
    profile: str | None
    site: str
    trial_id: str | None
    settings: Settings
    parameters: dict[str, Scalar]
    sweep: dict[str, list[Scalar]]
    zip: list[dict[str, list[Scalar]]]
    extra: list[dict[str, Scalar]]
    results: Path
    tree: DictConfig

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
    selectors, overrides = _split(arguments)
    site = selectors.get("site", "local")
    layer = _read(_site_file(site))
    default = layer.pop("results", None)
    for skipped in ("trial", "sweep", "zip", "extra"):
        overrides.pop(skipped, None)
    tree = _layered(OmegaConf.structured(Settings), [(f"site {site}", layer), ("the command line", overrides)])
    settings = _resolved(tree)
    return Place(site, settings, results_directory(settings.results, default))


def load(arguments: list[str]) -> Config:
    """Resolve `key=value` arguments into a configuration. Raises `UsageError` with the nearest key or range."""
    selectors, overrides = _split(arguments)
    study_file = _study_file(selectors, [str(k) for k in overrides])
    study = _read(study_file)
    name = str(study.pop("study", study_file.stem))
    profiles: Any = study.pop("profiles", None) or {}
    if not isinstance(profiles, dict):
        raise UsageError(f"{short_path(study_file)}: profiles: a mapping of names to overrides is expected")
    layers: list[tuple[str, Any]] = [(f"study {name}", study)]
    if profile := selectors.get("profile"):
        if profile not in profiles:
            raise UsageError(f"profile={profile}: study {name} has {_listing(profiles)}")
        if not isinstance(profiles[profile], dict):
            raise UsageError(f"profile {profile} of study {name}: a mapping of keys to values is expected")
        layers.append((f"profile {profile}", profiles[profile]))
    site = selectors.get("site", "local")
    place = _read(_site_file(site))
    results = place.pop("results", None)
    layers.insert(0, (f"site {site}", place))
    layers.append(("the command line", overrides))
    tree = _merge(layers, study_file)
    _check_axes(tree, overrides)
    return _checked(name, study_file, selectors, tree, results)


def studies() -> list[str]:
    """Names of the studies that come with the farm."""
    return sorted(p.stem for p in (CONF / "study").glob("*.yaml"))


def results_directory(value: str | None, site: str | None = None) -> Path:
    """`results=`, else $FARM_RESULTS, else the site's, else <checkout>/results, made absolute."""
    chosen = value or os.environ.get("FARM_RESULTS") or (site and expand(site))
    return Path(chosen).expanduser().absolute() if chosen else ROOT / "results"


def data_directory(value: str | None) -> Path:
    """`data_root=`, else <checkout>/data, made absolute."""
    return Path(value).expanduser().absolute() if value else ROOT / "data"


def _split(arguments: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    selectors: dict[str, str] = {}
    rest: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            hint = f" (did you mean {argument}=…?)" if argument in SELECTORS else ""
            raise UsageError(f"{argument!r} is not key=value{hint}; see --help")
        if key in SELECTORS:
            selectors[key] = value
        elif key in TEXTS and value not in ("", "null"):  # YAML reads 8:00:00 as a number and "a #b" as a comment
            rest.append(f"{key}={json.dumps(value.strip(QUOTES))}")
        else:
            rest.append(argument)
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist(rest))
        assert isinstance(tree, dict)
        return selectors, {str(k): v for k, v in tree.items()}
    except (YAMLError, GrammarParseError) as error:
        reason = str(error).splitlines()[0]
        wrong = next((a for a in rest if not _parses(a)), " ".join(rest))
        raise UsageError(f"{wrong}: the value is not valid YAML ({reason})") from None
    except (OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{' '.join(rest)[:200]}: {str(error).splitlines()[0]}") from None


def _parses(argument: str) -> bool:
    try:
        OmegaConf.from_dotlist([argument])
    except (YAMLError, GrammarParseError):
        return False
    return True


def _study_file(selectors: dict[str, str], others: list[str]) -> Path:
    if "study" in selectors:
        chosen = selectors["study"]
        if chosen.endswith((".yaml", ".yml")):
            path = Path(chosen).expanduser().absolute()
            if not path.is_file():
                raise UsageError(f"study={chosen}: no such file")
            return path
        return _named_file("study", chosen, CONF / "study")
    if "problem" in selectors:
        name = f"problem{selectors['problem']}"
        if name in studies():
            return CONF / "study" / f"{name}.yaml"
        numbers = [s.removeprefix("problem") for s in studies() if s.removeprefix("problem").isdigit()]
        raise UsageError(f"problem={selectors['problem']}: the problems are {', '.join(numbers)}")
    known = [*SELECTORS, *(f.name for f in dataclasses.fields(Settings))]
    wrong = "".join(f"{k}: no such key{nearest(k, known, prefix='; nearest is ')}. " for k in others if k not in known)
    raise UsageError(f"{wrong}Say which study: problem=4, study=NAME or study=FILE.yaml; see --help")


def _site_file(site: str) -> Path:
    if not site.endswith((".yaml", ".yml")):
        return _named_file("site", site, CONF / "site")
    path = Path(site).expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"site={site}: no such file")
    return path


def _named_file(kind: str, name: str, directory: Path) -> Path:
    names = sorted(p.stem for p in directory.glob("*.yaml"))
    if name not in names:
        raise UsageError(f"{kind}={name}: {nearest(name, names)}{kind} files are {', '.join(names)}")
    return directory / f"{name}.yaml"


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{short_path(path)}: {error}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{short_path(path)}: a mapping of keys to values is expected")
    return {str(k): v for k, v in tree.items()}


def _merge(layers: list[tuple[str, Any]], study_file: Path) -> DictConfig:
    """Merge layers onto the typed defaults; a wrong key or type names the layer it came from."""
    tree = OmegaConf.structured(Settings)
    module = next((layer["module"] for _, layer in reversed(layers) if "module" in layer), None)
    if not module:
        raise UsageError(f"{short_path(study_file)}: `module` is missing (a trial module, e.g. trials.problem4)")
    tree.trial = typed(_parameters(str(module), study_file))
    return _layered(tree, layers)


def _layered(tree: Any, layers: list[tuple[str, Any]]) -> DictConfig:
    for origin, layer in layers:
        try:
            tree = OmegaConf.merge(tree, layer)
        except ConfigKeyError as error:
            raise UsageError(f"{_unknown_key(error, tree)} (in {origin})") from None
        except (ValidationError, OmegaConfBaseException, ValueError, TypeError) as error:
            key = getattr(error, "full_key", "") or ""
            raise UsageError(f"{key}: {str(error).splitlines()[0]} (in {origin})") from None
    assert isinstance(tree, DictConfig)
    return tree


def _parameters(module: str, study_file: Path) -> Any:
    """The module's `Parameters`; a module that lies beside its study file is found too."""
    if not study_file.is_relative_to(CONF) and str(study_file.parent) not in sys.path:
        sys.path.append(str(study_file.parent))
    try:
        parameters = trial_module(module).Parameters
        dataclasses.fields(parameters)
        return parameters
    except Exception as error:  # the user's own code is run here for the first time, and may hold any mistake
        raise UsageError(f"module: {module}: {type(error).__name__}: {error}") from None


def _unknown_key(error: ConfigKeyError, tree: Any) -> str:
    full = str(getattr(error, "full_key", "") or getattr(error, "key", ""))
    parent, _, _ = full.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    names = [f"{parent}.{k}" if parent else str(k) for k in (node or {})]
    if not parent:
        names += [*SELECTORS, *(f"trial.{k}" for k in tree.trial)]
    return f"{full}: no such key{nearest(full, names, prefix='; nearest is ')}"


def _check_axes(tree: DictConfig, overrides: Mapping[str, Any]) -> None:
    """Refuse what would be ignored in silence: a value for an axis, or one axis zipped twice.

    A zipped parameter takes the place of an axis of the same name.
    """
    swept = [str(k) for k in tree.sweep]
    zipped = [str(k) for group in tree.zip if isinstance(group, DictConfig) for k in group]
    for key in zipped:
        if zipped.count(key) > 1:
            raise UsageError(f"zip: {key} stands in more than one group")
    trial = overrides.get("trial")
    given: dict[Any, Any] = trial if isinstance(trial, dict) else {}
    for key, value in given.items():
        if key in swept or key in zipped:
            raise UsageError(f"trial.{key}={value}: {key} is an axis of this study; sweep.{key}=[{value}] sets it")


def _listing(names: Any) -> str:
    return f"profiles {', '.join(sorted(names))}" if names else "no profiles"


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
    check_time(settings.time, settings.slurm.signal_seconds)
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
        trial_id=selectors.get("trial"),
        settings=settings,
        parameters=dataclasses.asdict(settings.trial),
        sweep=axis_values(settings.sweep, schema, "sweep"),
        zip=groups,
        extra=points,
        results=results_directory(settings.results, site_default),
        tree=tree,
    )
