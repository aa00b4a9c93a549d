"""The page of tools.report in Chromium: text, tables, curves, players, phones."""

import pathlib
import re
import urllib.parse

import numpy as np
import pytest
from browsing import (
    DESKTOP_WIDTH,
    LOAD_AUDIO,
    PHONE_WIDTH,
    needs_browser,
    requests,
    show,
)
from helpers import CLASS_NAMES, CLIP_NAME, run_program, write_evaluation, write_wav
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tagger.runs import eval_folder

LONG_NAMES = ["Accelerating_and_revving_and_vroom", "X" * 80, "Loudspeaker", "Unused"]
CLIP_SECONDS = 0.5
# The numbers of lines of the parts of a name that end with an underscore.
LINES_OF_PARTS = """
const lines = [], texts = document.createTreeWalker(arguments[0], NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const range = document.createRange();
  range.selectNode(texts.currentNode);
  lines.push(new Set([...range.getClientRects()].map((box) => box.top)).size);
}
return lines;
"""
SHOW_STEPS = """
data.progress = arguments[0].map((step) => [step, 0.5]);
showProgress();
const texts = document.querySelectorAll("#progress text[text-anchor=middle]");
return [...texts].slice(0, -1).map((text) => text.textContent);
"""

pytestmark = needs_browser


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
def long_names_page(tmp_path_factory) -> pathlib.Path:
    """The page about an evaluation with long names of classes, which have few clips."""
    folder = tmp_path_factory.mktemp("names")
    write_evaluation(folder / "eval", 1, num_clips=24)
    path = folder / "eval" / eval_folder.SCORES_FILE
    with np.load(path) as arrays:
        contents = dict(arrays) | {"class_names": np.array(LONG_NAMES)}
    np.savez(path, **contents)
    write_wav(folder / CLIP_NAME.format(0), np.ones(22050))
    done = run_program("tools.report", folder / "eval", f"--clip_dir={folder}")
    assert done.returncode == 0
    return folder / "eval" / "report.html"


def column(table: WebElement, heading: str) -> list[str]:
    """Selects a heading of a table, and returns the cells below it."""
    headings = table.find_elements(By.CSS_SELECTOR, "th button")
    index = [button.text for button in headings].index(heading)
    headings[index].click()
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({index + 1})")
    return [cell.text for cell in cells]


def test_tables_are_sorted_by_a_click(browser, page):
    show(browser, page)
    table, detections, comparison, _ = browser.find_elements(By.TAG_NAME, "table")
    values = column(table, "lwlrap")
    assert values == sorted(values, reverse=True)
    assert values[-1] == ""  # the class without clips
    assert column(table, "lwlrap") == values[::-1]
    assert column(table, "clips") == ["19", "13", "13", "0"]
    precision = column(detections, "precision")
    assert precision == sorted(precision, reverse=True)
    assert precision[0] >= "0.9"
    assert precision[-1] == ""
    differences = list(map(float, column(comparison, "difference")))
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] < 0 < differences[0]
    assert column(table, "class")[0] == CLASS_NAMES[1]
    names = column(table, "class")
    assert (names[0], names[-1]) == ("Unused", CLASS_NAMES[1])


def test_the_means_stay_below_the_classes(browser, page):
    show(browser, page)
    table = browser.find_element(By.TAG_NAME, "table")
    for _ in range(2):
        assert "mean" not in column(table, "lwlrap")
        assert table.text.splitlines()[-1].startswith("mean ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_values_from_few_clips_look_different(browser, long_names_page, scheme):
    show(browser, long_names_page, scheme=scheme)
    table = browser.find_element(By.TAG_NAME, "table")
    names, lwlrap = (column(table, heading) for heading in ("class", "lwlrap"))
    marked = [value.endswith("†") for value in column(table, "lwlrap")]
    assert len(names) == len(lwlrap) == 4
    assert marked == [False, True, False, True]  # by rising lwlrap, no clips first
    colors = [
        cell.value_of_css_property("color")
        for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(3)")
    ]
    assert colors[0] == colors[2] != colors[1] == colors[3]
    assert "fewer than 10 clips" in browser.find_element(By.TAG_NAME, "body").text


@pytest.mark.parametrize("width", [DESKTOP_WIDTH, PHONE_WIDTH])
def test_names_do_not_break_inside_words(browser, long_names_page, width):
    show(browser, long_names_page, width=width)
    table = browser.find_element(By.TAG_NAME, "table")
    cells = table.find_elements(By.CSS_SELECTOR, "tbody td:first-child")
    assert [cell.get_property("textContent") for cell in cells] == LONG_NAMES
    for cell, num_parts in ((cells[0], 5), (cells[2], 1), (cells[3], 1)):
        assert browser.execute_script(LINES_OF_PARTS, cell) == [1] * num_parts
    # A name without parts that is too long breaks, and the values remain visible.
    assert browser.execute_script(LINES_OF_PARTS, cells[1])[0] > 1
    assert cells[1].size["width"] < width / 2
    assert browser.execute_script("return document.body.scrollWidth") <= width


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
    assert len(curves.find_elements(By.TAG_NAME, "polyline")) == 2
    progress = browser.find_element(By.ID, "progress")
    assert "the best step, 20" in progress.text


@pytest.mark.parametrize(
    ("steps", "numbers"),
    [
        ([0], "0 1"),
        ([0, 2], "0 1 2"),
        ([0, 7], "0 2 4 6 8"),
        ([0, 120], "0 50 100 150"),
        ([0, 400, 1000], "0 500 1000"),
        ([0, 123456], "0 50000 100000 150000"),
    ],
)
def test_the_axis_of_steps_has_round_numbers(browser, page, steps, numbers):
    show(browser, page)
    assert browser.execute_script(SHOW_STEPS, steps) == numbers.split()
    progress = browser.find_element(By.ID, "progress")
    assert f"the best step, {steps[-1]}" in progress.text
    best = progress.find_element(By.TAG_NAME, "circle")
    chart = progress.find_element(By.TAG_NAME, "svg").rect
    center = best.rect["x"] + best.rect["width"] / 2 - chart["x"]
    share = steps[-1] / int(numbers.split()[-1])
    assert center == pytest.approx(45 + share * (chart["width"] - 75), abs=1)


def test_thresholds_of_a_curve_are_shown(browser, page):
    """At first that of the table, then that of the point below the pointer."""
    show(browser, page)
    table = browser.find_element(By.TAG_NAME, "table")
    row = column(table, "class").index(CLASS_NAMES[0])
    threshold = table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(5)")[row].text
    svg = browser.find_element(By.CSS_SELECTOR, "#curves svg")

    def shown() -> list[float]:
        """Precision, recall and threshold."""
        text = svg.find_element(By.CSS_SELECTOR, ".title").text
        return [float(number) for number in re.findall(r"\d\.\d+", text)]

    assert shown()[2] == pytest.approx(float(threshold), abs=0.001)
    assert browser.find_element(By.ID, "clips").text == "19 clips of the class"
    ring, point = svg.find_elements(By.TAG_NAME, "circle")
    position = ring.get_attribute("cx")
    assert point.get_attribute("cx") == position
    # To the left end of the plot, where the recall is low.
    left = 45 - svg.size["width"] / 2
    ActionChains(browser).move_to_element_with_offset(svg, int(left), 0).perform()
    assert shown()[1] < 0.2
    assert shown()[2] > float(threshold)
    assert ring.get_attribute("cx") == position
    assert float(point.get_attribute("cx")) < float(position)
    Select(browser.find_element(By.ID, "class")).select_by_index(1)
    assert browser.find_element(By.ID, "clips").text == "13 clips of the class"


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
