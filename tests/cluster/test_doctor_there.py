"""`farm doctor` and `farm submit`'s refusals, on a site with a real Slurm."""

from __future__ import annotations

import pytest
from commands import COUNTING
from slurm_lab import Lab

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_a_site_in_order_passes_every_check(lab: Lab) -> None:
    done = lab.farm("doctor", "problem=4", "profile=smoke", f"results={lab.results.with_name('doctor')}")
    assert done.code == 0, done.out + done.err
    assert "ok    Slurm's flags: Job" in done.out
    assert "ok    shared storage: " in done.out
    assert "written on login, read on gr00" in done.out
    assert "ok    data: synthetic" in done.out


def test_storage_of_one_node_alone_fails(lab: Lab) -> None:
    done = lab.farm("doctor", "results=/tmp/farm-doctor-of-the-login-node")
    assert (done.code, "FAIL  shared storage" in done.out) == (3, True), done.out


def test_what_slurm_would_refuse_fails_before_anything_queues(lab: Lab) -> None:
    results = f"results={lab.results.with_name('refused')}"
    done = lab.farm("doctor", "slurm.partition=nowhere", results)
    assert (done.code, "FAIL  Slurm's flags" in done.out, "nvalid partition" in done.out) == (3, True, True), done.out
    refused = lab.farm("submit", f"study={COUNTING}", "slurm.partition=nowhere", results)
    assert (refused.code, "nvalid partition" in refused.err) == (3, True), refused.err
    assert lab.on("login", "squeue", "--noheader", "--name=farm-counting", "--partition=nowhere").out == ""


def test_a_trial_that_no_node_type_holds_is_told_at_once(lab: Lab) -> None:
    words = (f"study={COUNTING}", "resources.gpu=8", f"results={lab.results.with_name('large')}")
    plan = lab.farm("plan", *words)
    assert (plan.code, "8 GPUs on one node; the largest node has 8 CPUs and 4 GPUs" in plan.out) == (1, True), plan.out
    done = lab.farm("submit", *words)
    assert (done.code, "the largest node of this site has 4 GPUs" in done.err) == (2, True), done.err
