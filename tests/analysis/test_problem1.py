import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import equations, problem1, problem1_learning_rates, problem1_methods, style
from analysis.load import Data, load
from analysis.markup import to_html
from analysis.options import Options
from analysis.problem1_answers import Best, answers, results
from analysis.problem1_rates import choices, points
from analysis.report import write_main_results, write_report
from trials.methods import METHODS

GPU = "NVIDIA H200"
EPOCHS = 5
LOSS = {"adagrad": 0.5, "rmsprop": 0.3, "rmsprop_nesterov": 0.2, "adadelta": 0.4, "adam": 0.1}


class Export:
    """Collects trials of problem 1, then writes the four Parquet files."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {"epochs": [], "trials": [], "attempts": [], "plan": []}

    def add(
        self,
        method: str,
        dropout: bool,
        seed: int = 0,
        *,
        rate: float | None = None,
        status: str = "completed",
        device: str = GPU,
        devices: str = "",
        holdout: int = 0,
        error: float = 0.4,
        epochs: int = EPOCHS,
        resumed_after: int = 0,
        timed: bool = True,
    ) -> str:
        """One trial with its rows; status "new" is one that has not run."""
        trial = f"{len(self.tables['plan']):012x}"
        parameters = {"method": method, "dropout": dropout, "epochs": epochs, "batch_size": 128, "holdout": holdout}
        parameters |= {"learning_rate": rate or METHODS[method].learning_rate, "weight_decay": 1e-4}
        spec = {"seed": seed, "dataset": "cifar10", "fingerprint": "f", "revision": 1, "module": "trials.problem1"}
        spec |= {"timed": timed and not holdout, "hardware": device, "threads": 1}
        config = {f"config_{k}": v for k, v in (parameters | spec).items()}
        ids = {"trial_id": trial, "name": f"{method}-{dropout}-{seed}"}
        done = status != "new"
        self.tables["plan"].append(ids | {"state": "done" if done else "new", "status": status, "reason": ""} | config)
        self.tables["attempts"].append(ids | {"attempt": 1, "how": status, "error_class": "", "device": device})
        if not done:
            return trial
        lasted = epochs if status == "completed" else 2
        self.tables["trials"].append(
            ids
            | {"status": status, "device": device, "devices": devices or device, "finished_at": "2026-11-23"}
            | {
                "startup_seconds": 1.5 + seed,
                "diverged_epoch": lasted + 1.0 if status == "diverged" else None,
                "farm_commit": "c" * 40,
            }
            | {"weight_scaling_difference": 1e-5 * (seed + 1) if dropout else None, "weight_scaling_changed": 0.0}
            | {"weight_scaling_train_difference": 2e-5, "weight_scaling_largest_logit": 20.0}
            | config
        )
        for epoch in range(1, lasted + 1):
            loss = LOSS[method] * (1 + 1 / epoch) + 0.001 * seed
            seconds = 0.06 + 0.01 * dropout + 0.0001 * seed + (1.0 if epoch in (1, resumed_after + 1) else 0.0)
            unseen = "validation" if holdout else "test"
            self.tables["epochs"].append(
                ids
                | {"attempt": 1 + (0 < resumed_after < epoch), "epoch": epoch, "train_loss": loss + 0.5 * dropout}
                | {"train_eval_loss": loss + 0.1 * dropout, f"{unseen}_error": error + 0.2 / epoch - 0.05 * dropout}
                | {"train_seconds": seconds, "steps": 390, "samples": 49_920}
                | config
            )
        return trial

    def write(self, results: Path, study: str = "problem1") -> Data:
        """Write `<results>/<study>/export/` and read it."""
        export = results / study / "export"
        export.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            pd.DataFrame(rows).to_parquet(export / f"{name}.parquet", index=False)
        return load(results / study)


@pytest.fixture
def export() -> Export:
    return Export()


@pytest.fixture
def whole(export: Export, tmp_path: Path) -> Data:
    """Three seeds of all ten arms, but AdaGrad with dropout diverged and one AdaDelta is missing."""
    for method in METHODS:
        for dropout in (False, True):
            for seed in range(3):
                lost = method == "adagrad" and dropout, method == "adadelta" and dropout and seed == 2
                export.add(method, dropout, seed, status="diverged" if lost[0] else "new" if lost[1] else "completed")
    return export.write(tmp_path)


def cells(table: Any, *keys: str) -> dict[Any, dict[str, str]]:
    """The cells that a reader sees, by the first columns."""
    spaced = [[c.replace("\N{NO-BREAK SPACE}", " ") for c in row] for row in table.cells]
    rows = [dict(zip(table.headings, row, strict=True)) for row in spaced]
    return {tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]]: r for r in rows}


def test_all_ten_arms_are_in_the_table_of_losses(whole: Data) -> None:
    found = cells(problem1.tables(whole)["training-loss"], "Method", "Regularization")
    assert len(found) == 10
    assert found["Adam", "L2"]["Running (nats)"].startswith("0.121 (")
    assert found["Adam", "L2 + dropout"]["Eval mode (nats)"].startswith("0.221 (")


def test_a_diverged_arm_says_when_and_a_missing_seed_is_counted(whole: Data) -> None:
    found = cells(problem1.tables(whole)["training-loss"], "Method", "Regularization")
    assert found["AdaGrad", "L2 + dropout"]["Running (nats)"] == "–"
    assert found["AdaGrad", "L2 + dropout"]["Remarks"] == "3 of 3 seeds diverged at epoch 3"
    assert found["AdaDelta", "L2 + dropout"]["n"] == "2 of 3"


def test_time_leaves_out_the_warm_up_and_compares_both_arms(whole: Data) -> None:
    table = problem1.tables(whole)["training-time"]
    assert GPU in table.title
    row = table.frame.set_index("method").loc["Adam"]
    assert (row["plain"], row["plain_n"]) == (pytest.approx(0.0601), 3)
    assert row["ratio"] == pytest.approx(0.0701 / 0.0601, rel=1e-5)
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]
    assert row["plain_total"] == pytest.approx(1 + 5 * 0.0601)


def test_the_first_epoch_of_a_resumed_attempt_is_a_warm_up_too(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, resumed_after=3)
    (result,) = results(export.write(tmp_path), Options())
    assert result.epoch_seconds == pytest.approx([0.06] * 3)


def test_one_seed_has_an_interval_over_its_epochs(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    (result,) = results(export.write(tmp_path), Options())
    assert result.seconds.n == EPOCHS - 1


def test_a_ratio_of_one_seed_and_three_has_no_interval_and_counts_seeds(export: Export, tmp_path: Path) -> None:
    for seed in range(3):
        export.add("adam", False, seed, epochs=20)
    export.add("adam", True, epochs=20)
    row = problem1.tables(export.write(tmp_path))["training-time"].frame.iloc[0]
    assert (row["ratio"], row["ratio_n"]) == (pytest.approx(0.07 / 0.0601, rel=1e-4), 1)
    assert math.isnan(row["ratio_low"])


def test_untimed_trials_have_no_seconds(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, timed=False)
    table = problem1.tables(export.write(tmp_path))["training-time"]
    row = cells(table, "Method")["Adam"]
    assert (row["L2 (s/epoch)"], row["L2, 5 epochs (s)"]) == ("–", "–")
    assert row["Remarks"] == "L2: untimed"
    assert any(note.startswith("Untimed:") for note in table.notes)


def test_one_epoch_gives_no_time_and_no_ratio(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, epochs=1)
    export.add("adam", True, epochs=1)
    row = problem1.tables(export.write(tmp_path))["training-time"].frame.iloc[0]
    assert math.isnan(row["plain"])
    assert math.isnan(row["ratio"])


def test_gpu_models_never_share_a_table_of_times(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    export.add("adam", True, device="NVIDIA L40S")
    tables = problem1.tables(export.write(tmp_path))
    times = {name: t for name, t in tables.items() if name.startswith("training-time")}
    assert set(times) == {"training-time-nvidia-h200", "training-time-nvidia-l40s"}
    assert all(math.isnan(t.frame["ratio"].iloc[0]) for t in times.values())


def test_times_pieced_together_give_no_ratio(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    export.add("adam", True, devices=f"{GPU}, NVIDIA L40S")
    table = problem1.tables(export.write(tmp_path))["training-time"]
    assert math.isnan(table.frame["ratio"].iloc[0])
    assert "pieced together" in cells(table, "Method")["Adam"]["Remarks"]


def test_accuracy_has_all_ten_and_what_dropout_changes(whole: Data) -> None:
    found = cells(problem1.tables(whole)["test-accuracy"], "Method")
    assert list(found) == [m.title for m in METHODS.values()]
    assert found["Adam"]["L2 (%)"] == "56.00 (all 3)"
    assert found["Adam"]["Difference (points)"].startswith("+5.00")
    assert found["AdaGrad"]["L2 + dropout (%)"] == "–"


def test_the_best_method_is_named_with_its_lead(whole: Data) -> None:
    found = answers(whole, results(whole, Options()), Options())
    best = found.best_eval[False]
    assert best is not None
    assert (best.first.method, best.excluded) == ("adam", True)
    assert best.second is not None
    assert best.second.method == "rmsprop_nesterov"


def test_a_lead_of_single_seeds_excludes_nothing(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    export.add("rmsprop", False)
    data = export.write(tmp_path)
    best = answers(data, results(data, Options()), Options()).best_running[False]
    assert best is not None
    assert not best.excluded


def first_by_accuracy(export: Export, tmp_path: Path, errors: dict[str, tuple[float, float, float]]) -> Best:
    """The best of arms whose three seeds have these test errors."""
    for method, values in errors.items():
        for seed, error in enumerate(values):
            export.add(method, False, seed, error=error)
    data = export.write(tmp_path)
    found = answers(data, results(data, Options()), Options()).best_accuracy
    assert found is not None
    assert (found.first.method, found.second and found.second.method) == ("adam", "rmsprop")
    return found


CLOSE = {"adam": (0.30, 0.31, 0.32), "rmsprop": (0.33, 0.34, 0.35)}
"""A lead of 3.7 standard errors: the 95 % interval of one comparison, of 2.8, excludes zero."""


def test_the_best_of_five_is_picked_so_its_lead_has_to_be_larger(export: Export, tmp_path: Path) -> None:
    assert first_by_accuracy(export, tmp_path / "two", CLOSE).excluded
    far = dict.fromkeys(("adagrad", "rmsprop_nesterov", "adadelta"), (0.6, 0.61, 0.62))
    assert not first_by_accuracy(Export(), tmp_path / "five", CLOSE | far).excluded


def test_an_arm_that_scatters_may_be_the_best_though_the_runner_up_is_not(export: Export, tmp_path: Path) -> None:
    clear = {"adam": (0.10, 0.11, 0.12), "rmsprop": (0.50, 0.51, 0.52), "adagrad": (0.2, 0.6, 1.0)}
    assert not first_by_accuracy(export, tmp_path, clear).excluded


def report(export: Export, tmp_path: Path) -> str:
    """The report's text, with plain spaces and unbroken lines."""
    export.write(tmp_path)
    text = write_report(tmp_path / "problem1", "1").markdown.read_text()
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


