"""The tables of problem 1: training loss, training time, test accuracy, and the check of weight scaling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.arms import UNTIMED_NOTE
from analysis.load import Data
from analysis.options import Options
from analysis.problem1_answers import KINDS, Pair, Result, epochs_run, pairs
from analysis.provenance import source
from analysis.stats import NOTHING
from analysis.table import Shown, Table, estimate_column, estimate_columns, number_column, text_column
from analysis.words import counted

SPACE = "\N{NO-BREAK SPACE}"


def loss_table(data: Data, found: Sequence[Result], options: Options) -> Table:
    """Training loss after the last epoch of all arms, running and in eval mode."""
    frame = pd.DataFrame([_identity(r) | _losses(r) for r in found])
    return Table(
        title="Training loss in the last epoch",
        frame=frame,
        columns=(
            text_column("Method", "method"),
            text_column("Regularization", "regularization"),
            _counted(),
            estimate_column("Running (nats)", "running_loss", "#.3g"),
            estimate_column("Eval mode (nats)", "eval_loss", "#.3g"),
            text_column("Remarks", "remark"),
        ),
        notes=(
            f"Mean cross-entropy over n seeds, in brackets its {100 * options.confidence:g} % t interval, cut at zero "
            "(none for n = 1). Running: over the epoch's batches with the weights as they were, dropout active. Eval "
            "mode: of the whole training set after the epoch, without dropout; only this compares the regularizations.",
        ),
        source=source(data, [i for r in found for i in r.completed]),
    )


def time_table(data: Data, found: Sequence[Result], options: Options, device: str) -> Table:
    """Seconds of training an epoch and in all, with and without dropout, and their ratio."""
    frame = pd.DataFrame([_times(pair, device) for pair in pairs(found, options)])
    epochs = counted(epochs_run(found) or "all", "epoch")
    notes = [
        "Training only, without evaluation. The first epoch of each attempt, which warms up, is not in the seconds "
        f"an epoch, but is in the whole. In brackets {100 * options.confidence:g} % intervals, cut at zero: over "
        "seeds, or with one seed over its epochs; the ratio is of geometric means over seeds (Welch on logarithms; no "
        "interval where an arm has one seed).",
    ]
    if any(r.pieced for r in found):
        notes.append("† Pieced together from attempts on different devices, so no ratio is given.")
    if any(r.n and not r.arm.timed for r in found):
        notes.append(UNTIMED_NOTE)
    return Table(
        title="Training time with and without dropout" + (f" ({device})" if device else ""),
        frame=frame,
        columns=(
            text_column("Method", "method"),
            estimate_column("L2 (s/epoch)", "plain", "#.3g"),
            estimate_column("L2 + dropout (s/epoch)", "dropout", "#.3g"),
            estimate_column("Ratio", "ratio", ".3f"),
            estimate_column(f"L2, {epochs} (s)", "plain_total", ",.1f"),
            estimate_column(f"L2 + dropout, {epochs} (s)", "dropout_total", ",.1f"),
            text_column("Remarks", "remark"),
        ),
        notes=tuple(notes),
        source=source(data, [i for r in found for i in r.completed]),
    )


def accuracy_table(data: Data, found: Sequence[Result], options: Options) -> Table:
    """Test accuracy of all ten, and what dropout changes."""
    return Table(
        title="Test accuracy after the last epoch",
        frame=pd.DataFrame([_accuracies(pair) for pair in pairs(found, options)]),
        columns=(
            text_column("Method", "method"),
            estimate_column("L2 (%)", "plain", ".2f", 100),
            estimate_column("L2 + dropout (%)", "dropout", ".2f", 100),
            estimate_column("Difference (points)", "gain", "+.2f", 100),
            text_column("Remarks", "remark"),
        ),
        notes=(
            f"Mean over seeds, in brackets its {100 * options.confidence:g} % t interval, cut at 0 and 100 % "
            "(Welch's, not cut, for the difference; none for one seed). Of the last epoch, not of the best one. No "
            "weight is scaled at test time, because this dropout is inverted, which is the same.",
        ),
        source=source(data, [i for r in found for i in r.completed]),
    )


def scaling_table(data: Data, found: Sequence[Result], records: Sequence[Mapping[str, Any]]) -> Table:
    """Differences between inverted dropout in eval mode and classical dropout with scaled weights."""
    return Table(
        title="Inverted dropout against weight scaling, on the trained networks",
        frame=pd.DataFrame(list(records)),
        columns=(
            text_column("Method", "method"),
            number_column("n", "n", ".0f"),
            number_column("Largest difference of test logits", "weight_scaling_difference", ".2g"),
            number_column("Largest test logit", "weight_scaling_largest_logit", ".3g"),
            number_column("Predictions changed", "weight_scaling_changed", ".0f"),
            number_column("Largest difference in training", "weight_scaling_train_difference", ".2g"),
        ),
        notes=(
            "The largest over n seeds and all test images. In training both networks get the same masks.",
        ),
        source=source(data, [i for r in found if r.dropout for i in r.completed]),
    )  # fmt: skip


def _identity(r: Result) -> dict[str, Any]:
    planned = len(r.arm.trials)
    rest = {"n": r.n, "planned": planned, "remark": r.remark or "–"}
    return {"method": r.title, "regularization": KINDS[r.dropout], **rest}


def _counted() -> Shown:
    return Shown("n", lambda row: f"{row['n']}{SPACE}of{SPACE}{row['planned']}")


def _losses(r: Result) -> dict[str, float]:
    return {**estimate_columns("running_loss", r.running_loss), **estimate_columns("eval_loss", r.eval_loss)}


def _times(pair: Pair, device: str) -> dict[str, Any]:
    record: dict[str, Any] = {"method": pair.title, "device": device}
    for name, result in (("plain", pair.plain), ("dropout", pair.dropout)):
        record |= estimate_columns(name, result.seconds if result else NOTHING)
        record |= estimate_columns(f"{name}_total", result.total_seconds if result else NOTHING)
    return record | estimate_columns("ratio", pair.time_ratio) | {"remark": _remarks(pair, lambda r: r.time_remark)}


def _accuracies(pair: Pair) -> dict[str, Any]:
    record: dict[str, Any] = {"method": pair.title}
    for name, result in (("plain", pair.plain), ("dropout", pair.dropout)):
        record |= estimate_columns(name, result.accuracy if result else NOTHING)
    return record | estimate_columns("gain", pair.accuracy_gain) | {"remark": _remarks(pair)}


def _remarks(pair: Pair, of: Callable[[Result], str] = lambda r: r.remark) -> str:
    both = [(r, of(r)) for r in (pair.plain, pair.dropout) if r]
    return "; ".join(f"{KINDS[r.dropout]}: {text}" for r, text in both if text) or "–"
