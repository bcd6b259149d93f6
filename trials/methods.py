"""The five adaptive methods of problem 1: equations, hyperparameters, learning rates. No torch.

Each update equation stands once in this project, as a line of one of the NumPy functions below. The tests hold
torch's optimizers and ours to these functions, and `analysis.equations` typesets the same lines for the report.
So the lines are assignments in elementary arithmetic, every array operation goes element by element, and a
name is a symbol (`lambda_` is λ, `theta` is θ).

`gradient` is the gradient of the loss without the L2 term; `lambda_ * theta` is that of λ/2 ‖θ‖², which the
method gets added to it (coupled L2, torch's `weight_decay`), not AdamW's decay past the method. Sources: Duchi
et al. 2011 (AdaGrad); Hinton's lecture 6e, 2012 (RMSProp); Goodfellow et al. 2016, Algorithm 8.6 (with Nesterov
momentum); Zeiler 2012 (AdaDelta); Kingma & Ba 2015, Algorithm 1 (Adam).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy import sqrt

Array = np.ndarray
Gradient = Callable[[Array], Array]


def adagrad(
    gradient: Gradient, lambda_: float, eta: float, epsilon: float, theta: Array, r: Array
) -> tuple[Array, Array]:
    """One step; new θ and r (r starts at 0)."""
    g = gradient(theta) + lambda_ * theta
    r = r + g**2
    theta = theta - eta / (sqrt(r) + epsilon) * g
    return theta, r


def rmsprop(
    gradient: Gradient, lambda_: float, eta: float, rho: float, epsilon: float, theta: Array, r: Array
) -> tuple[Array, Array]:
    """One step; new θ and r (r starts at 0)."""
    g = gradient(theta) + lambda_ * theta
    r = rho * r + (1 - rho) * g**2
    theta = theta - eta / (sqrt(r) + epsilon) * g
    return theta, r


def rmsprop_nesterov(
    gradient: Gradient,
    lambda_: float,
    eta: float,
    rho: float,
    alpha: float,
    delta: float,
    theta: Array,
    r: Array,
    v: Array,
) -> tuple[Array, Array, Array]:
    """One step as in the book; new θ, r and v (both start at 0)."""
    theta_ahead = theta + alpha * v
    g = gradient(theta_ahead) + lambda_ * theta_ahead
    r = rho * r + (1 - rho) * g**2
    v = alpha * v - eta / sqrt(r + delta) * g
    theta = theta + v
    return theta, r, v


def rmsprop_nesterov_one_pass(
    gradient: Gradient,
    lambda_: float,
    eta: float,
    rho: float,
    alpha: float,
    delta: float,
    phi: Array,
    r: Array,
    v: Array,
) -> tuple[Array, Array, Array]:
    """The same on φ = θ + αv, where the gradient is taken, so that one set of weights is enough."""
    g = gradient(phi) + lambda_ * phi
    r = rho * r + (1 - rho) * g**2
    s = eta / sqrt(r + delta) * g
    v = alpha * v - s
    phi = phi + alpha * v - s
    return phi, r, v


def adadelta(
    gradient: Gradient,
    lambda_: float,
    eta: float,
    rho: float,
    epsilon: float,
    theta: Array,
    r: Array,
    u: Array,
) -> tuple[Array, Array, Array]:
    """One step; new θ, r and u (both start at 0)."""
    g = gradient(theta) + lambda_ * theta
    r = rho * r + (1 - rho) * g**2
    step = -(sqrt(u + epsilon) / sqrt(r + epsilon)) * g
    u = rho * u + (1 - rho) * step**2
    theta = theta + eta * step
    return theta, r, u


def adam(
    gradient: Gradient,
    lambda_: float,
    eta: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    theta: Array,
    m: Array,
    v: Array,
    t: int,
) -> tuple[Array, Array, Array, int]:
    """One step; new θ, m, v and t (all but θ start at 0)."""
    t = t + 1
    g = gradient(theta) + lambda_ * theta
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    m_hat = m / (1 - beta_1**t)
    v_hat = v / (1 - beta_2**t)
    theta = theta - eta / (sqrt(v_hat) + epsilon) * m_hat
    return theta, m, v, t


@dataclass(frozen=True)
class Method:
    """One method. `update` is its equations, `constants` its hyperparameters beside learning rate and λ.

    `learning_rate` is this project's default, `torch_learning_rate` torch's (None where torch has no such
    method). `one_pass` are the equations that the optimizer computes where they are not `update`'s.
    """

    title: str
    update: Callable[..., tuple[Array, ...]]
    constants: Mapping[str, float]
    learning_rate: float
    torch_learning_rate: float | None
    one_pass: Callable[..., tuple[Array, ...]] | None = field(default=None)


METHODS: Mapping[str, Method] = {
    "adagrad": Method("AdaGrad", adagrad, {"epsilon": 1e-10}, 1e-2, 1e-2),
    "rmsprop": Method("RMSProp", rmsprop, {"rho": 0.99, "epsilon": 1e-8}, 1e-4, 1e-2),
    "rmsprop_nesterov": Method(
        "RMSProp + Nesterov",
        rmsprop_nesterov,
        {"rho": 0.99, "alpha": 0.9, "delta": 1e-16},
        3e-5,
        None,
        rmsprop_nesterov_one_pass,
    ),
    "adadelta": Method("AdaDelta", adadelta, {"rho": 0.9, "epsilon": 1e-6}, 0.1, 1.0),
    "adam": Method("Adam", adam, {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}, 1e-4, 1e-3),
}
"""In the sheet's order. Constants are torch's defaults. δ is RMSProp's ε squared, (1e-8)²: √(r + δ) is then never below
the 1e-8 that √r + ε is never below, and momentum is all that tells the two apart.

Learning rates are the winners of `study=problem1-learning-rates` (40 epochs of 45,000 images, judged on the 5,000
others; docs/problem1-learning-rates.md has it), whose report says where another run of it chooses others. Changing a
rate here changes the ids of the trials that leave theirs to it."""
