import base64
import io

from fontTools.ttLib import TTFont

from analysis import math_font
from analysis.markup import to_html


def font_of(page):
    uri = math_font.data_uri(math_font.signs(page))
    return TTFont(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_a_page_without_equations_has_no_font():
    assert math_font.data_uri(math_font.signs("<p>no equation</p>")) == ""


def test_the_font_has_the_signs_of_the_equations_and_their_slanted_forms():
    found = font_of(to_html(r"Plain text with q. $\theta_h = x$")).getBestCmap()
    assert {"θ", "x", "=", "𝑥", "ℎ"} <= {chr(c) for c in found}
    assert ord("q") not in found


def test_the_sign_of_a_root_is_there_though_no_text_has_it():
    assert ord("√") in font_of(to_html(r"$\sqrt{r}$")).getBestCmap()


def test_scripts_are_shifted():
    constants = font_of(to_html("$x_1^2$"))["MATH"].table.MathConstants
    assert constants.SubscriptShiftDown.Value > 0
    assert constants.SuperscriptShiftUp.Value > constants.SubscriptShiftDown.Value


def test_the_same_signs_give_the_same_font():
    signs = math_font.signs(to_html("$x$"))
    first = math_font.data_uri(signs)
    math_font.data_uri.cache_clear()
    assert math_font.data_uri(signs) == first


def test_brackets_grow_only_around_what_is_tall():
    assert 'stretchy="true"' not in to_html(r"$\left(1-\rho\right)$")
    assert 'stretchy="true"' in to_html(r"$\left(\frac{1}{\rho}\right)$")
