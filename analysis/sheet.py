"""What the homework sheet asks, item by item, read off it by hand: the one list of it.

"2.3" are the sheet's own numbers; a letter after them tells apart what one numbered item asks (3.4 and 3.5 have
letters of their own). docs/coverage.md says where in the reports each is answered, and a test holds it to that.
"""

from __future__ import annotations

ITEMS: dict[str, str] = {
    "1.1a": "update equations of the five methods, each term explained",
    "1.1b": "hyperparameters of each method",
    "1.1c": "how AdaDelta and Adam differ from RMSProp",
    "1.2a": "training loss against epochs with L2, five methods, 200 epochs",
    "1.2b": "which method has the lowest training loss",
    "1.3a": "training with dropout added; training loss against that of part 2",
    "1.3b": "which method is best with dropout",
    "1.3c": "training time with dropout against without",
    "1.4a": "test accuracy of all methods, parts 2 and 3",
    "1.4b": "weights scaled by the dropout probability at test time",
    "2.1": "time of an epoch on one GPU, batch 32, 128, 512, … until memory is full",
    "2.2a": "Table 1: running time and speedup on 2 and 4 GPUs",
    "2.2b": "weak or strong scaling",
    "2.2c": "whether the other scaling's speedup would be better or worse",
    "2.3a": "how compute and communication time are got",
    "2.3b": "Table 2: compute and communication time",
    "2.4a": "formula for the time of an all-reduce",
    "2.4b": "formula for the bandwidth utilisation",
    "2.4c": "Table 3: bandwidth utilisation",
    "3.1": "AlexNet's parameters, calculated layer by layer",
    "3.2": "VGG19: activations and parameters of each layer",
    "3.3a": "N stacked FxF convolutions see as much as one of NF-N+1: shown",
    "3.3b": "receptive field of three 5x5 filters",
    "3.4a": "the idea behind an Inception module",
    "3.4b": "output sizes of both modules",
    "3.4c": "convolutional operations of both modules",
    "3.4d": "the naive module's problem, and the saving",
    "3.5a": "Fast R-CNN against Faster R-CNN",
    "3.5b": "the region proposal network and its architecture",
    "3.5c": "how proposals are generated, on an example image",
    "3.5d": "how overlapping proposals are reduced, with an example",
    "4.1a": "cutout and its advantages over dropout",
    "4.1b": "two images before and after cutout",
    "4.2": "ResNet-44 with crop and flip: validation error against epochs",
    "4.3a": "validation error against epochs for M = 2, 4, 8, 16, 32",
    "4.3b": "epochs and wall-clock to 94 % for each M",
    "4.3c": "where 94 % is not reached: the accuracy, and the time of 100 epochs",
}
