"""Names of the networks that problem 3 can analyse, for configuration: no torch here.

`TORCHVISION` are torchvision's classification networks; a test holds the list against its registry.
"""

from __future__ import annotations

import difflib

OWN = {
    "alexnet_paper": "AlexNet as in the paper: two groups, 227x227 input",
    "resnet18_cifar10": "ResNet-18 of problem 2 (3x3 stem, no max pool)",
    "resnet44_cifar10": "ResNet-44 of problem 4, projection shortcuts",
    "resnet44_cifar10_identity": "ResNet-44 with parameter-free shortcuts (He et al.'s option A)",
    "inception_naive": "Inception module of Figure 1, naive version",
    "inception_reduced": "Inception module of Figure 1, with dimension reduction",
}
"""Networks of this project, and what they are."""
TORCHVISION = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121", "densenet161",
    "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "efficientnet_v2_m", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf",
    "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf",
    "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet18", "resnet34", "resnet50",
    "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0", "squeezenet1_1", "swin_b", "swin_s", "swin_t",
    "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
    "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
)  # fmt: skip
NAMES = (*OWN, *TORCHVISION)


def unknown(name: str) -> str | None:
    """What is wrong with a network's name, with the nearest right one; None where it is known."""
    if name in NAMES:
        return None
    near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.0)
    own = ", ".join(OWN)
    return f"{name!r} is no network; nearest is {near[0]}. Known are {own} and torchvision's classification networks"