@pytest.mark.parametrize("status", ["diverged", "oom", "new"])
@pytest.mark.parametrize("method", ["adam", "rmsprop"])
def test_arms_that_lost_a_seed_exclude_no_chance(export: Export, tmp_path: Path, method: str, status: str) -> None:
    for arm in ("adam", "rmsprop"):
        for seed in range(3):
            export.add(arm, False, seed, status=status if (arm, seed) == (method, 2) else "completed")
    data = export.write(tmp_path)
    best = answers(data, results(data, Options()), Options()).best_running[False]
    assert best is not None
    assert (best.first.method, best.excluded) == ("adam", False)


@pytest.mark.parametrize("timed", [True, False])
def test_the_protocol_says_what_the_times_leave_out(export: Export, tmp_path: Path, timed: bool) -> None:
    for seed in range(3):
        export.add("adam", False, seed, timed=timed)
    known = " (1.5 to 3.5 s a trial, column `startup_seconds`)" if timed else ""
    assert f"evaluations, building the steps{known}, what else a start or a resume takes" in report(export, tmp_path)


def test_a_winner_that_lost_a_seed_is_named_with_what_became_of_it(export: Export, tmp_path: Path) -> None:
    for method, error in (("adam", 0.3), ("rmsprop", 0.4)):
        for seed in range(3):
            for dropout in (False, True):
                lost = method == "adam" and seed == 2
                export.add(method, dropout, seed, error=error, status="diverged" if lost else "completed")
    text = report(export, tmp_path)
    assert "n = 2) nats (1 of 3 seeds diverged at epoch 3), before RMSProp" in text
    assert "n = 2) nats (1 of 3 seeds diverged at epoch 3) (chance is not excluded); in eval mode" in text
    assert "(all 2) (1 of 3 seeds diverged at epoch 3) (chance is not excluded). What dropout changes:" in text


