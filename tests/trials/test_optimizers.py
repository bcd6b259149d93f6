"""The optimizers do what the equations in `trials.methods` say, which are the ones that the report shows."""

import copy
import inspect
import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trials.methods import METHODS
from trials.optimizers import CapturableAdagrad, RMSPropNesterov, make_optimizer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
STEPS, DECAY = 50, 1e-2
RATES = {"adagrad": 0.1, "rmsprop": 0.01, "rmsprop_nesterov": 0.003, "adadelta": 1.0, "adam": 0.05}
every_method = pytest.mark.parametrize("method", METHODS)

OPTAX = {
    "adagrad": [
        -1.108793751127931,
        0.732220700705476,
        1.2701951820530029,
        1.1023345103419886,
        0.3978944924663344,
        -0.9533213396423369,
    ],
    "rmsprop": [
        -1.154821790072682,
        0.7581615489361302,
        1.3271086745561411,
        1.152149347606506,
        0.4365208894358715,
        -0.9870549645375786,
    ],
    "rmsprop_nesterov": [
        -2.2115691219298617,
        1.3128063844255815,
        3.431690225430005,
        2.749190422854036,
        1.217204760461018,
        -1.2861298093672078,
    ],
    "adadelta": [
        -0.18156110636758843,
        0.15914995650090258,
        0.1873593276866258,
        0.17563439923758187,
        -0.12735432168045813,
        -0.17358221800798626,
    ],
    "adam": [
        -1.9139742417014867,
        1.1744468645052135,
        2.475290621056453,
        2.0346900416736498,
        0.9951946490885254,
        -1.3733402940099628,
    ],
}
"""Where optax 0.2.8 (jax 0.10.2, float64) is after 50 steps on `quadratic(6)` from zeros, made by `optax_end`."""


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """float64 by default."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def quadratic(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A and b of the loss θᵀAθ/2 − bᵀθ, A positive definite."""
    random = np.random.RandomState(1)
    root = random.randn(size, size)
    return root @ root.T / size + 0.1 * np.eye(size), random.randn(size)


def reference(
    method: str, gradient: Callable, theta: np.ndarray, steps: int = STEPS, one_pass: bool = False
) -> np.ndarray:
    """Where the method's equations lead: θ, or φ = θ + αv for Nesterov, at which its optimizer is."""
    found = METHODS[method]
    update = found.one_pass if one_pass else found.update
    zeros = len(inspect.signature(update).parameters) - 4 - len(found.constants)
    state = (theta, *[0] * zeros)
    for _ in range(steps):
        state = update(gradient, DECAY, RATES[method], *found.constants.values(), *state)
    return state[0] + found.constants["alpha"] * state[2] if found.one_pass and not one_pass else state[0]


class Quadratic(nn.Module):
    """The quadratic over two parameters of different shape. Called, it gives its loss."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.A, self.b = (torch.from_numpy(v).to(device) for v in quadratic(12))
        start = torch.from_numpy(np.random.RandomState(2).randn(12)).to(device)
        self.one, self.two = nn.Parameter(start[:4].clone()), nn.Parameter(start[4:].reshape(2, 4).clone())

    def forward(self) -> Tensor:
        theta = torch.cat([self.one, self.two.flatten()])
        return theta @ self.A @ theta / 2 - self.b @ theta


class Network(nn.Module):
    """A network of 6-8-7-3 with ReLU on 20 fixed samples. Called, it gives its loss."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.x = torch.randn(20, 6, generator=random)
        self.labels = torch.randint(3, (20,), generator=random)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((6, 8, 7, 3)))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random) / 2

    def forward(self) -> Tensor:
        x = self.x
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return nn.functional.cross_entropy(self.layers[-1](x), self.labels)


def flat(tensors: Any) -> np.ndarray:
    return torch.cat([t.detach().flatten() for t in tensors]).cpu().numpy()


