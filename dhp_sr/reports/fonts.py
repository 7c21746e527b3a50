"""Fonts of figures: names in any script, as written."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import rc_context
from matplotlib.font_manager import fontManager

DEFAULT_FONT = "DejaVu Sans"
"""Comes with matplotlib; has Latin, Greek, Cyrillic and Arabic letters."""

FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Unifont",
)
"""Fonts with further letters, of Linux, macOS and Windows; those that are installed are used."""


@contextmanager
def text_as_written() -> Iterator[None]:
    """Draw text as it is written, in the block or, as a decorator, in the function.

    Names are no formulas, whatever dollars and backslashes they hold. A letter that the default
    font lacks is taken from the next font that has it.
    """
    installed = {font.name for font in fontManager.ttflist}
    # Stated only where it is installed: matplotlib logs a line for each that it looks for in vain.
    families = [DEFAULT_FONT, *(name for name in FURTHER_FONTS if name in installed)]
    with rc_context({"text.parse_math": False, "font.family": families}):
        yield


@contextmanager
def one_warning_for_missing_letters() -> Iterator[None]:
    """Warn once about all letters that no font has, rather than once for each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing = set()
    for warning in caught:
        text = str(warning.message)
        if text.startswith("Glyph ") and "missing from font" in text:
            missing.add(text.split()[1])
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing:
        warnings.warn(
            f"plots: no installed font has {len(missing)} of the letters in their names, which are "
            f"drawn as boxes; install one, such as {FURTHER_FONTS[0]}",
            stacklevel=5,
        )
