"""Scenes, the stages of region proposals, suppression and the training: equal to torchvision's, and learning."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import nms

from trials import problem3, region_proposal, region_training, scene_rows, scenes, suppression
from trials.problem3_tables import TABLES
from trials.region_training import Recipe, learning_rate

SMALL = Recipe(
    epochs=2, steps=3, batch_size=2, learning_rate=2e-3, box_weight=5.0, scene_size=96, suppression_iou=0.7,
    before_suppression=200, after_suppression=30,
)  # fmt: skip


def image_of(scene: scenes.Scene) -> Tensor:
    return region_proposal.batch([scene])[0][0]


@pytest.fixture(scope="module")
def model() -> region_proposal.Proposer:
    """Trained for a few steps, so that scores and boxes differ."""
    training = region_training.Training(SMALL, seed=0)
    training.epoch(1, Context())
    return training.model.eval()


class Context:
    """Never stops; `stop_at` looks, it does."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.device, self.state, self.rows, self.looks, self.stop_at = "cpu", None, [], 0, stop_at

    def check_stop(self) -> None:
        self.looks += 1
        if self.looks == self.stop_at:
            raise InterruptedError


def train(context: Any, recipe: Recipe = SMALL) -> tuple[list[dict[str, Any]], Any, Any]:
    """Rows, last state (through bytes, as a commit) and outcome of a training, which may be interrupted."""
    trial, rows, state = region_training.run(recipe, 0, context), [], None
    while True:
        try:
            new, now = next(trial)
        except StopIteration as end:
            return rows, state, end.value
        except InterruptedError:
            return rows, state, None
        rows += new
        sink = io.BytesIO()
        torch.save(now(), sink)
        state = torch.load(io.BytesIO(sink.getvalue()), weights_only=True)


def test_a_scene_is_the_same_whatever_was_drawn_before() -> None:
    first = scenes.draw(0, "train", 7, 96)
    scenes.draw(1, "train", 3, 96)
    again = scenes.draw(0, "train", 7, 96)
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, scenes.draw(0, "validation", 7, 96).pixels)


def test_the_pixels_of_a_scene_never_change() -> None:
    scene = scenes.draw(0, "shown", 4, 160)
    assert hashlib.sha256(scene.pixels.tobytes()).hexdigest()[:16] == "e6b516be258e4ce3"
    assert [scenes.NAMES[k] for k in scene.kinds] == ["disc", "triangle", "ring", "square"]


@pytest.mark.parametrize("number", range(12))
def test_boxes_lie_in_the_scene_and_hardly_overlap(number: int) -> None:
    boxes = scenes.draw(3, "train", number, 128).boxes
    assert 1 <= len(boxes) <= scenes.MOST
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= 128).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 3).all()
    overlaps = [scenes.overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(overlaps, default=0) < scenes.OVERLAP


def test_the_stages_end_where_torchvision_s_network_does(model: region_proposal.Proposer) -> None:
    image = image_of(scenes.draw(0, "shown", 1, 96))
    with torch.no_grad():
        boxes, _ = model.rpn(region_proposal.image_list(image[None]), {"0": model.features(image[None])})
    ours = region_proposal.propose(model, image)
    torch.testing.assert_close(ours.proposed(), boxes[0])
    assert len(ours.proposed()) == 30


def test_counts_fall_from_stage_to_stage(model: region_proposal.Proposer) -> None:
    found = region_proposal.propose(model, image_of(scenes.draw(0, "shown", 1, 96)))
    came = [sum(region_proposal.STAGES.index(s) >= i for s in found.stage) for i in range(5)]
    assert came[:2] == [12 * 12 * 9, 200]
    assert came == sorted(came, reverse=True)
    assert came[-1] == 30


def test_anchors_are_three_scales_by_three_proportions_at_every_cell(model: region_proposal.Proposer) -> None:
    scene = scenes.draw(0, "shown", 1, 96)
    found = region_proposal.propose(model, image_of(scene))
    _, truth = region_proposal.batch([scene])
    rows = list(scene_rows.boxes(found, truth[0], {}))
    cell = [r for r in rows if (r["cell_row"], r["cell_column"]) == (4, 7)]
    assert {(r["scale"], r["ratio"]) for r in cell} == {(s, r) for s in (16, 32, 64) for r in (0.5, 1.0, 2.0)}
    for row in cell:
        height, width = (row[f"anchor_{b}"] - row[f"anchor_{a}"] for a, b in (("top", "bottom"), ("left", "right")))
        assert height * width == pytest.approx(row["scale"] ** 2, rel=0.05)
        assert height / width == pytest.approx(row["ratio"], rel=0.1)
        assert ((row["anchor_left"] + row["anchor_right"]) / 2, (row["anchor_top"] + row["anchor_bottom"]) / 2) == (
            56,
            32,
        )


@st.composite
def boxes_and_scores(draw: Any) -> tuple[list[list[float]], list[float]]:
    n = draw(st.integers(1, 12))
    number = st.integers(0, 20)
    corners = [[draw(number), draw(number)] for _ in range(n)]
    boxes = [[x, y, x + draw(st.integers(1, 15)), y + draw(st.integers(1, 15))] for x, y in corners]
    scores = draw(st.lists(st.integers(0, 10**6), min_size=n, max_size=n, unique=True))
    return boxes, [s / 10**6 for s in scores]


@given(boxes_and_scores(), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]))
def test_suppression_is_torchvision_s(case: tuple[list[list[float]], list[float]], threshold: float) -> None:
    boxes, scores = case
    kept, steps = suppression.suppress(boxes, scores, threshold)
    theirs = nms(torch.tensor(boxes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64), threshold)
    assert kept == theirs.tolist()
    assert {c.other for c in steps if c.suppressed} == set(range(len(boxes))) - set(kept)