def gradient_of(problem: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """The gradient of the problem's loss as a function of all its parameters in one array."""
    twin = copy.deepcopy(problem)

    def gradient(theta: np.ndarray) -> np.ndarray:
        nn.utils.vector_to_parameters(torch.from_numpy(theta), twin.parameters())
        return flat(torch.autograd.grad(twin(), list(twin.parameters())))

    return gradient


def one_step(problem: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    problem().backward()
    optimizer.step()


def with_rate(
    problem: nn.Module, method: str, dtype: torch.dtype = torch.float64
) -> tuple[torch.optim.Optimizer, Tensor]:
    """The method's optimizer with its learning rate in a tensor, as the engine has it."""
    optimizer = make_optimizer(method, problem.parameters(), RATES[method], DECAY)
    rate = torch.tensor(RATES[method], dtype=dtype, device=next(problem.parameters()).device)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return optimizer, rate


@every_method
@pytest.mark.parametrize("make", [Quadratic, Network])
def test_an_optimizer_follows_its_equations(method: str, make: Callable[[], nn.Module]) -> None:
    problem = make()
    expected = reference(method, gradient_of(problem), flat(problem.parameters()))
    optimizer, _ = with_rate(problem, method)
    first = problem().item()
    for _ in range(STEPS):
        one_step(problem, optimizer)
    assert np.abs(flat(problem.parameters()) - expected).max() < 1e-10
    assert problem().item() < first - 0.1


def test_the_one_pass_form_is_algorithm_8_6() -> None:
    gradient, start = gradient_of(Network()), flat(Network().parameters())
    whole, one_pass = (reference("rmsprop_nesterov", gradient, start, one_pass=o) for o in (False, True))
    assert np.abs(whole - one_pass).max() < 1e-10


def test_the_look_ahead_is_not_plain_momentum() -> None:
    ours, plain = Quadratic(), Quadratic()
    c = METHODS["rmsprop_nesterov"].constants
    rate = RATES["rmsprop_nesterov"]
    optimizers = (
        make_optimizer("rmsprop_nesterov", ours.parameters(), rate, 0.0),
        torch.optim.RMSprop(plain.parameters(), rate, alpha=c["rho"], momentum=c["alpha"]),
    )
    for problem, optimizer in zip((ours, plain), optimizers, strict=True):
        for _ in range(STEPS):
            one_step(problem, optimizer)
    assert np.abs(flat(ours.parameters()) - flat(plain.parameters())).max() > 1e-3


@every_method
def test_another_library_goes_the_same_way(method: str) -> None:
    A, b = quadratic(6)
    ours = reference(method, lambda theta: A @ theta - b, np.zeros(6))
    assert np.abs(ours - OPTAX[method]).max() < 1e-10


@every_method
def test_the_numbers_of_the_other_library_are_its_own(method: str) -> None:
    pytest.importorskip("optax", reason="optax is not installed; its numbers stand in this file")
    assert np.abs(optax_end(method) - OPTAX[method]).max() < 1e-12


def optax_end(method: str) -> np.ndarray:
    """Where optax is after STEPS steps on `quadratic(6)` from zeros, with coupled L2."""
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    rate, c = RATES[method], METHODS[method].constants
    # optax's AdaGrad has its ε, 1e-10 here, below the root, where it would be large: none is nearer to ours
    found = {
        "adagrad": lambda: optax.adagrad(rate, initial_accumulator_value=0.0, eps=0.0),
        "rmsprop": lambda: optax.rmsprop(rate, c["rho"], c["epsilon"], eps_in_sqrt=False),
        "rmsprop_nesterov": lambda: optax.rmsprop(
            rate, c["rho"], c["delta"], eps_in_sqrt=True, momentum=c["alpha"], nesterov=True
        ),
        "adadelta": lambda: optax.adadelta(rate, c["rho"], c["epsilon"]),
        "adam": lambda: optax.adam(rate, c["beta_1"], c["beta_2"], c["epsilon"]),
    }[method]()
    whole = optax.chain(optax.add_decayed_weights(DECAY), found)
    A, b = quadratic(6)
    theta = jax.numpy.zeros(6)
    state = whole.init(theta)
    for _ in range(STEPS):
        updates, state = whole.update(A @ theta - b, state, theta)
        theta = optax.apply_updates(theta, updates)
    return np.asarray(theta)


@every_method
def test_constants_stand_in_the_order_of_the_equations_arguments(method: str) -> None:
    names = list(inspect.signature(METHODS[method].update).parameters)
    assert names[: len(METHODS[method].constants) + 4] == [
        "gradient",
        "lambda_",
        "eta",
        *METHODS[method].constants,
        "theta",
    ]


@every_method
def test_a_rate_in_a_tensor_is_a_rate(method: str) -> None:
    number, tensor = Quadratic(), Quadratic()
    optimizers = make_optimizer(method, number.parameters(), RATES[method], DECAY), with_rate(tensor, method)[0]
    for problem, optimizer in zip((number, tensor), optimizers, strict=True):
        one_step(problem, optimizer)
    assert np.abs(flat(number.parameters()) - flat(tensor.parameters())).max() < 1e-15


@every_method
def test_the_rate_is_read_anew_at_each_step(method: str) -> None:
    problem = Quadratic()
    optimizer, rate = with_rate(problem, method)
    one_step(problem, optimizer)
    if method == "rmsprop_nesterov":  # its velocity would carry it on
        optimizer = with_rate(problem, method)[0]
        rate = optimizer.param_groups[0]["lr"]
    rate.zero_()
    before = flat(problem.parameters())
    one_step(problem, optimizer)
    assert (flat(problem.parameters()) == before).all()


@every_method
def test_state_goes_through_a_file(method: str) -> None:
    straight, stopped = Quadratic(), Quadratic()
    one, two = with_rate(straight, method)[0], with_rate(stopped, method)[0]
    for _ in range(3):
        one_step(straight, one)
        one_step(stopped, two)
    buffer = io.BytesIO()
    torch.save(two.state_dict()["state"], buffer)
    buffer.seek(0)
    resumed = with_rate(stopped, method)[0]
    groups = resumed.state_dict()["param_groups"]
    resumed.load_state_dict({"state": torch.load(buffer, weights_only=True), "param_groups": groups})
    for _ in range(3):
        one_step(straight, one)
        one_step(stopped, resumed)
    assert (flat(straight.parameters()) == flat(stopped.parameters())).all()


def test_state_is_made_at_the_first_step_and_keeps_its_memory() -> None:
    problem = Quadratic()
    optimizer, _ = with_rate(problem, "rmsprop_nesterov")
    assert not optimizer.state
    one_step(problem, optimizer)
    addresses = [t.data_ptr() for state in optimizer.state.values() for t in state.values()]
    one_step(problem, optimizer)
    assert len(addresses) == 4
    assert addresses == [t.data_ptr() for state in optimizer.state.values() for t in state.values()]


def test_a_parameter_without_a_gradient_stays() -> None:
    problem = Quadratic()
    optimizer = RMSPropNesterov(problem.parameters(), 0.1)
    problem().backward()
    problem.one.grad = None
    before = problem.one.detach().clone()
    optimizer.step()
    assert torch.equal(problem.one, before)
    assert list(optimizer.state) == [problem.two]


def test_a_closure_is_called_with_gradients_on() -> None:
    problem = Quadratic()
    optimizer = RMSPropNesterov(problem.parameters(), 0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert first is not None
    assert closure().item() < first.item()


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": float("nan")}, {"momentum": 1.0}, {"rho": -0.1}])
def test_impossible_hyperparameters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RMSPropNesterov(Quadratic().parameters(), **wrong)


@pytest.mark.parametrize("make", [Quadratic, Network])
def test_the_adagrad_of_gpus_is_torchs(make: Callable[[], nn.Module]) -> None:
    ours, torchs = make(), make()
    for problem, kind in ((ours, CapturableAdagrad), (torchs, torch.optim.Adagrad)):
        optimizer = kind(problem.parameters(), lr=torch.tensor(0.1), weight_decay=DECAY)
        for _ in range(STEPS):
            one_step(problem, optimizer)
    assert np.abs(flat(ours.parameters()) - flat(torchs.parameters())).max() < 1e-10


def fused_adagrad(parameters: Any, **values: Any) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, fused=True, **values)


@pytest.mark.parametrize(
    ("first", "second"),
    [(CapturableAdagrad, fused_adagrad), (fused_adagrad, CapturableAdagrad), (CapturableAdagrad, torch.optim.Adagrad)],
)
def test_adagrad_goes_on_on_the_other_device(first: Callable[..., Any], second: Callable[..., Any]) -> None:
    """The states of a GPU's AdaGrad and of a CPU's are the same, to the step, and lead to the same place."""
    values = {"lr": torch.tensor(0.1), "weight_decay": DECAY}
    straight, moved = Quadratic(), Quadratic()
    whole, begun = first(straight.parameters(), **values), first(moved.parameters(), **values)
    for _ in range(3):
        one_step(straight, whole)
        one_step(moved, begun)
    resumed = second(moved.parameters(), **values)
    held = copy.deepcopy(begun.state_dict()["state"])
    resumed.load_state_dict({"state": held, "param_groups": resumed.state_dict()["param_groups"]})
    for _ in range(3):
        one_step(straight, whole)
        one_step(moved, resumed)
    assert np.abs(flat(straight.parameters()) - flat(moved.parameters())).max() < 1e-14
    states = whole.state_dict()["state"], resumed.state_dict()["state"]
    for one, other in zip(*(s.values() for s in states), strict=True):
        assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in other.items()}
        assert one["step"] == other["step"] == 6
        assert torch.allclose(one["sum"], other["sum"], rtol=1e-14, atol=0)


@needs_cuda
@every_method
def test_a_step_captured_in_a_cuda_graph_follows_the_equations(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate changes half-way, which a rate or a count kept on the host would miss. The rate is in fp32, as the
    engine has it and as torch's fused Adam wants it."""
    monkeypatch.setitem(RATES, method, float(np.float32(RATES[method])))
    problem = Quadratic("cuda")
    start = flat(problem.parameters())
    expected = reference(method, gradient_of(Quadratic()), start, STEPS // 2)
    optimizer, rate = with_rate(problem, method, torch.float32)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        one_step(problem, optimizer)
    torch.cuda.current_stream().wait_stream(side)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(start).cuda(), problem.parameters())
        for state in optimizer.state.values():
            for tensor in state.values():
                assert tensor.is_cuda
                tensor.zero_()
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        problem().backward()
        optimizer.step()
    for _ in range(STEPS // 2):
        graph.replay()
    assert np.abs(flat(problem.parameters()) - expected).max() < 1e-10
    rate.zero_()
    for state in optimizer.state.values():
        if "velocity" in state:
            state["velocity"].zero_()
    before = flat(problem.parameters())
    graph.replay()
    assert (flat(problem.parameters()) == before).all()
