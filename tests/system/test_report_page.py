"""The page of tools.report in Chromium: text, sorting, players, phones, dark mode.

Chromium and its driver are needed, as in Debian's packages chromium and
chromium-driver. Without them, these tests are skipped.
"""

import json
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Iterator

import numpy as np
import pytest
from helpers import CLASS_NAMES, CLIP_NAME, run_program, write_evaluation, write_wav
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

BROWSER, DRIVER = map(shutil.which, ("chromium", "chromedriver"))
OPTIONS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)
CLIP_SECONDS = 0.5
DESKTOP_WIDTH, PHONE_WIDTH, HEIGHT = 1200, 390, 900  # pixels
LOAD_AUDIO = """
const [audio, done] = arguments;
audio.addEventListener("error", () => done("cannot be loaded"));
audio.addEventListener("canplaythrough", () => done(audio.duration));
audio.load();
"""

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
    """The page about an evaluation with unusual names, compared with another one."""
    folder = tmp_path_factory.mktemp("page")
    eval_dir, other = folder / "<i> 'é' 100%25 #", folder / "</p><b>"
    write_evaluation(eval_dir, 1)
    write_evaluation(other, 2)
    clips = folder / 'clips "ü"'
    clips.mkdir()
    samples = 9000 * np.sin(np.arange(CLIP_SECONDS * 44100) / 9)
    for number in range(40):
        write_wav(clips / CLIP_NAME.format(number), samples)
    flags = (f"--clip_dir={clips}", f"--against={other}")
    done = run_program("tools.report", eval_dir, *flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning: --clip_dir" not in done.stderr
    return eval_dir / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    """A headless browser with a new profile, which logs its requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    # With the path of the driver, Selenium downloads none.
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(
    browser: webdriver.Chrome,
    page: pathlib.Path,
    *,
    width: int = DESKTOP_WIDTH,
    scheme: str = "light",
) -> None:
    """Loads the page at a width in pixels, in light or dark mode."""
    metrics = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        metrics | {"mobile": width == PHONE_WIDTH},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())


def requests(browser: webdriver.Chrome) -> list[str]:
    """The addresses that were requested since the last call."""
    events = [
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
    ]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def column(table: WebElement, heading: str) -> list[str]:
    """Selects a heading of a table, and returns the cells below it."""
    headings = table.find_elements(By.CSS_SELECTOR, "th button")
    index = [button.text for button in headings].index(heading)
    headings[index].click()
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({index + 1})")
    return [cell.text for cell in cells]


def test_tables_are_sorted_by_a_click(browser, page):
    show(browser, page)
    table, comparison, _ = browser.find_elements(By.TAG_NAME, "table")
    values = column(table, "lwlrap")
    assert values == sorted(values, reverse=True)
    assert values[-1] == ""  # the class without clips
    assert column(table, "lwlrap") == values[::-1]
    assert column(table, "clips") == ["19", "13", "13", "0"]
    differences = list(map(float, column(comparison, "difference")))
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] < 0 < differences[0]
    assert column(table, "class")[0] == CLASS_NAMES[1]
    names = column(table, "class")
    assert (names[0], names[-1]) == ("Unused", CLASS_NAMES[1])


def test_names_are_shown_as_text(browser, page):
    show(browser, page)
    text = browser.find_element(By.TAG_NAME, "body").text
    for name in (*CLASS_NAMES, page.parent.name, "Compared with", "</p><b>"):
        assert name in text
    assert page.parent.name in browser.title
    clips = browser.find_elements(By.CSS_SELECTOR, ".clip strong")
    assert len(clips) == 30
    assert {clip.text for clip in clips} < {CLIP_NAME.format(n) for n in range(40)}
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert len(browser.find_elements(By.TAG_NAME, "img")) == 30


def test_curves_of_a_class_are_drawn_on_demand(browser, page):
    show(browser, page)
    select = Select(browser.find_element(By.ID, "class"))
    assert [option.text for option in select.options] == CLASS_NAMES[:3]
    curves = browser.find_element(By.ID, "curves")
    first = curves.get_attribute("innerHTML")
    select.select_by_visible_text(CLASS_NAMES[2])
    assert curves.get_attribute("innerHTML") != first
    assert len(curves.find_elements(By.TAG_NAME, "polyline")) == 1
    progress = browser.find_element(By.ID, "progress")
    assert "the best step, 20" in progress.text


def test_players_load_their_clips_and_nothing_else_is_requested(browser, page):
    browser.get("about:blank")
    requests(browser)
    show(browser, page)
    players = browser.find_elements(By.TAG_NAME, "audio")
    for player in players[:3]:
        seconds = browser.execute_async_script(LOAD_AUDIO, player)
        assert seconds == pytest.approx(CLIP_SECONDS, abs=0.01)
    images = browser.find_elements(By.TAG_NAME, "img")
    assert all(int(image.get_property("naturalWidth")) > 10 for image in images)
    found = [urllib.parse.urlsplit(address) for address in requests(browser)]
    assert {address.scheme for address in found} == {"file", "data"}
    paths = {urllib.parse.unquote(a.path) for a in found if a.scheme == "file"}
    assert str(page) in paths
    assert len(paths) == 1 + 3
    assert all(path.startswith(str(page.parent.parent)) for path in paths)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP_WIDTH, PHONE_WIDTH])
def test_the_page_is_readable_on_phones_and_in_dark_mode(browser, page, width, scheme):
    show(browser, page, width=width, scheme=scheme)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.body.scrollWidth") <= width
    root = browser.find_element(By.TAG_NAME, "html")
    assert root.get_property("scrollWidth") <= width
    body = browser.find_element(By.TAG_NAME, "body")
    brightness = [
        sum(map(int, re.findall(r"\d+", body.value_of_css_property(name))[:3])) / 765
        for name in ("background-color", "color")
    ]
    background, text = brightness if scheme == "light" else brightness[::-1]
    assert background > 0.9
    assert text < 0.1