def test_the_only_arm_with_results_beats_none(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    export.add("rmsprop", False, status="new")
    export.add("adam", True, status="new")
    text = report(export, tmp_path)
    assert "With L2 alone only **Adam** has completed trials: " in text
    assert "Only **Adam with L2** has completed trials: " in text
    assert not any(words in text for words in ("The highest", "The lowest", "What dropout changes:", "Against part 2"))


def test_a_winner_of_some_of_the_arms_says_of_how_many(export: Export, tmp_path: Path) -> None:
    for dropout in (False, True):
        for method in ("adam", "rmsprop", "adagrad"):
            export.add(method, dropout, status="new" if method == "adagrad" else "completed")
    text = report(export, tmp_path)
    assert text.count("(of the 2 of 3 arms that have completed trials)") == 2
    assert "epoch (of the 4 of 6 arms that have completed trials) is that of" in text


def test_arms_with_different_epochs_share_no_number_of_them(export: Export, tmp_path: Path) -> None:
    for epochs in (5, 10):
        for method in ("adam", "rmsprop"):
            export.add(method, False, epochs=epochs)
    text = report(export, tmp_path)
    assert "The lowest training loss after the last epoch is that of" in text
    assert "| L2, all epochs (s) |" in text


@pytest.mark.parametrize("dropout", [False, True])
def test_nothing_is_said_of_panels_and_differences_that_are_not_there(
    export: Export, tmp_path: Path, dropout: bool
) -> None:
    export.add("adam", dropout)
    export.add("rmsprop", dropout)
    text = report(export, tmp_path)
    assert not any(words in text for words in ("panel", "What dropout changes:", "Against part 2"))
    assert ("dropout active, without the L2 term" in text) == dropout


def test_a_name_with_a_value_has_no_possessive(export: Export, tmp_path: Path) -> None:
    for dropout in (False, True):
        lower = export.add("adam", dropout, rate=0.5)
        export.add("adam", dropout)
        for row in export.tables["epochs"]:
            row |= {"train_eval_loss": 0.01} if row["trial_id"] == lower else {}
            row |= {"train_loss": 9.0} if row["trial_id"] == lower else {}
    assert report(export, tmp_path).count("the lowest is that of Adam, learning_rate=0.5, 0.0100") == 2


def test_a_method_outside_the_study_is_not_waited_for(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    text = report(export, tmp_path)
    assert "no trial has ended yet" not in text
    assert r"Hyperparameters: $\eta = 0.1$ (the default; not in this study), " in text
    assert "| AdaDelta | not in this study |" in text


def test_the_check_of_weight_scaling_shows_the_worst_seed(whole: Data) -> None:
    (section,) = (s for s in problem1.sections(whole) if "weight-scaling" in s.tables)
    table = cells(section.tables["weight-scaling"], "Method")
    assert "AdaGrad" not in table
    assert table["Adam"]["Largest difference of test logits"] == "3e-05"
    assert table["Adam"]["Predictions changed"] == "0"


def test_figures_have_a_panel_an_arm_and_bands_for_three_seeds(whole: Data) -> None:
    figures = problem1.figures(whole)
    assert list(figures) == ["training-loss", "training-loss-eval", "test-error"]
    plain, dropout = figures["training-loss"].drawing.axes
    assert (plain.get_title("left"), dropout.get_title("left")) == ("L2", "L2 + dropout")
    assert (len(plain.collections), len(dropout.collections)) == (5, 3)
    assert "no completed trial: AdaGrad (L2 + dropout)" in figures["training-loss"].caption


def test_a_method_has_one_colour(whole: Data) -> None:
    found = {
        text.get_color()
        for figure in problem1.figures(whole).values()
        for axes in figure.drawing.axes
        for text in axes.texts
        if text.get_text() == "RMSProp"
    }
    assert found == {style.ARM_COLOURS["rmsprop"]}


def test_learning_rates_name_arms_only_where_a_method_has_several(export: Export, tmp_path: Path) -> None:
    export.add("adam", False)
    export.add("rmsprop", False)
    first = results(export.write(tmp_path / "one"), Options())
    export.add("adam", False, rate=0.5)
    second = results(export.write(tmp_path / "two"), Options())
    assert {r.title for r in first} == {"Adam", "RMSProp"}
    assert "Adam, learning_rate=0.5" in {r.title for r in second}


def test_a_method_whose_arms_differ_in_rate_is_no_pair(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, rate=0.5)
    export.add("adam", True)
    data = export.write(tmp_path)
    found = answers(data, results(data, Options()), Options())
    assert [p.title for p in found.pairs] == ["Adam, learning_rate=0.5", "Adam, learning_rate=0.0001"]
    assert not any(p.plain and p.dropout for p in found.pairs)


def test_the_report_says_the_rates_that_were_run_and_what_is_a_default(export: Export, tmp_path: Path) -> None:
    for dropout in (False, True):
        export.add("adam", dropout, rate=0.5)
        export.add("adagrad", dropout)
        export.add("adadelta", dropout, rate=0.7, status="new")
    data = export.write(tmp_path)
    (section,) = (s for s in problem1.sections(data) if "hyperparameters" in s.tables)
    table = cells(section.tables["hyperparameters"], "Method")
    run = {method: (row["Learning rate η, as run"], row["Default"]) for method, row in table.items()}
    assert run["Adam"] == ("0.5", "0.0001")
    assert run["AdaGrad"] == ("0.01", "0.01")
    assert run["AdaDelta"] == ("none yet", "0.1")
    text = write_report(tmp_path / "problem1", "1").markdown.read_text()
    assert r"Hyperparameters: $\eta = 0.5$ (the default is $10^{-4}$), $\beta_1 = 0.9$" in text
    assert r"Hyperparameters: $\eta = 0.01$ (the default), " in text
    assert r"Adam was run at $\eta = 0.5$ (the default is $10^{-4}$)." in text
    assert r"Hyperparameters: $\eta = 0.1$ (the default; no trial has ended yet), " in text
    assert "AdaGrad was run at" not in text


def test_the_report_answers_the_sheets_questions_in_typeset_equations(whole: Data, tmp_path: Path) -> None:
    paths = write_report(tmp_path / "problem1", "1")
    html = paths.html.read_text()
    assert html.count("<math") > 60
    assert "$" not in html.split("<body", 1)[1].replace("${", "")
    text = paths.markdown.read_text()
    assert "The lowest training loss after 5 epochs is that of **Adam**" in text
    assert "; chance is excluded." in text
    assert "at a level of 95 % for all these comparisons together" in text
    assert [q for s in problem1.sections(whole) for q in s.questions] == ["1.1", "1.2", "1.3", "1.4"]


@pytest.mark.parametrize("status", ["new", "diverged"])
def test_a_report_without_any_completed_trial_says_so(export: Export, tmp_path: Path, status: str) -> None:
    export.add("adam", False, status=status)
    export.add("rmsprop", False)
    del export.tables["plan"][1]  # of another grid in the same ledger
    export.write(tmp_path)
    text = write_report(tmp_path / "problem1", "1").markdown.read_text()
    assert text.count("nothing can be said yet") == 3


def test_every_symbol_of_an_equation_is_explained() -> None:
    functions = [f for m in METHODS.values() for f in (m.update, m.one_pass) if f]
    used = set().union(*(equations.names(f) for f in functions))
    assert used == set(problem1_methods.SYMBOLS)
    assert len(problem1_methods.explanations()) == len(used)


@pytest.mark.parametrize("method", METHODS)
def test_the_equations_are_the_lines_of_the_reference(whole: Data, method: str) -> None:
    (shown,) = (w for w in problem1_methods.written(whole) if w.name == method)
    assert shown.equations[-1 if method != "rmsprop_nesterov" else 1].startswith(
        r"\theta \leftarrow \theta" if method != "rmsprop_nesterov" else r"g \leftarrow \nabla J\left(\tilde{\theta}"
    )
    assert all("<math" in to_html(f"$${e}$$") for e in shown.equations + shown.one_pass)
    assert all(f"{v:g}".split("e")[0] in shown.constants for v in METHODS[method].constants.values() if v > 1e-4)


def test_arithmetic_is_bracketed_where_it_has_to_be() -> None:
    def code(a: float, b: float, c: float) -> float:
        a = (a + b) * (b - c) ** 2
        b = a - (b - c)
        c = -(a / b) * c
        return c

    symbols = {name: name for name in "abc"}
    assert equations.equations(code, symbols) == [
        r"a \leftarrow \left(a + b\right) \, \left(b - c\right)^{2}",
        r"b \leftarrow a - \left(b - c\right)",
        r"c \leftarrow -\frac{a}{b} \, c",
    ]


def test_what_cannot_be_typeset_is_refused() -> None:
    def code(a: int, b: int) -> int:
        a = a % b
        return a

    with pytest.raises(ValueError, match="a % b"):
        equations.equations(code, {"a": "a", "b": "b"})
    with pytest.raises(KeyError):
        equations.equations(METHODS["adam"].update, {"t": "t"})


def grid(export: Export, tmp_path: Path, **last: Any) -> Data:
    for rate, error in ((0.001, 0.5), (0.01, 0.4), (0.1, 0.6)):
        for dropout in (False, True):
            export.add("adam", dropout, rate=rate, error=error, holdout=500)
    export.add("adam", True, rate=1.0, error=0.1, holdout=500, **last)
    return export.write(tmp_path, "problem1-learning-rates")


def test_the_grid_chooses_the_rate_with_the_lowest_validation_error(export: Export, tmp_path: Path) -> None:
    data = grid(export, tmp_path, status="diverged")
    (choice,) = choices(points(data, Options()))
    assert (choice.chosen.rate, choice.edges) == (0.01, ())
    assert choice.chosen.mean == pytest.approx(0.4 + 0.2 / EPOCHS - 0.025)
    table = cells(problem1.main(data)[1]["learning-rates"], "Method", "Learning rate")
    assert table["Adam", "0.01"]["Remarks"] == "chosen"
    assert table["Adam", "1"]["Remarks"] == "L2: no trial; L2 + dropout: 1 diverged at epoch 3"


def test_a_rate_that_one_arm_alone_ran_is_not_chosen(export: Export, tmp_path: Path) -> None:
    data = grid(export, tmp_path)
    tables = problem1.main(data)[1]
    chosen = cells(tables["chosen-rates"], "Method")["Adam"]
    assert (chosen["Chosen here"], chosen["Best for L2 + dropout"]) == ("0.01", "1")
    assert chosen["Remarks"].startswith("at an end of the ladder: the best for L2 + dropout;")
    alone = cells(tables["learning-rates"], "Method", "Learning rate")["Adam", "1"]
    assert (alone["Mean (%)"], alone["Remarks"]) == ("–", "L2: no trial")


def test_a_rate_at_which_one_arm_diverged_may_be_the_others_best(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, rate=1.0, error=0.1, holdout=500, status="diverged")
    data = grid(export, tmp_path)
    (choice,) = choices(points(data, Options()))
    assert (choice.chosen.rate, choice.best) == (0.01, {False: 0.01, True: 1.0})


@pytest.mark.parametrize(("status", "settled"), [("new", False), ("diverged", True), ("oom", True)])
def test_a_ladder_that_has_not_ended_chooses_nothing_yet(
    export: Export, tmp_path: Path, status: str, settled: bool
) -> None:
    data = grid(export, tmp_path, status=status)
    (choice,) = choices(points(data, Options()))
    remark = "–" if settled else "ahead so far: of 4 rates 3 ended, the rest not yet run or failed"
    assert (choice.chosen.rate, choice.settled, choice.remark) == (0.01, settled, remark)
    table = cells(problem1.main(data)[1]["learning-rates"], "Method", "Learning rate")
    assert table["Adam", "0.01"]["Remarks"] == ("chosen" if settled else "ahead so far")
    text = write_report(tmp_path / "problem1-learning-rates", "1").markdown.read_text()
    assert ("this grid chooses" in text) == settled
    assert ("- Adam: 0.01 is ahead so far (of 4 rates 3 ended" in text) != settled


def test_a_failed_rate_may_still_run(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, rate=1.0, holdout=500, status="new")
    export.tables["plan"][-1]["state"] = "failed"
    (choice,) = choices(points(grid(export, tmp_path), Options()))
    assert not choice.settled


def test_a_method_without_a_whole_rate_is_named(export: Export, tmp_path: Path) -> None:
    for dropout in (False, True):
        export.add("adadelta", dropout, rate=0.1, holdout=500, status="new" if dropout else "completed")
    grid(export, tmp_path)
    text = write_report(tmp_path / "problem1-learning-rates", "1").markdown.read_text()
    assert "- AdaDelta: no rate has all its trials completed, so nothing is chosen." in text


def test_a_choice_at_the_end_of_the_ladder_is_marked(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, rate=1.0, error=0.1, holdout=500)
    data = grid(export, tmp_path)
    (choice,) = choices(points(data, Options()))
    assert choice.edges == ("the chosen rate", "the best for L2", "the best for L2 + dropout")
    table = cells(problem1.main(data)[1]["chosen-rates"], "Method")
    assert table["Adam"]["Chosen here"] == "1"
    assert "the chosen rate, the best for L2," in table["Adam"]["Remarks"]


def test_a_grid_in_which_more_varies_is_not_averaged_over(export: Export, tmp_path: Path) -> None:
    export.add("adam", False, rate=0.01, holdout=500)
    export.add("adam", False, rate=0.01, holdout=700)
    figures, tables = problem1.main(export.write(tmp_path))
    assert (set(figures), len(tables["arms"].frame)) == ({"validation_error"}, 2)


def test_the_grid_has_a_report_that_compares_with_the_code(export: Export, tmp_path: Path) -> None:
    grid(export, tmp_path, status="diverged")
    study = tmp_path / "problem1-learning-rates"
    assert {p.stem for p in write_main_results(study, "1")} == {"learning-rates", "chosen-rates"}
    text = write_report(study, "1").markdown.read_text()
    assert f"chooses 0.01, the default in the code is {METHODS['adam'].learning_rate:g}" in text
    assert "500 training images that were held out" in text.replace("\n", " ")


def test_latex_of_every_table_is_plain(whole: Data) -> None:
    tables = [table for section in problem1.sections(whole) for table in section.tables.values()]
    assert [line for table in tables for line in table.latex().splitlines() if not line.isascii()] == []


def test_the_page_on_learning_rates_is_what_the_rows_give() -> None:
    """Tables and choices are those of the reference rows, and the code's defaults are the rates that were chosen."""
    root = Path(__file__).parents[2]
    data = load(root / "analysis" / "reference" / "problem1-learning-rates")
    page = (root / "docs" / "problem1-learning-rates.md").read_text()
    for table in problem1_learning_rates.main(data)[1].values():
        assert table.markdown().strip() in page
    made = choices(points(data, Options()))
    assert {c.title: c.chosen.rate for c in made} == {m.title: m.learning_rate for m in METHODS.values()}
    assert f"| run | {len(data.plan)} trials," in page


def test_no_interval_of_a_loss_goes_below_zero(tmp_path: Path) -> None:
    export = Export()
    trials = [export.add("adam", False, seed) for seed in range(3)]
    for trial, loss in zip(trials, (0.01, 0.1, 0.9), strict=True):
        for row in export.tables["epochs"]:
            row |= {"train_loss": loss, "train_eval_loss": loss} if row["trial_id"] == trial else {}
    data = export.write(tmp_path)
    (result,) = results(data, Options())
    assert (result.running_loss.low, result.eval_loss.low) == (0, 0)
    assert problem1.figures(data)["training-loss-eval"].data["low"].min() == 0
