"""Markdown with equations to HTML: `$...$` and `$$...$$` become MathML, raw HTML is shown as text."""

from __future__ import annotations

import functools
import re

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

LOW_FENCES = re.compile(
    r'<mo stretchy="true"[^>]*>[^<]*</mo>(?:(?!<mo stretchy|<mfrac|<msqrt|<mover|<munder|<mtable).)*'
    r'<mo stretchy="true"[^>]*>[^<]*</mo>'
)
"""A pair of brackets around nothing tall: fonts have few sizes, and a letter's tail would bring the next one."""


def to_html(markdown: str) -> str:
    """HTML of CommonMark with tables and equations. Tags in the text are escaped."""
    return str(_parser().render(markdown))


@functools.cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.inline.ruler.before("escape", "math", _math)
    parser.add_render_rule("math", _mathml)
    parser.add_render_rule("table_open", _table_open)  # a table wider than a phone scrolls by itself
    parser.add_render_rule("table_close", _table_close)
    return parser


def _math(state: StateInline, silent: bool) -> bool:
    """Recognise an equation at the position; a dollar sign before a space is only a dollar sign."""
    fence = "$$" if state.src.startswith("$$", state.pos) else "$"
    start = state.pos + len(fence)
    if not state.src.startswith("$", state.pos) or start >= len(state.src):
        return False
    if fence == "$" and state.src[start].isspace():
        return False
    end = state.src.find(fence, start)
    if end <= start or end > state.posMax:
        return False
    if not silent:
        token = state.push("math", "math", 0)
        token.content, token.block = state.src[start:end].strip(), fence == "$$"
    state.pos = end + len(fence)
    return True


def _mathml(renderer: RendererProtocol, tokens: list[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    token = tokens[index]
    equation = convert(token.content, display="block" if token.block else "inline")
    return LOW_FENCES.sub(lambda m: m.group().replace('stretchy="true"', 'stretchy="false"'), equation)


def _table_open(renderer: RendererProtocol, tokens: list[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    return '<div class="scroll"><table>\n'


def _table_close(
    renderer: RendererProtocol, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return "</table></div>\n"
