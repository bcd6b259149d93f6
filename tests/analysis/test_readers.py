"""The README's examples for pandas, polars and DuckDB, run as they stand there."""

import ast
import re

import pandas as pd
import pytest
from commands import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def value_of(source):
    """The value of a block's last expression, as a notebook shows it."""
    *statements, last = ast.parse(source).body
    names = {}
    exec(compile(ast.Module(statements, []), "README.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "README.md", "eval"), names)


def rows_of(value):
    """A pandas or polars frame, or a DuckDB relation, as a set of tuples: the arm, and its error rounded."""
    if isinstance(value, pd.DataFrame):
        found = value.itertuples(index=False)
    else:
        found = value.rows() if hasattr(value, "rows") else value.fetchall()
    return {(*arm, round(float(error), 9)) for *arm, error in found}


@pytest.fixture
def here(made_up, tmp_path, monkeypatch):
    made_up.write(tmp_path / "results")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def means(here):
    """The mean final error of each arm of the plan, whose trials then get those of another grid beside them."""
    path = "results/problem4/export/epochs.parquet"
    epochs = pd.read_parquet(path)
    pd.concat([epochs, epochs.assign(trial_id="of another grid", validation_error=1.0)]).to_parquet(path)
    arm = ["config_augmentation", "config_M", "config_schedule"]
    return epochs.query("epoch == 100").groupby(arm)["validation_error"].mean()


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_the_readmes_example_gives_the_plans_grid(library, means):
    pytest.importorskip(library)
    (source,) = [e for e in EXAMPLES if f"import {library}" in e]
    assert rows_of(value_of(source)) == {(*arm, round(float(mean), 9)) for arm, mean in means.items()}
