"""What the region proposal network made of one scene, as rows that figures and tables can be drawn from."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor
from torchvision.ops import box_iou

from trials import suppression
from trials.problem3_tables import SIDES
from trials.region_proposal import RATIOS, SCALES, Proposals
from trials.scenes import NAMES, Scene
from trials.spec import Row


def scanlines(scene: Scene) -> Iterator[Row]:
    """The pixels, a row a line."""
    for line, pixels in enumerate(scene.pixels):
        yield {"table": "scanlines", "line": line, "pixels": pixels.tobytes().hex()}


def truths(scene: Scene) -> Iterator[Row]:
    """The true boxes."""
    for box, kind in zip(scene.boxes.tolist(), scene.kinds, strict=True):
        yield {"table": "boxes", "stage": "truth", "figure": NAMES[kind], **dict(zip(SIDES, box, strict=True))}


def boxes(proposals: Proposals, truth: Tensor, letters: Mapping[int, str]) -> Iterator[Row]:
    """Every anchor with the proposal that it became. Anchors lie row by row, a cell's one after another."""
    kinds = [(scale, ratio) for ratio in RATIOS for scale in SCALES]
    overlaps = box_iou(proposals.boxes, truth).amax(1).tolist()
    anchors, found = proposals.anchors.tolist(), proposals.boxes.tolist()
    for i, (anchor, box) in enumerate(zip(anchors, found, strict=True)):
        row, column = divmod(i // len(kinds), proposals.cells[1])
        scale, ratio = kinds[i % len(kinds)]
        place: Row = {"cell_row": row, "cell_column": column, "scale": scale, "ratio": ratio}
        sides = {f"anchor_{side}": v for side, v in zip(SIDES, anchor, strict=True)} | dict(
            zip(SIDES, box, strict=True)
        )
        score: Row = {"score": proposals.scores[i].item(), "rank": int(proposals.rank[i]), "truth_iou": overlaps[i]}
        yield {"table": "boxes", "stage": proposals.stage[i], **place, **sides, **score, "letter": letters.get(i)}


def example(proposals: Proposals, truth: Tensor, places: Sequence[int]) -> dict[int, str]:
    """Anchors of a small example of suppression, by index, and their letters in the order of their scores.

    Each proposal belongs to the true box that it overlaps most; of each true box's, by score, those at `places`.
    """
    overlaps, owner = box_iou(proposals.boxes, truth).max(1)
    order = proposals.rank.argsort().tolist()
    usable = [i for i in order if overlaps[i] > 0 and proposals.stage[i] not in ("anchor", "scored")]
    chosen = []
    for number in range(len(truth)):
        own = [i for i in usable if owner[i] == number]
        chosen += [own[place] for place in places if place < len(own)]
    chosen.sort(key=order.index)
    return dict(zip(chosen, string.ascii_uppercase, strict=False))


def comparisons(proposals: Proposals, letters: Mapping[int, str], threshold: float) -> Iterator[Row]:
    """Suppression of the example, comparison by comparison."""
    indices, names = list(letters), list(letters.values())
    _, made = suppression.suppress(proposals.boxes[indices].tolist(), proposals.scores[indices].tolist(), threshold)
    for c in made:
        who: Row = {"step": c.step, "picked": names[c.picked], "other": names[c.other]}
        yield {"table": "suppression", **who, "iou": c.iou, "threshold": threshold, "suppressed": c.suppressed}
