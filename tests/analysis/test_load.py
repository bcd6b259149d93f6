import hashlib
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from analysis.load import AnalysisError, load


def test_trials_of_the_plan_are_read_with_their_rows(study_dir):
    data = load(study_dir)
    assert set(data.rows["trial_id"]) <= set(data.plan["trial_id"])
    assert len(data.ended("completed")) == 15
    assert data.table == "epochs"


def test_what_the_plan_does_not_hold_is_left_out(study_dir):
    plan = pd.read_parquet(study_dir / "export/plan.parquet")
    plan.iloc[:2].to_parquet(study_dir / "export/plan.parquet")
    data = load(study_dir)
    assert set(data.rows["trial_id"]) == set(data.trials["trial_id"]) == set(plan["trial_id"][:2])


def test_what_is_missing_is_told(study_dir):
    assert load(study_dir).missing["state"].tolist() == ["new"]


def test_rows_of_a_trial_that_is_not_done_are_left_out(study_dir):
    plan = pd.read_parquet(study_dir / "export/plan.parquet")
    plan.loc[0, "state"] = "partial"
    plan.to_parquet(study_dir / "export/plan.parquet")
    assert plan["trial_id"][0] not in set(load(study_dir).rows["trial_id"])


def test_an_absent_export_says_which_command_makes_it(tmp_path):
    with pytest.raises(AnalysisError, match=r"farm export study=PATH/TO/nothing\.yaml"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["plan", "trials", "attempts"])
def test_a_missing_table_is_named(study_dir, name):
    (study_dir / f"export/{name}.parquet").unlink()
    with pytest.raises(AnalysisError, match=rf"{name}\.parquet is missing"):
        load(study_dir)


@pytest.mark.parametrize(
    ("name", "column"), [("trials", "status"), ("plan", "state"), ("plan", "name"), ("epochs", "trial_id")]
)
def test_a_table_without_a_column_that_every_export_has_is_named(study_dir, name, column):
    path = study_dir / f"export/{name}.parquet"
    pd.read_parquet(path).drop(columns=column).to_parquet(path)
    with pytest.raises(AnalysisError, match=rf"{name}\.parquet: no column '{column}'.* `farm export study=problem4`"):
        load(study_dir)


def test_a_missing_row_table_is_told(study_dir):
    (study_dir / "export/epochs.parquet").unlink()
    with pytest.raises(AnalysisError, match="found none"):
        load(study_dir)


def test_a_truncated_file_is_named(study_dir):
    path = study_dir / "export/epochs.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AnalysisError, match=r"epochs\.parquet: not readable"):
        load(study_dir)


def test_a_table_that_is_not_what_was_exported_is_refused(study_dir):
    path = study_dir / "export/epochs.parquet"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (study_dir / "export/digests.json").write_text(json.dumps({"epochs.parquet": digest}))
    load(study_dir)
    pd.read_parquet(path).assign(epoch=1).to_parquet(path)
    with pytest.raises(AnalysisError, match=r"epochs\.parquet: not what was exported"):
        load(study_dir)


def test_an_epoch_that_is_there_twice_is_refused(study_dir):
    rows = pd.read_parquet(study_dir / "export/epochs.parquet")
    pd.concat([rows, rows.iloc[[7]]]).to_parquet(study_dir / "export/epochs.parquet")
    with pytest.raises(AnalysisError, match=r"epoch 8 of 000000000000 is there twice"):
        load(study_dir)


def test_a_done_trial_without_its_row_is_refused(study_dir):
    trials = pd.read_parquet(study_dir / "export/trials.parquet")
    trials.iloc[1:].to_parquet(study_dir / "export/trials.parquet")
    with pytest.raises(AnalysisError, match=r"absent from trials\.parquet"):
        load(study_dir)


def test_loading_imports_neither_matplotlib_nor_torch_nor_ray():
    code = "import sys, analysis.load; sys.exit(bool({'matplotlib', 'torch', 'ray', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_several_row_tables_are_read_and_the_first_declared_is_the_main_one(study_dir):
    plan = pd.read_parquet(study_dir / "export/plan.parquet")
    plan.assign(config_module="two_tables").to_parquet(study_dir / "export/plan.parquet")
    rows = pd.read_parquet(study_dir / "export/epochs.parquet")
    (study_dir / "export/epochs.parquet").unlink()
    rows.to_parquet(study_dir / "export/steps.parquet")
    rows.head(1).to_parquet(study_dir / "export/boxes.parquet")
    data = load(study_dir)
    assert (data.table, len(data.tables["boxes"]), len(data.rows)) == ("steps", 1, len(data.tables["steps"]))


def test_row_tables_that_the_module_does_not_declare_are_told(study_dir):
    pd.read_parquet(study_dir / "export/epochs.parquet").to_parquet(study_dir / "export/circles.parquet")
    with pytest.raises(AnalysisError, match="found circles, epochs"):
        load(study_dir)


@pytest.mark.parametrize(
    ("name", "last_run", "word"),
    [
        ("problem4", "# farm run problem=4", "study=problem4"),
        ("smoothing", "# farm run study=../my/smoothing.yaml seeds=[0]", "study=../my/smoothing.yaml"),
        ("smoothing", "", "study=PATH/TO/smoothing.yaml"),
        ("smoothing", "# farm run 'study=/my work/smoothing.yaml'\n", "'study=/my work/smoothing.yaml'"),
    ],
)
def test_a_hint_names_a_study_as_commands_know_it(tmp_path, name, last_run, word):
    (tmp_path / name).mkdir()
    (tmp_path / name / "study.yaml").write_text(f"{last_run}\nstudy: {name}\n")
    with pytest.raises(AnalysisError, match=f"`farm export {re.escape(word)}` writes one"):
        load(tmp_path / name)


def test_rows_of_trials_without_an_end_are_those_of_the_plan_alone(study_dir):
    plan, rows = (pd.read_parquet(study_dir / f"export/{name}.parquet") for name in ("plan", "epochs"))
    without_end = plan.loc[plan["state"] != "done", "trial_id"].tolist()
    found = pd.concat([rows.head(2).assign(trial_id=[*without_end, "elsewhere"]), rows.tail(1)])
    (study_dir / "export/unfinished").mkdir()
    found.to_parquet(study_dir / "export/unfinished/epochs.parquet")
    assert load(study_dir).unfinished["epochs"].equals(found.head(1))


def test_an_export_without_them_has_their_columns(study_dir):
    data = load(study_dir)
    assert data.unfinished["epochs"].empty
    assert data.unfinished["epochs"].dtypes.equals(data.rows.dtypes)


def test_a_damaged_file_of_them_is_named_to_who_asks_for_it(study_dir):
    (study_dir / "export/unfinished").mkdir()
    (study_dir / "export/unfinished/epochs.parquet").write_text("junk")
    data = load(study_dir)
    with pytest.raises(AnalysisError, match=r"unfinished/epochs\.parquet: not readable"):
        data.unfinished  # noqa: B018  # it is read now
