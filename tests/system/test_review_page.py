"""The review page of tools.find in Chromium: keys, player, decisions, phones."""

import csv
import pathlib
import urllib.parse

import numpy as np
import pytest
import soundfile
from browsing import DESKTOP_WIDTH, PHONE_WIDTH, needs_browser, requests, show
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from recordings.archive import Example
from tagger.hparams import Hparams
from tools.find import review
from tools.make_dataset.sources import find_recordings

RATE, SECONDS = 8000, 3600
NAME = 'an hour "é" #1.flac'
CLASSES = ["Bark", '</script>"x"', "Rain"]
STARTS = (0.5, 1800, 3590)
WAIT_SECONDS = 60
PLAYED = """
const audio = cards[arguments[0]].audio;
return audio.paused && audio.currentTime >= data.items[arguments[0]].end;
"""

pytestmark = needs_browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A recording of an hour and its pages: one with classes, one without."""
    folder = tmp_path_factory.mktemp("review")
    samples = np.sin(np.arange(SECONDS * RATE, dtype=np.float32) / 9) / 2
    soundfile.write(folder / NAME, samples, RATE)
    examples = [
        Example(str(folder / NAME), start, start + 1.0, 0.9 - number / 10)
        for number, start in enumerate(STARTS)
    ]
    for name, labels in (("classes", CLASSES), ("similar", [""] * 3)):
        page = review.make_page(
            list(zip(examples, labels, strict=True)),
            title=f"Review of {name}",
            value="score",
            label="",
            class_names=CLASSES,
            hparams=Hparams(),
            page_dir=str(folder),
        )
        (folder / f"{name}.html").write_text(page)
    return folder


def press(browser, *keys: str) -> None:
    """Presses keys, one after the other."""
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def decided(browser) -> list[str]:
    """What the cards say about the decisions."""
    return [line.text for line in browser.find_elements(By.CSS_SELECTOR, ".decided")]


def test_keys_decide_and_the_table_is_read(browser, folder):
    show(browser, folder / "classes.html")
    assert decided(browser) == ["", "", ""]
    texts = [card.text for card in browser.find_elements(By.CSS_SELECTOR, ".clip")]
    for text, expected in zip(texts, ("0:00.50 to 0:01.50", "30:00.00 to 30:01.00")):
        assert f"{NAME}, {expected}, score 0." in text
    press(browser, "r", "w", "a")
    press(browser, *"My dog", Keys.ENTER)
    assert decided(browser) == ["Bark", "_background_", "My dog"]
    counts = browser.find_element(By.ID, "counts").text
    assert counts == "3 of 3 decided: 1 right, 1 wrong, 1 another class, 0 skipped"
    show(browser, folder / "classes.html")  # Decisions are kept.
    assert decided(browser) == ["Bark", "_background_", "My dog"]
    downloads = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    browser.find_element(By.ID, "download").click()
    path = folder / "reviewed.csv"
    WebDriverWait(browser, WAIT_SECONDS).until(lambda _: path.is_file())
    (recording,) = find_recordings(
        str(folder), annotations=str(path), only_annotated=True
    )
    assert recording.events == [
        (0.5, 1.5, "Bark"),
        (1800, 1801, "_background_"),
        (3590, 3591, "My dog"),
    ]
    press(browser, "j", "r", "k", "k", "s")  # The first is the current one again.
    assert decided(browser) == ["skipped", CLASSES[1], "My dog"]
    rows = list(csv.reader(browser.execute_script("return csv()").splitlines()))
    assert [row[3] for row in rows] == ["label", CLASSES[1], "My dog"]


def test_similar_sounds_get_the_class_of_the_page(browser, folder):
    show(browser, folder / "similar.html")
    press(browser, "r")  # It asks for the class.
    press(browser, *"Rain", Keys.TAB)
    assert decided(browser) == ["", "", ""]
    browser.find_element(By.TAG_NAME, "h1").click()
    press(browser, "r", "r")
    assert decided(browser) == ["Rain", "Rain", ""]


def test_the_player_plays_the_example(browser, folder):
    browser.get("about:blank")
    requests(browser)
    show(browser, folder / "classes.html")
    press(browser, "k", "k", "j")
    WebDriverWait(browser, WAIT_SECONDS).until(
        lambda _: browser.execute_script(PLAYED, 1)
    )
    position = browser.execute_script("return cards[1].audio.currentTime")
    assert 1801 <= position < 1802
    found = [urllib.parse.urlsplit(address) for address in requests(browser)]
    assert {address.scheme for address in found} <= {"file", "data"}
    paths = {urllib.parse.unquote(a.path) for a in found if a.scheme == "file"}
    assert paths == {str(folder / "classes.html"), str(folder / NAME)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP_WIDTH, PHONE_WIDTH])
def test_the_page_fits(browser, folder, width, scheme):
    show(browser, folder / "similar.html", width=width, scheme=scheme)
    assert browser.execute_script("return document.body.scrollWidth") <= width
    images = browser.find_elements(By.TAG_NAME, "img")
    assert len(images) == 3
    assert all(int(image.get_property("naturalWidth")) > 10 for image in images)
