"""Take the picture of a report page for the README: on a desktop in the light, on a phone in the dark.

$ python scripts/screenshot.py experiments/quickstart/report.html results/report.png --picture 1

Needs selenium, and chromium with its driver (Debian: apt-get install chromium chromium-driver).
"""

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.files import atomic_path  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
)
FLAGS += ("--disable-background-networking", "--disable-component-update", "--hide-scrollbars")
HEIGHT, GAP = 1430, 24
COLOURS = 255
"""Of the picture's palette: it is a third of the size of one with all colours."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: take(Path(arguments.page), Path(arguments.target), arguments.picture))


def take(page: Path, target: Path, picture: int) -> None:
    """Write the picture.

    Args:
        page: the HTML file.
        target: the PNG file.
        picture: number of the test picture to show, from 0.

    Raises:
        UserError: there is no page, or no browser.
    """
    if not page.is_file():
        raise UserError(
            f"{page}: expected a report page, found none; make it with dhp_sr/report.py"
        )
    browser = _browser()
    try:
        desktop = _shot(browser, page, picture, width=1080, scheme="light", mobile=False)
        phone = _shot(browser, page, picture, width=380, scheme="dark", mobile=True)
    finally:
        browser.quit()
    both = Image.new("RGB", (desktop.width + GAP + phone.width, HEIGHT), "white")
    both.paste(desktop, (0, 0))
    both.paste(phone, (desktop.width + GAP, 0))
    with atomic_path(target) as temporary:
        both.quantize(COLOURS, dither=Image.Dither.NONE).save(
            temporary, format="PNG", optimize=True
        )


def _browser() -> Any:
    places = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError as error:
        raise UserError(f"expected selenium, found none: pip install selenium ({error})") from error
    if None in places:
        raise UserError(
            "expected chromium and chromedriver, found none: apt-get install chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    for flag in FLAGS:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(places[1]))


def _shot(
    browser: Any, page: Path, picture: int, *, width: int, scheme: str, mobile: bool
) -> Image.Image:
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.resolve().as_uri())
    browser.execute_script(
        f"document.querySelectorAll('.scenes button')[{picture}]?.click(); window.scrollTo(0, 0)"
    )
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("page", metavar="PAGE.html")
    parser.add_argument("target", metavar="PNG")
    parser.add_argument(
        "--picture", type=int, default=0, help="number of the test picture to show, from 0"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
