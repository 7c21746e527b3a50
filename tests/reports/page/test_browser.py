"""The page in a real browser: with mouse and keyboard, on a phone, in the dark, on paper."""

import json
import shutil
import time

import pytest

from dhp_sr.reports.page import write_page

selenium = pytest.importorskip("selenium", reason="the tests of the page need selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

from .conftest import NAME  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
DESKTOP = {"width": 1100, "height": 900, "deviceScaleFactor": 1, "mobile": False}


@pytest.fixture(scope="module")
def driver():
    """A headless chromium with the driver that belongs to it; nothing is downloaded."""
    browser_path, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if browser_path is None or driver_path is None:
        pytest.skip("no chromium with driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser_path
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver, whole, tmp_path):
    """A function that opens the page of the run; the browser must not log any error."""

    def go(size=DESKTOP, scheme="light", media="screen", runs=(whole,)):
        path = write_page(tmp_path / "page.html", runs)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(path.as_uri())
        return driver

    yield go
    assert driver.get_log("browser") == []


def style(driver, selector, name):
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return driver.execute_script(script, selector, name)


def find(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def find_all(driver, selector):
    return driver.find_elements(By.CSS_SELECTOR, selector)


def test_charts_and_table_show_the_numbers_of_the_json(opened, whole):
    driver = opened()
    assert find(driver, "h1").text == NAME
    resources = "return performance.getEntriesByType('resource').length"
    assert driver.execute_script(resources) == 0

    pruned = json.loads((whole / "metrics.json").read_text())["rows"][2]
    cells = [cell.text for cell in find_all(driver, "#results tbody tr:last-child > *")]
    assert cells[:6] == ["pruned", "50,000", "31.85", "0.8812", "28.33", "0.8812"]
    assert cells[6:] == ["36.141", "40.0%", "1.663", "45.0%", "221.7"]
    # The chart follows the choice of test set, score and cost.
    for choice, value in (("set", "Set14"), ("score", "ssim_y"), ("cost", "latency_ms")):
        Select(find(driver, f"[data-choice='{choice}']")).select_by_value(value)
    find(driver, "#cost svg[role='img']").send_keys(Keys.ARROW_RIGHT)
    tip = find(driver, "#cost .tip").text.splitlines()
    assert tip[:2] == ["pruned", f"SSIM-Y: {pruned['sets']['Set14']['ssim_y']:.4f}"]
    assert tip[2:5] == ["MACs, G: 36.141", "parameters, M: 1.663", "latency, ms: 221.7"]
    assert "measured on other hardware" in find(driver, "#cost-note").text

    # Kinds of points can be hidden by the legend.
    Select(find(driver, "[data-choice='set']")).select_by_value("Set5")
    Select(find(driver, "[data-choice='score']")).select_by_value("psnr_y_db")
    Select(find(driver, "[data-choice='cost']")).select_by_value("macs")
    assert len(find_all(driver, "#cost figure .published")) > 5
    button = find(driver, ".legend button:last-child")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert find_all(driver, "#cost figure .published") == []

    charts = find_all(driver, "#curves svg[role='img']")
    assert len(charts) == 3
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", charts[2])
    charts[2].send_keys(Keys.END, Keys.ARROW_LEFT)
    tips = [tip.text.splitlines() for tip in find_all(driver, "#curves .tip") if tip.text]
    assert tips == [["iteration 40", "Set5: 30", "Set14: 27"]]


def test_images_are_compared_with_the_mouse(opened):
    driver = opened()
    viewport = find(driver, ".viewport")
    assert style(driver, ".layer.left", "clipPath") == "inset(0px 50% 0px 0px)"
    drag = ActionChains(driver).move_to_element(viewport).click_and_hold()
    drag.move_by_offset(viewport.size["width"] // 4, 0).release().perform()
    assert find(driver, ".divider-position").get_property("value") == "75"
    assert style(driver, ".layer.left", "clipPath") == "inset(0px 25% 0px 0px)"
    assert find(driver, ".divider").get_attribute("style") == "left: 75%;"

    # Any two versions, and every image, can be chosen.
    sources = {}
    for version in find_all(driver, ".strip[data-image='0'] img"):
        sources[version.get_attribute("data-label")] = version.get_property("src")
    assert list(sources) == ["input", "bicubic", "dense", "pruned", "ground truth"]
    for side, label in (("left", "input"), ("right", "ground truth")):
        Select(find(driver, f".version.{side}")).select_by_visible_text(label)
        assert find(driver, f".layer.{side} img").get_property("src") == sources[label]
        assert find(driver, f".tag.{side}").text == label
    find_all(driver, ".image-buttons button")[1].click()
    other = find(driver, ".strip[data-image='1'] img[data-label='ground truth']")
    shown = find(driver, ".layer.right img").get_property("src")
    assert shown == other.get_property("src") != sources["ground truth"]
    labels = [option.text for option in Select(find(driver, ".version.right")).options]
    assert labels[1:4] == ["bicubic, 31.12 dB", "dense, 32.12 dB", "pruned, 33.12 dB"]

    # Zoom enlarges both versions around the center, arrow keys move them.
    find(driver, "[data-zoom='in']").click()
    assert find(driver, ".zoom output").text == "2\N{MULTIPLICATION SIGN}"
    viewport.send_keys("+", Keys.ARROW_RIGHT)
    left, right = find_all(driver, ".layer img")
    transform = left.value_of_css_property("transform")
    assert transform == right.value_of_css_property("transform")
    scale, *_, shift, _ = map(float, transform.removeprefix("matrix(").rstrip(")").split(","))
    assert scale == 4 and shift == pytest.approx(-1.5 * viewport.size["width"] - 40)
    find(driver, "[data-zoom='fit']").click()
    assert "matrix(1, 0, 0, 1, 0, 0)" in left.value_of_css_property("transform")


def test_everything_is_reached_by_the_keyboard_and_shows_its_focus(opened):
    driver = opened()
    focused = """const active = document.activeElement;
        const name = active.getAttribute('class') || active.dataset.choice || active.tagName;
        return [name, getComputedStyle(active).outlineStyle]"""
    reached = []
    while not reached or reached[-1] != "BODY":
        ActionChains(driver).send_keys(Keys.TAB).perform()
        name, outline = driver.execute_script(focused)
        assert name == "BODY" or outline != "none", f"the focus does not show on {name}"
        reached.append(name)
        if name == "divider-position":
            ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
        assert len(reached) < 60
    controls = {"viewport", "divider-position", "version left", "version right"}
    assert controls | {"set", "score", "cost"} <= set(reached)
    assert style(driver, ".layer.left", "clipPath") == "inset(0px 48% 0px 0px)"
    assert "52 percent" in find(driver, ".divider-position").get_attribute("aria-valuetext")


@pytest.mark.parametrize("count", [1, 2])
def test_a_phone_scrolls_down_only(opened, whole, count):
    long_name = "a_name_that_is_long_and_has_no_place_to_break_in_it_at_all"
    other = shutil.copytree(whole, whole.parent / long_name)
    metrics = (whole / "metrics.json").read_text().replace("<img src=x", "a" * 60)
    (other / "metrics.json").write_text(metrics)
    driver = opened(PHONE, runs=(other, whole)[:count])
    widths = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths == [360, 360]
    too_wide = """return [...document.querySelectorAll('main :not(.scroll *):not(pre)')]
        .filter((node) => node.getBoundingClientRect().right > 361)
        .map((node) => node.outerHTML.slice(0, 80))"""
    assert driver.execute_script(too_wide) == []


def luminance(color):
    """Relative luminance as WCAG defines it, of a CSS color `rgb(...)`."""
    weighted = 0.0
    channels = color[color.index("(") + 1 : -1].split(",")[:3]
    for weight, channel in zip((0.2126, 0.7152, 0.0722), channels, strict=True):
        value = float(channel) / 255
        linear = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        weighted += weight * linear
    return weighted


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(opened, scheme):
    driver = opened(scheme=scheme)
    ground = luminance(style(driver, "body", "backgroundColor"))
    assert (ground < 0.05) == (scheme == "dark")
    least_contrasts = [
        ("body", "color", 7),
        (".note", "color", 4.5),
        ("thead th", "color", 4.5),
        (".chart text", "fill", 4.5),
        (".pruned", "fill", 3),
        (".published", "stroke", 3),
        (".fill", "backgroundColor", 3),
    ]
    for selector, name, least in least_contrasts:
        bright, dim = sorted((luminance(style(driver, selector, name)), ground), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= least, selector


def test_print_shows_every_image_and_no_controls(opened):
    driver = opened(media="print")
    assert style(driver, ".comparison", "display") == "none"
    strips = find_all(driver, ".strip")
    assert len(strips) == 2 and all(strip.is_displayed() for strip in strips)


def test_heat_maps_show_their_values(opened):
    driver = opened()
    image = find(driver, ".heat-map img")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    time.sleep(0.05)
    half_width = image.size["width"] // 2 - 5
    for x, y, text in [
        (-half_width, -40, "conv_first, row 1, iteration 21: about 1.00"),
        (half_width, 40, "conv_first, row 4, iteration 30: pruned"),
    ]:
        ActionChains(driver).move_to_element_with_offset(image, x, y).perform()
        assert find(driver, ".readout").text == text


def test_an_interrupted_run_opens_too(opened, whole):
    for name in ("metrics.json", "widths.json", "latents.csv"):
        (whole / name).unlink()
    shutil.rmtree(whole / "images")
    driver = opened()
    assert "Not finished" in find(driver, ".unfinished").text
    assert len(find_all(driver, "#curves svg[role='img']")) == 3
