"""The optimizers of problem 1: torch's where it has the method, and RMSProp with Nesterov momentum.

Each does what its equations in `trials.methods` say. All can be captured in a CUDA graph: the learning rate may
be a tensor on the device, and every number that a step changes is a tensor there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adadelta, Adagrad, Adam, Optimizer, RMSprop

from trials.methods import METHODS


class Capturable(Optimizer):
    """An optimizer whose steps read and write tensors on the parameters' device alone, list by list.

    `lr` is a number or a 0-dim tensor there. State tensors are made at the first step; nothing waits for the device.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step for all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [p for p in group["params"] if p.grad is not None]:
                self._step(group, parameters)
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Change the parameters of one group, which all have a gradient."""
        raise NotImplementedError

    def _gradients(self, group: dict[str, Any], parameters: list[Tensor]) -> Any:
        """Gradients of the parameters, with coupled weight decay."""
        gradients: Any = [p.grad for p in parameters]
        if group["weight_decay"]:
            return torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        return gradients

    def _tensors(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """One state tensor of each parameter, zeros where there is none yet."""
        for p in parameters:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in parameters]


class CapturableAdagrad(Capturable):
    """AdaGrad as torch.optim.Adagrad has it (Duchi et al. 2011): r ← r + g², θ ← θ − lr · g / (√r + ε).

    For GPUs: torch's own has a fused kernel for CPUs alone, and its other forms count steps on the host. Their states
    are interchangeable, so that a trial goes on on another device: torch's needs the count of steps, which changes
    nothing where the rate does not decay.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float | Tensor, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, "capturable": True})

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients, sums = self._gradients(group, parameters), self._tensors("sum", parameters)
        torch._foreach_add_(self._counts(parameters), 1)
        torch._foreach_addcmul_(sums, gradients, gradients, 1.0)
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, group["eps"])
        steps = torch._foreach_div(gradients, roots)
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_sub_(parameters, steps)

    def _counts(self, parameters: list[Tensor]) -> list[Tensor]:
        """How many steps each parameter has had, as torch's fused optimizers keep it."""
        for p in parameters:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        return [self.state[p]["step"] for p in parameters]


class RMSPropNesterov(Capturable):
    """RMSProp with Nesterov momentum, Goodfellow et al., Deep Learning (2016), Algorithm 8.6, in one pass.

    The parameters are the point φ = θ + αv at which the gradient is taken, so loss and accuracy are φ's:

        s = lr · g / √(r + δ),  v ← αv − s,  φ ← φ + αv − s,  where r ← ρr + (1 − ρ)g²

    `weight_decay` is coupled: g is the loss's gradient plus weight_decay · φ.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float | Tensor = 1e-4,
        rho: float = 0.99,
        momentum: float = 0.9,
        delta: float = 1e-16,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("rho", rho), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: from 0 up to, and without, 1")
        for name, bounded in (("lr", lr), ("delta", delta), ("weight_decay", weight_decay)):
            if not bounded >= 0:  # so NaN is refused too
                raise ValueError(f"{name}={bounded}: at least 0")
        values = {"lr": lr, "rho": rho, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        super().__init__(params, {**values, "capturable": True})

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        squares, velocities = self._tensors("square", parameters), self._tensors("velocity", parameters)
        gradients = self._gradients(group, parameters)
        torch._foreach_mul_(squares, group["rho"])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["rho"])
        roots = torch._foreach_add(squares, group["delta"])
        torch._foreach_sqrt_(roots)
        steps = torch._foreach_div(gradients, roots)
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_sub_(velocities, steps)
        torch._foreach_add_(parameters, velocities, alpha=group["momentum"])
        torch._foreach_sub_(parameters, steps)


def make_optimizer(
    method: str, parameters: Iterable[nn.Parameter], learning_rate: float | Tensor, weight_decay: float
) -> Optimizer:
    """The optimizer of a method of `METHODS` with its constants, for parameters that are on their device.

    Adam is torch's fused kernel, AdaGrad too on a CPU, where the fused ones are eight to ten times faster; on a
    GPU torch has no AdaGrad that a CUDA graph can hold. RMSProp and AdaDelta have no fused form; `capturable` is
    for GPUs alone, torch refuses it on a CPU.
    """
    held, c = list(parameters), METHODS[method].constants
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    capturable = {"capturable": held[0].is_cuda}
    if method == "adagrad" and held[0].is_cuda:
        return CapturableAdagrad(held, eps=c["epsilon"], **common)
    if method == "adagrad":
        return Adagrad(held, eps=c["epsilon"], fused=True, **common)
    if method == "rmsprop":
        return RMSprop(held, alpha=c["rho"], eps=c["epsilon"], **capturable, **common)
    if method == "adadelta":
        return Adadelta(held, rho=c["rho"], eps=c["epsilon"], **capturable, **common)
    if method == "adam":
        betas = (c["beta_1"], c["beta_2"])
        return Adam(held, betas=betas, eps=c["epsilon"], fused=True, **capturable, **common)
    return RMSPropNesterov(held, rho=c["rho"], momentum=c["alpha"], delta=c["delta"], **common)
