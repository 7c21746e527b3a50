"""Take the screenshot of a report page for the README: desktop in light, phone in dark colors.

$ python scripts/screenshot.py experiments/quickstart/report.html docs/images/report.png --image 1

Needs selenium, and chromium with its driver (Debian: apt-get install chromium chromium-driver).
"""

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.files import atomic_path  # noqa: E402

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)
HEIGHT = 1430
"""Height of the screenshot in pixels."""
GAP = 24
"""Pixels between desktop and phone."""
NUM_COLORS = 255
"""Colors of the palette: the file is a third of the size of one with all colors."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    page, target = Path(arguments.page), Path(arguments.target)
    return exit_code(lambda: take_screenshot(page, target, arguments.image))


def take_screenshot(page: Path, target: Path, image: int) -> None:
    """Write the screenshot of a page.

    Args:
        page: HTML file.
        target: PNG file to write.
        image: Index of the test image to show.

    Raises:
        UserError: There is no page, or no browser.
    """
    if not page.is_file():
        raise UserError(f"{page}: expected a report page, found none; run dhp_sr/report.py")
    browser = start_browser()
    try:
        desktop = render(browser, page, image, width=1080, scheme="light", mobile=False)
        phone = render(browser, page, image, width=380, scheme="dark", mobile=True)
    finally:
        browser.quit()
    both = Image.new("RGB", (desktop.width + GAP + phone.width, HEIGHT), "white")
    both.paste(desktop, (0, 0))
    both.paste(phone, (desktop.width + GAP, 0))
    reduced = both.quantize(NUM_COLORS, dither=Image.Dither.NONE)
    with atomic_path(target) as temporary:
        reduced.save(temporary, format="PNG", optimize=True)


def start_browser() -> "WebDriver":
    """Start a headless chromium with the driver that belongs to it; nothing is downloaded.

    Raises:
        UserError: selenium, chromium or its driver is not installed.
    """
    browser_path, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError as error:
        raise UserError(f"expected selenium, found none: pip install selenium ({error})") from error
    if browser_path is None or driver_path is None:
        raise UserError(
            "expected chromium and chromedriver, found none: "
            "apt-get install chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser_path
    for flag in BROWSER_FLAGS:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))


def render(
    browser: "WebDriver", page: Path, image: int, *, width: int, scheme: str, mobile: bool
) -> Image.Image:
    """Render the top of a page, `width` pixels wide, in the color scheme `light` or `dark`."""
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.resolve().as_uri())
    # A page with a single image has no buttons to choose by.
    choose = f"document.querySelectorAll('.image-buttons button')[{image}]?.click()"
    browser.execute_script(f"{choose}; window.scrollTo(0, 0)")
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("page", metavar="PAGE.html", help="report page of a run")
    parser.add_argument("target", metavar="PNG", help="file to write")
    parser.add_argument("--image", type=int, default=0, help="index of the test image to show")
    return parser


if __name__ == "__main__":
    sys.exit(main())
