"""A small region proposal network of torchvision's parts, trained on drawn scenes, and what it proposes, in stages.

Ren, He, Girshick & Sun 2015, "Faster R-CNN": a 3x3 convolution over the feature map, then for each of the k anchors at
a place one objectness score and four box offsets; anchors with intersection over union (IoU) of 0.7 or more with a
true box are positive, those below 0.3 negative. Three scales and three proportions, so k = 9, as in the paper; the
image is 160x160 and the backbone has 4 layers, so this is the mechanism and not the paper's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou, clip_boxes_to_image, nms, remove_small_boxes

from trials import scenes
from trials.models import seeded

SCALES, RATIOS = (16, 32, 64), (0.5, 1.0, 2.0)
"""Anchors: square roots of their areas in pixels, and heights over widths."""
CHANNELS = 64
STRIDE = 8
"""Pixels of the image between two cells of the feature map."""
POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3
SAMPLED, POSITIVE_PART = 256, 0.5
"""Anchors of an image that enter the loss, and the greatest part of positive ones (the paper's)."""
SMALLEST_SIDE = 1e-3
MEAN, DEVIATION = 0.35, 0.2
"""Of the scenes' pixels, about."""


class Proposer(nn.Module):
    """Backbone (stride 8, 64 channels) and torchvision's RegionProposalNetwork. Images (N, 3, H, W) in 0..1."""

    def __init__(self, suppression_iou: float, before: int, after: int) -> None:
        super().__init__()
        layers = (_layer(3, 16, 2), _layer(16, 32, 2), _layer(32, CHANNELS, 2), _layer(CHANNELS, CHANNELS, 1))
        self.backbone = nn.Sequential(*(part for layer in layers for part in layer))
        self.rpn = RegionProposalNetwork(
            AnchorGenerator((SCALES,), (RATIOS,)),
            RPNHead(CHANNELS, len(SCALES) * len(RATIOS)),
            POSITIVE_IOU, NEGATIVE_IOU, SAMPLED, POSITIVE_PART,
            # While it trains, its proposals are not used: one is the fewest it can be told to sort.
            pre_nms_top_n={"training": 1, "testing": before}, post_nms_top_n={"training": 1, "testing": after},
            nms_thresh=suppression_iou,
        )  # fmt: skip

    def features(self, images: Tensor) -> Tensor:
        """(N, 64, H / 8, W / 8)."""
        return self.backbone((images - MEAN) / DEVIATION)

    def losses(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of objectness and of the boxes of the positive anchors, both in means over the sampled anchors."""
        targets = [{"boxes": b} for b in boxes]
        _, losses = self.rpn(image_list(images), {"0": self.features(images)}, targets)
        return losses["loss_objectness"], losses["loss_rpn_box_reg"]


def _layer(channels_in: int, channels_out: int, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def proposer(seed: int, suppression_iou: float, before: int, after: int) -> Proposer:
    """A new network whose weights follow from the seed; `before` and `after` count proposals around suppression."""
    with seeded(seed):
        return Proposer(suppression_iou, before, after)


def image_list(images: Tensor) -> ImageList:
    """Images of one size as torchvision's detectors take them."""
    return ImageList(images, [tuple(images.shape[-2:])] * len(images))


def batch(drawn: Sequence[scenes.Scene]) -> tuple[Tensor, list[Tensor]]:
    """Scenes as images (N, 3, size, size) in 0..1, and the boxes of each."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in drawn])).permute(0, 3, 1, 2)
    return pixels.float().div(255), [torch.from_numpy(s.boxes) for s in drawn]


@dataclass(frozen=True)
class Proposals:
    """Everything that one image's anchors went through, each tensor with one entry an anchor.

    `anchors` and `boxes` (n, 4): left, top, right, bottom in pixels, boxes after the offsets and clipped; `scores`
    (n,) objectness in 0..1; `rank` (n,) place by score from 1; `stage` (n,) how far it came: one of STAGES.
    """

    anchors: Tensor
    boxes: Tensor
    scores: Tensor
    rank: Tensor
    stage: list[str]
    cells: tuple[int, int]

    def proposed(self) -> Tensor:
        """The boxes that the detector is given, best first."""
        return self.boxes[[i for i in self.rank.argsort().tolist() if self.stage[i] == STAGES[-1]]]


STAGES = ("anchor", "scored", "sized", "unsuppressed", "proposed")
"""All anchors; the best by objectness; of those the ones with some size in the image; those that suppression left;
of those the best, which the detector is given."""


@torch.no_grad()
def propose(model: Proposer, image: Tensor) -> Proposals:
    """The stages of RegionProposalNetwork's inference for one image (3, H, W), one by one."""
    rpn = model.rpn
    features = model.features(image[None])
    objectness, offsets = rpn.head([features])
    anchors = rpn.anchor_generator(image_list(image[None]), [features])[0]
    scores = _flat(objectness[0], 1).flatten().sigmoid()
    boxes = rpn.box_coder.decode(_flat(offsets[0], 4), [anchors])[:, 0]
    boxes = clip_boxes_to_image(boxes, tuple(image.shape[-2:]))
    order = scores.argsort(descending=True, stable=True)
    best = order[: rpn.pre_nms_top_n()]
    sized = best[remove_small_boxes(boxes[best], SMALLEST_SIDE)]
    left = sized[nms(boxes[sized], scores[sized], rpn.nms_thresh)]
    proposed = left[: rpn.post_nms_top_n()]
    stage = ["anchor"] * len(scores)
    for name, chosen in zip(STAGES[1:], (best, sized, left, proposed), strict=True):
        for index in chosen.tolist():
            stage[index] = name
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    return Proposals(anchors, boxes, scores, rank, stage, tuple(features.shape[-2:]))


def _flat(maps: Tensor, numbers: int) -> Tensor:
    """(1, anchors x numbers, H, W) to (H x W x anchors, numbers), the order of the anchors."""
    return maps[0].unflatten(0, (-1, numbers)).permute(2, 3, 0, 1).reshape(-1, numbers)


def recall(boxes: Tensor, truth: Tensor, iou: float) -> float:
    """The part of the true boxes (m, 4) that some proposal (n, 4) overlaps by at least `iou`."""
    return float((box_iou(truth, boxes).amax(1) >= iou).float().mean()) if len(boxes) else 0.0
