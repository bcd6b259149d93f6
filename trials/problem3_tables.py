"""Columns of problem 3's row tables. No torch here: configuration and export read them."""

from __future__ import annotations

from trials.spec import Column

LAYERS = (
    Column("network", "str", help="name of the network"),
    Column("position", "int", help="place in the order of execution, from 1"),
    Column("layer", "str", help="the module's name in the network; for a function, its module's and its own"),
    Column("call", "int", help="1 for the layer's first call, 2 where it is used again"),
    Column("kind", "str", help="conv, linear, max_pool, …"),
    Column("in_forward", "bool", help="false for layers that inference does not use"),
    Column("input_shape", "str", help="of one example, channels first, as 3x227x227"),
    Column("output_shape", "str", help="of one example"),
    Column("kernel", "str", help="height x width"),
    Column("stride", "str", help="height x width"),
    Column("padding", "str", help="height x width, on each side"),
    Column("groups", "int", help="groups of a convolution"),
    Column("activations", "int", "numbers", help="numbers that the layer puts out for one example"),
    Column("parameters", "int", "numbers", help="learned numbers; those of a layer used again count once"),
    Column("parameters_without_bias", "int", "numbers", help="the same without biases"),
    Column("macs", "int", "MACs", help="multiply-accumulates for one example; operations are twice as many"),
    Column("receptive_field", "int", "pixels", help="height of the input region that a unit depends on"),
    Column("receptive_field_width", "int", "pixels", help="its width"),
)
EPOCHS = (
    "epoch",
    "learning_rate",
    "train_loss",
    Column("objectness_loss", "float", "nats", better="lower", help="binary cross-entropy over the sampled anchors"),
    Column("box_loss", "float", "", better="lower", help="smooth L1 of the positive anchors' offsets"),
    Column("recall_10", "float", "fraction", better="higher", help="true boxes that the 10 best proposals find"),
    Column("recall_100", "float", "fraction", better="higher", help="the same for the 100 best"),
    Column("recall_all", "float", "fraction", better="higher", help="the same for all that are handed on"),
    Column("true_boxes", "int", "boxes", help="true boxes that these are parts of; rows of before 2026-11-29 lack it"),
    "steps",
    "samples",
    "train_seconds",
    "evaluation_seconds",
    "wall_seconds",
)
"""Training of the region proposal network; a true box is found by a proposal with intersection over union of 0.5."""
STACKS = (
    Column("layers", "int", help="N, convolutions in the stack, stride 1, no padding"),
    Column("filter", "int", "pixels", help="F, side of each filter"),
    Column("predicted", "int", "pixels", help="N F - N + 1"),
    Column("height", "int", "pixels", help="rows of the input with a gradient from one output, measured"),
    Column("width", "int", "pixels", help="columns of the input with a gradient from it, measured"),
    Column("touched", "int", "pixels", help="inputs with a gradient from it, measured"),
    Column("single_height", "int", "pixels", help="rows for one convolution with a filter of the predicted side"),
    Column("single_width", "int", "pixels", help="columns for it"),
)
SIDES = ("left", "top", "right", "bottom")
BOXES = (
    Column("stage", "str", help="truth; else how far an anchor came: anchor, scored, sized, unsuppressed, proposed"),
    Column("figure", "str", help="of a true box: the figure in it"),
    Column("cell_row", "int", help="of an anchor: its cell of the feature map, from 0"),
    Column("cell_column", "int"),
    Column("scale", "int", "pixels", help="of an anchor: square root of its area"),
    Column("ratio", "float", help="of an anchor: height over width"),
    *(Column(f"anchor_{side}", "float", "pixels", help="the anchor itself") for side in SIDES),
    *(Column(side, "float", "pixels", help="true box, or the anchor with its offsets, clipped") for side in SIDES),
    Column("score", "float", help="objectness, 0 to 1"),
    Column("rank", "int", help="place by objectness, from 1"),
    Column("truth_iou", "float", help="greatest intersection over union with a true box"),
    Column("letter", "str", help="name of the box in the example of suppression"),
)
"""Of the one scene that is shown: its true boxes, and every anchor with the proposal that it became."""
SUPPRESSION = (
    Column("step", "int", help="from 1"),
    Column("picked", "str", help="letter of the best box left, which is kept"),
    Column("other", "str", help="letter of a box left that it is compared with"),
    Column("iou", "float", help="intersection over union of the two"),
    Column("threshold", "float"),
    Column("suppressed", "bool", help="the other is dropped"),
)
SCANLINES = (
    Column("line", "int", help="row of the scene's pixels, from 0"),
    Column("pixels", "str", help="red, green and blue of each pixel in hexadecimal"),
)
TABLES: dict[str, tuple[str | Column, ...]] = {
    "layers": LAYERS,
    "epochs": EPOCHS,
    "stacks": STACKS,
    "boxes": BOXES,
    "suppression": SUPPRESSION,
    "scanlines": SCANLINES,
}
