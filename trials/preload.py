"""Imported once by a server that forks trials, so that no trial pays for it."""

import torch
import torch.optim

from trials import engine as engine

# The first optimizer imports torch._dynamo, which takes two seconds.
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
