"""The page of results in a headless Chromium: filters, sorting, keyboard, widths."""

import shutil
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from report import page
from test_report import NAME, ODD, put, put_answers
from utils import fingerprint

ALL = [f"{ODD} {i}" for i in range(10)]  # the surer the earlier; 0, 1, 2 and 4 are right, 0 stands in no document


class Page:
    """The page, and what its user does and sees."""

    def __init__(self, driver: webdriver.Chrome, address: str):
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

    def people(self) -> list[int]:
        """The numbers of the people in the rows that are seen; the page says how many there are."""
        rows = "[...document.querySelectorAll('#answers tbody')].filter((row) => row.getClientRects().length)"
        found = [ALL.index(name) for name in self(f"{rows}.map((row) => row.rows[0].cells[0].textContent)")]
        assert self("document.querySelector('[role=status]').textContent") == f"{len(found)} of 10 questions"
        return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page; at the end nothing may have been fetched or refused."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    folder = tmp_path_factory.mktemp("results")
    put(folder)
    corpus = "\n".join(f"{name}. Was seen in {'Bonn ' * 40}." for name in ALL[1:])  # nothing is known of the first
    (folder / "wiki.txt").write_text(corpus)
    put_answers(folder, corpus=fingerprint(corpus))
    page.main([f"--results={folder}", f"--data={folder}", f"--data_name={NAME}"])
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield Page(driver, (folder / "index.html").as_uri())
        assert driver.get_log("browser") == []


@pytest.mark.parametrize(
    ("fragment", "people"),
    [
        ("", range(10)),
        ("#kind=right", (0, 1, 2, 4)),
        ("#kind=retrieved&model=2", ()),
        (f"#kind={quote('not retrieved')}", (0,)),
        (f"#kind={quote('made up')}&least=60", (3, 5, 6)),
        ("#kind=misread", (9,)),
        ("#text=%C8%99TEFAN%5D", range(10)),
        ("#text=bonn&sort=confidence0", (9, 8, 7, 6, 5, 3)),
        ("#sort=name&down=1&kind=right", (4, 2, 1, 0)),
        ("#model=9&kind=x&least=y&sort=z", range(10)),
    ],
)
def test_an_address_leads_to_the_rows_that_fit(shown, fragment, people):
    """By model, kind, confidence and text, without regard to case and accents; nonsense shows all."""
    shown.open(fragment)
    assert shown.people() == list(people)


def test_the_keyboard_reaches_everything(shown):
    """Filters, the address that they make, reset, and sorting by a header, which says how it is sorted."""
    shown.open()
    shown("document.querySelector('[name=text]').focus()")
    shown.press("8")
    assert shown.people() == [8] and shown("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown.press(Keys.BACKSPACE, Keys.TAB, Keys.TAB, Keys.ARROW_RIGHT)
    assert shown.people() == [0, 1, 2, 4] and shown("location.hash") == "#kind=right"
    assert shown.press(Keys.TAB) == "Reset" and shown.press(Keys.ENTER, Keys.TAB) == "person"
    assert shown.people() == list(range(10)) and shown("location.hash") == "#questions"
    shown.press(Keys.ENTER, Keys.ENTER)
    assert shown.people() == list(range(9, -1, -1))
    assert shown("document.querySelector('#answers thead th').ariaSort") == "descending"


def test_a_row_opens_and_closes(shown):
    """Where more is known of the person; the row says whether it is open, and stays with its person when sorted."""
    shown.open("#text=stefan")
    opened = "[...document.querySelectorAll('#answers tbody')].map((row) => row.rows[1]?.textContent ?? '')"
    buttons = "document.querySelectorAll('#answers tbody button')"
    assert shown(f"{buttons}.length") == 9 and shown(opened) == [""] * 10
    shown(f"{buttons}[8].focus()")
    shown.press(Keys.ENTER)
    assert shown("document.activeElement.ariaExpanded") == "true"
    assert shown(opened)[9].startswith(f"document{ODD} 9. Was seen in Bonn") and shown(opened)[:9] == [""] * 9
    shown("document.querySelector('#answers thead button').click()")
    shown("document.querySelector('#answers thead button').click()")
    assert shown.people() == list(range(9, -1, -1)) and shown(opened)[0].startswith("document")
    shown(f"{buttons}[0].focus()")
    shown.press(Keys.ENTER)
    assert shown("document.activeElement.ariaExpanded") == "false" and shown(opened) == [""] * 10


@pytest.mark.parametrize("width", [320, 390, 960, 961, 1280])
def test_nothing_is_wider_than_the_window(shown, width):
    """With all rows shown and open; on a telephone a row is a card, and nothing has to be scrolled to the side."""
    shown.open(width=width)
    assert shown.people() == list(range(10))
    shown("document.querySelectorAll('#answers tbody button').forEach((button) => button.click())")
    assert shown("document.documentElement.scrollWidth") <= shown("innerWidth") == width
    cut = "(e) => e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth"
    assert not shown(f"[...document.querySelectorAll('.scroll, td, th:not(.read), figure, dd')].filter({cut}).length")
