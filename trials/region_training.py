"""Training of the region proposal network on drawn scenes, an epoch a row, and the scene that is shown at its end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Adam

from trials import models, region_proposal, scene_rows, scenes
from trials.seeding import derived_seed
from trials.spec import Context, Outcome, Row, State, TrialRun

VALIDATION_SCENES = 16
"""Suppression of 2000 boxes takes 30 ms, so more of them would cost a third of the time."""
FOUND_IOU = 0.5
"""A true box with a proposal that overlaps it so much is found (the measure of Faster R-CNN's detections)."""
SHOWN_SCENE = 4
"""Number of the scene, among those drawn to be shown, that the rows tell of."""
EXAMPLE_PLACES = (0, 3, 9)
"""The example of suppression has, for each true box, its best proposal and these places after it."""


@dataclass(frozen=True)
class Recipe:
    """Parameters of trials/problem3.py for this task, under their names there."""

    epochs: int
    steps: int
    batch_size: int
    learning_rate: float
    box_weight: float
    scene_size: int
    suppression_iou: float
    before_suppression: int
    after_suppression: int


def run(recipe: Recipe, seed: int, context: Context) -> TrialRun:
    """Train, a row an epoch, and with the last one the rows of the scene that is shown."""
    training = Training(recipe, seed)
    done, wall = 0, 0.0
    if context.state is not None:
        training.load(context.state)
        done, wall = context.state["epoch"], context.state["wall_seconds"]
    for epoch in range(done + 1, recipe.epochs + 1):
        began = time.perf_counter()
        row = training.epoch(epoch, context)
        middle = time.perf_counter()
        row |= training.recalls()
        seconds: Row = {"train_seconds": middle - began, "evaluation_seconds": time.perf_counter() - middle}
        wall += time.perf_counter() - began
        shown = training.shown() if epoch == recipe.epochs else []
        progress = {"epoch": epoch, "wall_seconds": wall}
        yield [*shown, row | seconds | {"wall_seconds": wall}], partial(training.state, progress)
    return Outcome("completed", {"weights_sha256": models.weights_sha256(training.model)})


class Training:
    """The network and its optimizer."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        counts = recipe.before_suppression, recipe.after_suppression
        self.model = region_proposal.proposer(seed, recipe.suppression_iou, *counts)
        self.optimizer = Adam(self.model.parameters(), lr=recipe.learning_rate)

    def state(self, progress: State) -> State:
        """All that a resumed training needs, with `progress`."""
        return {**progress, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: State) -> None:
        """Take up a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def epoch(self, epoch: int, context: Context) -> Row:
        """One epoch (from 1) of scenes never seen before; which anchors enter the loss follows from (seed, epoch)."""
        recipe = self.recipe
        self.model.train()
        rate = learning_rate(recipe.learning_rate, epoch, recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "anchors", epoch))
            for step in range(recipe.steps):
                context.check_stop()
                sums += self._step(((epoch - 1) * recipe.steps + step) * recipe.batch_size)
        objectness, box = (sums / recipe.steps).tolist()
        losses: Row = {"objectness_loss": objectness, "box_loss": box}
        losses["train_loss"] = objectness + recipe.box_weight * box
        counts: Row = {"steps": recipe.steps, "samples": recipe.steps * recipe.batch_size}
        return {"table": "epochs", "epoch": epoch, "learning_rate": rate} | losses | counts

    def _step(self, first: int) -> Tensor:
        """One step on the scenes from number `first` on; the two losses."""
        recipe = self.recipe
        drawn = [scenes.draw(self.seed, "train", first + i, recipe.scene_size) for i in range(recipe.batch_size)]
        losses = torch.stack(self.model.losses(*region_proposal.batch(drawn)))
        self.optimizer.zero_grad()
        (losses[0] + recipe.box_weight * losses[1]).backward()
        self.optimizer.step()
        return losses.detach()

    def recalls(self) -> Row:
        """How many true boxes the validation scenes have, and the part that the best 10, 100 and all proposals find."""
        self.model.eval()
        found = {"recall_10": 0.0, "recall_100": 0.0, "recall_all": 0.0}
        figures = 0
        for number in range(VALIDATION_SCENES):
            scene = scenes.draw(self.seed, "validation", number, self.recipe.scene_size)
            images, (truth,) = region_proposal.batch([scene])
            boxes = region_proposal.propose(self.model, images[0]).proposed()
            figures += len(truth)
            for name, most in (("recall_10", 10), ("recall_100", 100), ("recall_all", len(boxes))):
                found[name] += len(truth) * region_proposal.recall(boxes[:most], truth, FOUND_IOU)
        return {"true_boxes": figures} | {name: total / figures for name, total in found.items()}

    def shown(self) -> list[Row]:
        """Rows of the scene that is shown: its pixels, true boxes, anchors with their proposals, and the example."""
        self.model.eval()
        scene = scenes.draw(self.seed, "shown", SHOWN_SCENE, self.recipe.scene_size)
        images, (truth,) = region_proposal.batch([scene])
        proposals = region_proposal.propose(self.model, images[0])
        letters = scene_rows.example(proposals, truth, EXAMPLE_PLACES)
        return [
            *scene_rows.scanlines(scene),
            *scene_rows.truths(scene),
            *scene_rows.boxes(proposals, truth, letters),
            *scene_rows.comparisons(proposals, letters, self.recipe.suppression_iou),
        ]


def learning_rate(peak: float, epoch: int, epochs: int) -> float:
    """In epoch `epoch` (from 1): from `peak` to a hundredth of it, along half a cosine."""
    part = (epoch - 1) / max(1, epochs - 1)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)
