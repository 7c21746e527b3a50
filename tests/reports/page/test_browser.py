"""The page in a real browser: with mouse and keyboard, on a phone, in the dark; it shows what the JSON holds."""

import json
import shutil
import time
from pathlib import Path

import pytest

from dhp_sr.reports.page import write_page

selenium = pytest.importorskip("selenium", reason="the tests of the page need selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
)
FLAGS += (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
DESKTOP = {"width": 1100, "height": 900, "deviceScaleFactor": 1, "mobile": False}


@pytest.fixture(scope="module")
def driver():
    """A headless chromium with the driver that belongs to it; nothing is downloaded."""
    places = shutil.which("chromium"), shutil.which("chromedriver")
    if None in places:
        pytest.skip(
            "no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(places[1]))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver, whole, tmp_path):
    """A function that opens the page of the run; at its end the browser must have had nothing to complain of."""

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


def test_opens_without_an_error_and_fetches_nothing(opened):
    driver = opened()
    assert find(driver, "h1").text == "<img src=x onerror=alert(1)>"
    assert (
        driver.execute_script(
            "return performance.getEntriesByType('resource').map((one) => one.name)"
        )
        == []
    )
    assert driver.execute_script("return document.querySelectorAll('.chart svg').length") == 4


def test_slider_follows_the_mouse(opened):
    driver = opened()
    stage = find(driver, ".stage")
    assert style(driver, ".layer.left", "clipPath") == "inset(0px 50% 0px 0px)"
    drag = ActionChains(driver).move_to_element(stage).click_and_hold()
    drag.move_by_offset(stage.size["width"] // 4, 0).release().perform()
    assert find(driver, ".split").get_property("value") == "75"
    assert style(driver, ".layer.left", "clipPath") == "inset(0px 25% 0px 0px)"
    assert find(driver, ".divider").get_attribute("style") == "left: 75%;"


def test_slider_follows_the_keyboard_alone(opened):
    driver = opened()
    look = """const one = document.activeElement;
        return [one.getAttribute('class') || one.dataset.choice || one.tagName, getComputedStyle(one).outlineStyle]"""
    reached = []
    while not reached or reached[-1] != "BODY":
        ActionChains(driver).send_keys(Keys.TAB).perform()
        name, outline = driver.execute_script(look)
        assert name == "BODY" or outline != "none", f"the focus does not show on {name}"
        reached.append(name)
        if name == "split":
            ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
        assert len(reached) < 60
    assert {"stage", "split", "pick left", "pick right", "set", "score", "cost"} <= set(reached)
    assert style(driver, ".layer.left", "clipPath") == "inset(0px 48% 0px 0px)"
    assert "52 percent bicubic" in find(driver, ".split").get_attribute("aria-valuetext")


def test_any_two_versions_and_pictures_can_be_chosen(opened):
    driver = opened()
    sources = {view.get_attribute("data-label"): view.get_property("src") for view in
               driver.find_elements(By.CSS_SELECTOR, ".strip[data-scene='0'] img")}  # fmt: skip
    assert list(sources) == ["input", "bicubic", "dense", "pruned", "truth"]
    for side, label in (("left", "input"), ("right", "truth")):
        Select(find(driver, f".pick.{side}")).select_by_visible_text(label)
        assert find(driver, f".layer.{side} img").get_property("src") == sources[label]
        assert find(driver, f".tag.{side}").text == label
    driver.find_elements(By.CSS_SELECTOR, ".scenes button")[1].click()
    other = find(driver, ".strip[data-scene='1'] img[data-label='truth']").get_property("src")
    assert find(driver, ".layer.right img").get_property("src") == other != sources["truth"]
    texts = [option.text for option in Select(find(driver, ".pick.right")).options]
    assert texts == ["input", "bicubic, 31.12 dB", "dense, 32.12 dB", "pruned, 33.12 dB", "truth"]


def test_zoom_enlarges_both_and_the_view_moves(opened):
    driver = opened()
    find(driver, "[data-zoom='in']").click()
    assert find(driver, ".zoom output").text == "2\N{MULTIPLICATION SIGN}"
    find(driver, ".stage").send_keys("+", Keys.ARROW_RIGHT)
    transforms = {
        find(driver, f".layer.{side} img").value_of_css_property("transform")
        for side in ("left", "right")
    }
    (transform,) = transforms
    scale, *_, left, _top = (
        float(value) for value in transform.removeprefix("matrix(").rstrip(")").split(",")
    )
    width = find(driver, ".stage").size["width"]
    assert scale == 4 and left == pytest.approx(-1.5 * width - 40)
    find(driver, "[data-zoom='fit']").click()
    assert "matrix(1, 0, 0, 1, 0, 0)" in find(driver, ".layer.left img").value_of_css_property(
        "transform"
    )


def test_numbers_equal_the_json(opened, whole):
    driver = opened()
    metrics = json.loads((whole / "metrics.json").read_text())
    pruned = metrics["rows"][2]
    cells = [
        cell.text
        for cell in driver.find_elements(By.CSS_SELECTOR, "#results tbody tr:last-child > *")
    ]
    five, fourteen = pruned["sets"]["Set5"], pruned["sets"]["Set14"]
    assert cells == [
        "pruned", f"{pruned['iterations']:,}", f"{five['psnr_y_db']:.2f}", f"{five['ssim_y']:.4f}",
        f"{fourteen['psnr_y_db']:.2f}", f"{fourteen['ssim_y']:.4f}", f"{pruned['macs'] / 1e9:.3f}", "40.0%",
        f"{pruned['params'] / 1e6:.3f}", "45.0%", f"{pruned['latency_ms']:.1f}",
    ]  # fmt: skip
    Select(find(driver, "[data-choice='set']")).select_by_value("Set14")
    Select(find(driver, "[data-choice='score']")).select_by_value("ssim_y")
    Select(find(driver, "[data-choice='cost']")).select_by_value("latency_ms")
    find(driver, "#cost svg[role='img']").send_keys(Keys.ARROW_RIGHT)
    told = find(driver, "#cost .tip").text.splitlines()
    assert told[:5] == ["pruned", f"SSIM-Y: {fourteen['ssim_y']:.4f}", "multiply-adds, G: 36.141",
                        "parameters, M: 1.663", "latency, ms: 221.7"]  # fmt: skip
    assert "measured on other hardware" in find(driver, "#cost-note").text


def test_curves_tell_their_values(opened):
    driver = opened()
    chart = driver.find_elements(By.CSS_SELECTOR, "#curves svg[role='img']")[2]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    chart.send_keys(Keys.END, Keys.ARROW_LEFT)
    tips = [
        tip.text.splitlines()
        for tip in driver.find_elements(By.CSS_SELECTOR, "#curves .tip")
        if tip.text
    ]
    assert tips == [["iteration 40", "Set5: 30", "Set14: 27"]]


def test_points_can_be_hidden(opened):
    driver = opened()
    count = "return document.querySelectorAll('#cost figure .published').length"
    assert driver.execute_script(count) > 5
    find(driver, ".legend button:last-child").click()
    assert driver.execute_script(count) == 0
    assert find(driver, ".legend button:last-child").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("count", [1, 2])
def test_a_phone_scrolls_down_only(opened, whole, count):
    other = shutil.copytree(
        whole, whole.parent / "a_name_that_is_long_and_has_no_place_to_break_in_it_at_all"
    )
    (other / "metrics.json").write_text(
        (whole / "metrics.json").read_text().replace("<img src=x", "a" * 60)
    )
    driver = opened(PHONE, runs=(other, whole)[:count])
    widths = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths == [360, 360]
    too_wide = """return [...document.querySelectorAll('main :not(.scroll *):not(pre)')].filter(
        (one) => one.getBoundingClientRect().right > 361).map((one) => one.outerHTML.slice(0, 80))"""
    assert driver.execute_script(too_wide) == []


def luminance(colour):
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(opened, scheme):
    driver = opened(scheme=scheme)
    ground = luminance(style(driver, "body", "backgroundColor"))
    assert (ground < 0.05) == (scheme == "dark")
    for selector, name, least in [
        ("body", "color", 7), (".note", "color", 4.5), ("thead th", "color", 4.5), (".chart text", "fill", 4.5),
        (".pruned", "fill", 3), (".published", "stroke", 3), (".fill", "backgroundColor", 3),
    ]:  # fmt: skip
        bright, dim = sorted((luminance(style(driver, selector, name)), ground), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= least, selector


def test_print_shows_every_picture_and_no_controls(opened):
    driver = opened(media="print")
    assert style(driver, ".comparison", "display") == "none"
    strips = driver.find_elements(By.CSS_SELECTOR, ".strip")
    assert len(strips) == 2 and all(strip.is_displayed() for strip in strips)


def test_an_interrupted_run_opens_too(opened, whole):
    for name in ("metrics.json", "widths.json", "latents.csv"):
        (whole / name).unlink()
    shutil.rmtree(whole / "images")
    driver = opened()
    assert "Not finished" in find(driver, ".state").text
    assert len(driver.find_elements(By.CSS_SELECTOR, "#curves svg[role='img']")) == 3


def test_latents_tell_their_values(opened):
    driver = opened()
    image = find(driver, ".heat img")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    time.sleep(0.05)
    ActionChains(driver).move_to_element_with_offset(
        image, -image.size["width"] // 2 + 5, -40
    ).perform()
    assert find(driver, ".readout").text == "conv_first, row 1, iteration 21: about 1.00"
    ActionChains(driver).move_to_element_with_offset(
        image, image.size["width"] // 2 - 5, 40
    ).perform()
    assert find(driver, ".readout").text == "conv_first, row 4, iteration 30: cut"


def test_the_readme_shows_the_page():
    root = Path(__file__).resolve().parents[3]
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert "dhp_sr/report.py" in readme and "](results/report.png)" in readme
    assert (root / "results" / "report.png").stat().st_size < 300 * 1024
