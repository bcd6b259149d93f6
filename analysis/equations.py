"""Typeset update equations from the source of the functions that compute them.

So the equations of a report are the lines that tests run: nobody writes them a second time. A function's
assignments become LaTeX; what is understood is elementary arithmetic on names, `sqrt` and `gradient`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

SUM, PRODUCT, SIGN, POWER, ATOM = range(5)
"""How tightly an expression holds together; a looser one inside a tighter one needs brackets."""


def equations(function: Callable[..., Any], symbols: Mapping[str, str]) -> list[str]:
    """LaTeX of each assignment of a function, in order. `symbols` maps names to LaTeX.

    Raises KeyError for a name without a symbol and ValueError for code that is no elementary arithmetic.
    """
    return [
        rf"{symbols[_name(node.targets[0])]} \leftarrow {_latex(node.value, symbols)[0]}"
        for node in _body(function)
        if isinstance(node, ast.Assign)
    ]


def names(function: Callable[..., Any]) -> set[str]:
    """Names of quantities in a function's assignments."""
    found = {n.id for a in _body(function) if isinstance(a, ast.Assign) for n in ast.walk(a) if isinstance(n, ast.Name)}
    return found - {"sqrt"}


def _body(function: Callable[..., Any]) -> list[ast.stmt]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    return definition.body


def _name(node: ast.expr) -> str:
    if not isinstance(node, ast.Name):
        raise ValueError(f"an assignment to one name is expected, not to {ast.unparse(node)}")
    return node.id


def _latex(node: ast.expr, symbols: Mapping[str, str]) -> tuple[str, int]:
    """LaTeX of an expression, and how tightly it holds together."""
    match node:
        case ast.Name(id=name):
            return symbols[name], ATOM
        case ast.Constant(value=int(number)):
            return str(number), ATOM
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner]):
            return rf"\sqrt{{{_latex(inner, symbols)[0]}}}", ATOM
        case ast.Call(func=ast.Name(id="gradient"), args=[inner]):
            return rf"{symbols['gradient']}\left({_latex(inner, symbols)[0]}\right)", ATOM
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return f"-{_within(inner, PRODUCT, symbols)}", SIGN
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{_latex(left, symbols)[0]}}}{{{_latex(right, symbols)[0]}}}", ATOM
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return f"{_within(left, ATOM, symbols)}^{{{_latex(right, symbols)[0]}}}", POWER
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return rf"{_within(left, PRODUCT, symbols)} \, {_within(right, PRODUCT, symbols)}", PRODUCT
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_within(left, SUM, symbols)} + {_within(right, SUM, symbols)}", SUM
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{_within(left, SUM, symbols)} - {_within(right, PRODUCT, symbols)}", SUM
    raise ValueError(f"no elementary arithmetic: {ast.unparse(node)}")


def _within(node: ast.expr, tightness: int, symbols: Mapping[str, str]) -> str:
    text, own = _latex(node, symbols)
    return text if own >= tightness else rf"\left({text}\right)"
