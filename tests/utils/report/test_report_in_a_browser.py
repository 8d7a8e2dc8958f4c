"""A report as Chromium shows it: filters, search, keyboard, widths, and that nothing leaves the page.

Skipped where Playwright or Chromium is missing; SELAVPRPP_BROWSER=required makes that a failure.
"""

import os
import shutil

import numpy as np
import pytest
from made_runs import HOSTILE, N_DATABASE, write_pictures, write_run

from utils.report import write_report
from utils.report.runs import KINDS

NAMES = "chromium", "chromium-browser", "google-chrome"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-dev-shm-usage", "--no-first-run"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sync_playwright = None
    if executable is None or sync_playwright is None:
        said = f"needs Playwright for Python and one of {', '.join(NAMES)}"
        if os.environ.get("SELAVPRPP_BROWSER") == "required":
            pytest.fail(said)
        pytest.skip(said)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of a run with hostile names and two missing files, and the run's arrays."""
    folder = tmp_path_factory.mktemp("browser")
    arrays = write_run(folder / "run", images=folder / "images", hostile=True, n_queries=45,
                       warnings=(f"left out: {HOSTILE[0]}",))
    names = [*arrays["query_names"].tolist(), *arrays["database_names"].tolist()]
    assert len(names) == 45 + N_DATABASE
    write_pictures(folder / "images", [name for name in names if name not in ("queries/q0009.jpg",
                                                                             "database/d0002.jpg")])
    return write_report([folder / "run"]), arrays


@pytest.fixture
def opened(browser, made):
    """Function (width, scheme) -> the page, of which everything that it complains of or asks for is watched."""
    watched, contexts = [], []

    def open_page(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: watched.append(message.text))
        page.on("pageerror", lambda error: watched.append(str(error)))
        page.on("dialog", lambda dialog: (watched.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith("data:") or request.url == made[0].as_uri()
                or watched.append(request.url))
        page.goto(made[0].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watched == []


def kinds(arrays) -> dict[str, np.ndarray]:
    first, final = (arrays[f"{stage}_correct"][:, 0] for stage in ("first_stage", "final"))
    return {"wrong": ~final, "rescued": ~first & final, "hurt": first & ~final,
            "unanswerable": arrays["query_positives"] == 0}


def listed(page) -> list[str]:
    while page.locator(".more").is_visible():
        page.locator(".more").click()
    return page.locator(".queries h3").all_inner_texts()


def test_filters_list_what_the_predictions_say(opened, made):
    page, (_, arrays) = opened(), made
    assert page.locator(".queries li").count() == 20  # some at a time
    assert listed(page) == arrays["query_names"].tolist()
    for i, kind in enumerate(KINDS):
        button = page.locator(f'.filters button[data-bit="{2**i}"]')
        button.click()
        expected = arrays["query_names"][kinds(arrays)[kind]].tolist()
        assert len(expected) > 0 and listed(page) == expected
        assert button.get_attribute("aria-pressed") == "true"
        assert page.locator('.filters button[aria-pressed="true"]').count() == 1
        assert page.locator(".status").inner_text().startswith(f"{len(expected)} of 45 queries")


def test_a_query_is_found_by_its_name_with_what_was_retrieved(opened, made):
    page, (_, arrays) = opened(), made
    page.get_by_label("Find a query by name").fill("Q0011")
    assert listed(page) == ["queries/q0011.jpg"]
    frames = page.locator(".queries .picture")
    assert frames.count() == 6
    for rank in range(5):
        kind = "right" if arrays["final_correct"][11, rank] else "wrong"
        assert frames.nth(1 + rank).get_attribute("class") == f"picture {kind}"
    away = np.hypot(*(arrays["database_utm"][arrays["final_ids"][11, 0]] - arrays["query_utm"][11]))
    assert f"{away:,.1f}".removesuffix(".0") + " m" in page.locator(".row figcaption").nth(1).inner_text()
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.get_by_label("Find a query by name").fill("nowhere")
    assert listed(page) == [] and page.locator(".status").inner_text() == "0 of 45 queries"


def test_a_missing_picture_is_blank(opened):
    page = opened()
    page.get_by_label("Find a query by name").fill("q0009")
    assert page.locator(".picture").first.inner_text() == "picture missing"
    assert page.locator(".picture").first.locator("img").count() == 0


def test_hostile_names_stay_text(opened, made):
    page = opened()
    assert listed(page)[:3] == [f"queries/{name}" for name in HOSTILE]
    assert page.locator(".warnings").inner_text().count(HOSTILE[0]) == 1
    assert page.locator("img:not([src^='data:'])").count() == 0 and page.locator("script").count() == 2


def test_the_keyboard_reaches_everything(opened):
    page, reached = opened(), []
    buttons = page.locator("button:visible").count()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("""() => {
            const here = document.activeElement, style = getComputedStyle(here);
            return [here.tagName, here.textContent.slice(0, 12), style.outlineStyle]}"""))
    tags = [tag for tag, _, _ in reached]
    first_round = tags[:tags.index("BODY")] if "BODY" in tags else tags
    assert first_round.count("BUTTON") == buttons == 6 and first_round.count("INPUT") == 1
    assert first_round.count("A") == page.locator("nav a").count() == 8
    assert {outline for tag, _, outline in reached if tag != "BODY"} == {"solid"}
    page.locator('.filters button[data-bit="2"]').focus()
    page.keyboard.press("Enter")
    assert page.locator('.filters button[aria-pressed="true"]').get_attribute("data-bit") == "2"
    assert page.locator("main, header, nav").count() == 3
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator(".chart:not([aria-label])").count() == 0


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_scrolls_sideways(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg").count() == 6
    for box in (chart.bounding_box() for chart in page.locator("svg").all()):
        assert box["width"] > 150 and box["x"] + box["width"] <= width
    assert page.locator(".picture").first.bounding_box()["width"] > 80  # still to be seen


def test_dark_where_the_system_is(opened):
    colours = [opened(scheme=scheme).evaluate("""() => [getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector("svg text")).fill]""") for scheme in ("light", "dark")]
    (light, ink), (dark, chalk) = ([sum(map(int, colour[4:-1].split(","))) for colour in pair] for pair in colours)
    assert light > 700 > 200 > dark and ink < 200 < 600 < chalk