def test_the_example_s_steps_are_torchvision_s(model: region_proposal.Proposer) -> None:
    scene = scenes.draw(0, "shown", 4, 96)
    found = region_proposal.propose(model, image_of(scene))
    _, (truth,) = region_proposal.batch([scene])
    letters = scene_rows.example(found, truth, (0, 1, 2))
    rows = list(scene_rows.comparisons(found, letters, 0.5))
    indices = list(letters)
    kept = [letters[indices[i]] for i in nms(found.boxes[indices], found.scores[indices], 0.5).tolist()]
    assert sorted(set(letters.values()) - {r["other"] for r in rows if r["suppressed"]}) == kept


def test_the_loss_falls_and_rows_are_complete() -> None:
    rows, _, outcome = train(Context(), dataclasses.replace(SMALL, epochs=5, steps=6))
    epochs = [r for r in rows if r["table"] == "epochs"]
    assert [r["epoch"] for r in epochs] == [1, 2, 3, 4, 5]
    assert epochs[-1]["train_loss"] < 0.6 * epochs[0]["train_loss"]
    assert {r["table"] for r in rows} == {"epochs", "boxes", "scanlines", "suppression"}
    assert outcome.status == "completed"
    for row in rows:
        declared = {c if isinstance(c, str) else c.name for c in TABLES[row["table"]]}
        assert set(row) - {"table"} <= declared


def test_the_pixels_come_back_from_the_rows() -> None:
    scene = scenes.draw(0, "shown", 4, 96)
    lines = [np.frombuffer(bytes.fromhex(r["pixels"]), np.uint8) for r in scene_rows.scanlines(scene)]
    assert np.array_equal(np.stack(lines).reshape(96, 96, 3), scene.pixels)


def unmeasured(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if not k.endswith("_seconds")}


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_an_interrupted_training_ends_with_the_same_weights(stop_at: int) -> None:
    whole, _, outcome = train(Context())
    first, state, none = train(Context(stop_at))
    assert none is None
    resumed = Context()
    resumed.state = state
    rest, _, again = train(resumed)
    assert again.summary == outcome.summary
    assert [unmeasured(row) for row in first + rest] == [unmeasured(row) for row in whole]


def test_a_seed_decides_the_weights() -> None:
    one, two = (region_training.Training(SMALL, seed).model.state_dict() for seed in (0, 1))
    assert not torch.equal(one["rpn.head.cls_logits.weight"], two["rpn.head.cls_logits.weight"])


def test_the_learning_rate_falls_to_a_hundredth() -> None:
    assert [learning_rate(2.0, e, 3) for e in (1, 2, 3)] == pytest.approx([2.0, 1.01, 0.02])
    assert learning_rate(2.0, 1, 1) == 2.0


def test_the_recipe_s_fields_are_parameters_of_the_study() -> None:
    parameters = {f.name: f.default for f in dataclasses.fields(problem3.Parameters)}
    assert {f.name for f in dataclasses.fields(Recipe)} <= set(parameters)
