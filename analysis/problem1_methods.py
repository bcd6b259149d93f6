"""The written part of problem 1: symbols, equations and hyperparameters of the five methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis import equations
from analysis.load import Data
from analysis.provenance import source
from analysis.table import Table, plain_table
from trials.methods import METHODS, Method

SYMBOLS: Mapping[str, tuple[str, str]] = {
    "theta": (
        r"\theta",
        "the parameters, all weights and biases; right of an arrow before the step, left of it after",
    ),
    "gradient": (
        r"\nabla J",
        "the gradient of the loss, the mean cross-entropy $J$ of one minibatch, at the point in brackets",
    ),
    "lambda_": (
        r"\lambda",
        r"strength of the L2 term: $\frac{\lambda}{2}\lVert\theta\rVert^2$ is added to the loss, so $\lambda\theta$ "
        "to its gradient",
    ),
    "g": ("g", "the gradient that the method works with, that of the L2 term included"),
    "eta": (r"\eta", "the learning rate, constant through a run"),
    "r": (
        "r",
        "squared gradients of each parameter so far, zero at first: their sum in AdaGrad, elsewhere a moving average",
    ),
    "epsilon": (r"\epsilon", "a small number that keeps the denominator from zero"),
    "rho": (r"\rho", r"decay rate of the moving average: about the last $1/(1-\rho)$ steps count"),
    "theta_ahead": (
        r"\tilde{\theta}",
        "the look-ahead point, to which the velocity alone would lead; the gradient is taken there",
    ),
    "v": (
        "v",
        "in RMSProp + Nesterov the velocity, a decaying sum of past steps; in Adam the moving average of squared "
        "gradients, which elsewhere is $r$; zero at first",
    ),
    "alpha": (r"\alpha", "momentum: the part of the velocity that a step keeps"),
    "delta": (r"\delta", r"a small number below the root, which does what $\epsilon$ does elsewhere"),
    "phi": (r"\phi", r"$\theta + \alpha v$, the look-ahead point, kept in place of $\theta$"),
    "s": ("s", "the step that the gradient alone would make"),
    "step": (r"\Delta", "AdaDelta's step"),
    "u": ("u", "moving average of AdaDelta's squared steps, zero at first"),
    "t": ("t", "number of the step, from 1"),
    "m": ("m", "moving average of the gradients (first moment), zero at first"),
    "beta_1": (r"\beta_1", "decay rate of the first moment"),
    "beta_2": (r"\beta_2", "decay rate of the second moment"),
    "m_hat": (
        r"\hat{m}",
        r"$m$ corrected for its start at zero, which makes the first averages too small by the factor $1-\beta_1^t$",
    ),
    "v_hat": (r"\hat{v}", "$v$ corrected in the same way"),
}
"""Name in the code: its LaTeX, and what it is, in Markdown."""
LATEX = {name: latex for name, (latex, _) in SYMBOLS.items()}


@dataclass(frozen=True)
class Written:
    """One method as a report shows it: its equations and those it is computed by, hyperparameters with values.

    `learning_rate` says what was run and what the default is, which are not the same where it `departs`.
    """

    name: str
    title: str
    equations: list[str]
    one_pass: list[str]
    learning_rate: str
    departs: bool
    constants: str


def written(data: Data) -> list[Written]:
    """All methods, in the sheet's order."""
    run, planned = rates_run(data), set(data.plan["config_method"])
    return [
        Written(
            name=name,
            title=method.title,
            equations=_equations(method.update),
            one_pass=_equations(method.one_pass) if method.one_pass else [],
            learning_rate=learning_rate(method, run[name], name in planned),
            departs=run[name] not in ((), (method.learning_rate,)),
            constants=", ".join(f"${LATEX[c]} = {latex_number(value)}$" for c, value in method.constants.items()),
        )
        for name, method in METHODS.items()
    ]


def rates_run(data: Data) -> dict[str, tuple[float, ...]]:
    """The learning rates of each method's finished trials, lowest first."""
    done = data.plan[data.plan["state"] == "done"]
    return {m: tuple(sorted(set(done.loc[done["config_method"] == m, "config_learning_rate"]))) for m in METHODS}


def explanations() -> list[tuple[str, str]]:
    """LaTeX and meaning of every symbol that stands in an equation."""
    functions = [f for m in METHODS.values() for f in (m.update, m.one_pass) if f]
    used = set().union(*(equations.names(f) for f in functions))
    return [meaning for name, meaning in SYMBOLS.items() if name in used]


def learning_rate(method: Method, run: Sequence[float], planned: bool) -> str:
    """The rates that were run, and the default named as such, in Markdown with equations."""
    default = latex_number(method.learning_rate)
    if not run:
        return rf"$\eta = {default}$ (the default; {'no trial has ended yet' if planned else 'not in this study'})"
    shown = " and ".join(rf"$\eta = {latex_number(rate)}$" for rate in run)
    return f"{shown} (the default)" if list(run) == [method.learning_rate] else f"{shown} (the default is ${default}$)"


def latex_number(value: float) -> str:
    r""" "0.99", and "10^{-8}" or "3 \cdot 10^{-5}" for small numbers."""
    if value >= 0.001:
        return f"{value:g}"
    digits, exponent = f"{value:.6e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return power if float(digits) == 1 else rf"{float(digits):g} \cdot {power}"


def hyperparameters_table(data: Data) -> Table:
    """Each method's hyperparameters: the learning rates that were run, this project's default and torch's."""
    names = {"epsilon": "ε", "rho": "ρ", "alpha": "α", "delta": "δ", "beta_1": "β₁", "beta_2": "β₂"}
    run, planned = rates_run(data), set(data.plan["config_method"])
    records: list[dict[str, Any]] = [
        {
            "method": m.title,
            "learning_rate": ", ".join(f"{rate:g}" for rate in run[name])
            or ("none yet" if name in planned else "not in this study"),
            "default_learning_rate": f"{m.learning_rate:g}",
            "torch_learning_rate": f"{m.torch_learning_rate:g}" if m.torch_learning_rate else "not in torch",
            "constants": ", ".join(f"{names[k]} = {v:g}" for k, v in m.constants.items()),
        }
        for name, m in METHODS.items()
    ]
    headings = {
        "method": "Method",
        "learning_rate": "Learning rate η, as run",
        "default_learning_rate": "Default",
        "torch_learning_rate": "torch's default",
        "constants": "Constants",
    }
    notes = ("The default learning rates were chosen on held-out training images, not taken from torch.",)
    shown = plain_table("Hyperparameters of each method", pd.DataFrame(records), headings, notes)
    done = data.plan.loc[data.plan["state"] == "done", "trial_id"]
    return replace(shown, source=source(data, list(done), "defaults and constants are those of trials/methods.py"))


def _equations(function: Callable[..., Any]) -> list[str]:
    return equations.equations(function, LATEX)
