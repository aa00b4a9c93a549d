"""A headless Chromium for tests of pages: loading them, and their requests.

Chromium and its driver are needed, as in Debian's packages chromium and
chromium-driver. Without them, these tests are skipped.
"""

import json
import pathlib
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSER, DRIVER = map(shutil.which, ("chromium", "chromedriver"))
OPTIONS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)
DESKTOP_WIDTH, PHONE_WIDTH, HEIGHT = 1200, 390, 900  # pixels
LOAD_AUDIO = """
const [audio, done] = arguments;
audio.addEventListener("error", () => done("cannot be loaded"));
audio.addEventListener("canplaythrough", () => done(audio.duration));
audio.load();
"""

needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed"
)


def start(profile: pathlib.Path) -> webdriver.Chrome:
    """A headless browser with a new profile, which logs its requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    # With the path of the driver, Selenium downloads none.
    return webdriver.Chrome(options=options, service=Service(DRIVER))


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
