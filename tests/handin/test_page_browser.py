"""The page of results in a headless Chromium, over invented rows: filters, sorting, keyboard, widths."""

import shutil
import time
import unicodedata
from itertools import product
from operator import itemgetter
from urllib.parse import quote

import pytest
from test_page import ODD, QUESTIONS, kinds, write_results

BACK, TAB, ENTER, DOWN, RIGHT, PAGE_UP, BACK_TAB = *"\ue003\ue004\ue007\ue015\ue014\ue00e", "\ue008\ue004"  # keys
KINDS = ("", "right", "retrieved", "not retrieved", "made up")
ALL = [asked["name"] for asked in QUESTIONS[0]]


class Page:
    """The page, and what its user does and sees."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address

    def __call__(self, code: str):
        """The value of JavaScript."""
        return self.driver.execute_script(f"return {code}")

    def open(self, fragment: str = "", width: int = 1280) -> None:
        """The page anew, at a width."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)

    def press(self, *keys: str) -> str:
        """Press keys, one after the other; the name or text of what has the focus then."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)
        return self("document.activeElement.name || document.activeElement.textContent")

    def people(self) -> list[str]:
        """The names in the rows that are seen. The page says how many there are."""
        rows = "[...document.querySelectorAll('#answers tbody tr')].filter((row) => row.getClientRects().length)"
        found = self(f"{rows}.map((row) => row.cells[0].textContent)")
        assert self("document.querySelector('[role=status]').textContent") == f"{len(found)} of 60 questions"
        return found

    def shows(self, people: list[str]) -> bool:
        """Whether these are the names in the rows, soon: the browser tells the page of a new address a moment later."""
        return any(self.people() == people or time.sleep(0.05) for _ in range(20))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of invented rows; at the end nothing may have been fetched or refused."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -r requirements-dev.txt")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    results = write_results(tmp_path_factory.mktemp("results"))
    with webdriver.Chrome(options, webdriver.ChromeService(chromedriver)) as driver:
        yield Page(driver, (results / "index.html").as_uri())
        assert driver.get_log("browser") == []


def expected(i: int, kind: str, least: int, text: str) -> list[str]:
    """The people whom the filters let pass, for answers of the i-th model."""

    def plain(text: str) -> str:
        return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)).lower()

    found = []
    for asked in zip(*QUESTIONS, strict=True):
        texts = [asked[0]["name"], asked[0]["truth"], *(one["answer"] for one in asked)]
        if (
            kind in kinds(i, asked[i])
            and 100 * asked[i]["confidence"] >= least
            and any(text in plain(t) for t in texts)
        ):
            found.append(asked[0]["name"])
    return found


def test_an_address_leads_to_the_rows_that_fit(page):
    """By each model, kind, confidence and text; nonsense in the address shows all."""
    seen = set()
    for i, kind, (least, text) in product(range(3), KINDS, ((0, ""), (40, ""), (20, "ba"), (0, "zoe"))):
        page.open(f"#model={i}&kind={quote(kind)}&least={least}&text={text}")
        assert page.people() == expected(i, kind, least, text), (i, kind, least, text)
        seen.add(len(page.people()))
    assert len(seen) > 9
    for nonsense in ("model=7&kind=none&sort=none&x=1", "questions", "%"):
        page.open("#kind=right")
        page(f"location.hash = {nonsense!r}")  # the same document: what was chosen before must go
        assert page.shows(ALL), nonsense


def test_the_keyboard_reaches_and_moves_everything(page):
    """Typing, arrows, Tab and Enter alone; the address follows, and leads back to the same rows."""
    page.open()
    assert [page.press(TAB) for _ in range(4)][1:] == [
        page("document.querySelector('.scroll').textContent"),
        "model",
        "text",
    ]
    assert page("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("zurich")
    assert page.people() == [ODD[0]] and page("document.querySelectorAll('script').length") == 2
    assert page.press(*[BACK] * 6, TAB, PAGE_UP, PAGE_UP, TAB) == "kind"
    page.press(RIGHT)
    assert page.people() == expected(0, "right", 20, "")
    page.press(BACK_TAB, BACK_TAB, BACK_TAB, DOWN)
    assert page.people() == (found := expected(1, "right", 20, ""))
    assert page("location.hash") == "#model=1&least=20&kind=right"
    page.open(page("location.hash"))
    assert page.people() == found
    page("document.querySelector('[name=kind]:checked').focus()")
    assert page.press(TAB) == "Reset" and page.press(ENTER) == "Reset" and page.people() == ALL
    assert page("location.hash") == "#questions"


def test_headers_sort(page):
    """Upwards and downwards, confidence downwards first; filters stay, and the header says how it is sorted."""
    page.open("#kind=made up")
    people = [one for one in QUESTIONS[0] if not one["right"]]
    page("document.querySelector('[type=reset]').focus()")
    for tabs, head, by, reverse in (
        (1, "person", "name", False),
        (0, "person", "name", True),
        (3, "rope, pretrained: confidence", "confidence", True),
        (0, "rope, pretrained: confidence", "confidence", False),
    ):
        assert page.press(*[TAB] * tabs, ENTER) == head
        assert page.people() == [one["name"] for one in sorted(people, key=itemgetter(by), reverse=reverse)]
        sorts = page("[...document.querySelectorAll('#answers thead th')].map((head) => head.ariaSort)")
        assert sorts.count("none") == 7 and ("descending" if reverse else "ascending") in sorts


@pytest.mark.parametrize("width", [320, 390, 600, 601, 960, 961, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    """With all rows shown; on a telephone a row is a card, and a part of it says which model it is of."""
    page.open(width=width)
    assert page.people() == ALL
    assert page("document.documentElement.scrollWidth") <= page("innerWidth") == width
    label = page("getComputedStyle(document.querySelector('#answers td:nth-child(3)'), '::before').content")
    assert label == ('"rope, pretrained"' if width <= 960 else "none")
