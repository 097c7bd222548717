"""The page in a real browser, on a desk and a phone: every chart is drawn in the page's colours."""

import shutil

import pytest

from rlef_jax import report
from tests.report.test_page import write_run

# The colour behind a variable of the page, as the browser has worked it out.
COLOR = """name => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}"""


@pytest.fixture(scope="module")
def address(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    workdir = write_run(folder / "run")
    shutil.copytree(recorded / "episodes", folder / "run" / "episodes")
    report.write([workdir], str(folder / "report.html"))
    return f"file://{folder}/report.html"


@pytest.fixture
def page(chromium, address, request):
    """The opened page.

    After a test it has logged no error, asked for nothing but its file, and fits the screen.
    """
    width = getattr(request, "param", 1280)
    screen = {"viewport": {"width": width, "height": 900}, "has_touch": width < 500}
    context = chromium.new_context(**screen, color_scheme="light")
    page, errors, requests = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    assert not errors and {url.partition("#")[0] for url in requests} == {address}
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    context.close()


def drawn(page, chart):
    """Scrolls to a chart, and waits until it is drawn."""
    place = page.locator(f"[id='{chart}'] .chart")
    place.scroll_into_view_if_needed()
    place.locator(".main-svg").first.wait_for()
    return place


def stroke(page, chart):
    line = page.locator(f"[id='{chart}'] .js-line").first
    return line.evaluate("line => getComputedStyle(line).stroke")


@pytest.mark.parametrize("page", [1280, 390], ids=["desk", "phone"], indirect=True)
def test_every_chart_is_drawn_when_it_is_come_to(page):
    charts = page.eval_on_selector_all("figure", "figures => figures.map(figure => figure.id)")
    assert len(charts) > 20
    assert page.locator(".chart .main-svg").count() < 3 * len(charts)  # not those far below
    for chart in charts:
        place = drawn(page, chart)
        assert place.locator(".trace path").count() > 0, chart
        box = place.locator(".main-svg").first.bounding_box()
        assert box["width"] <= page.viewport_size["width"] and box["height"] >= 200
    # plotly draws each in three layers
    assert page.locator(".chart .main-svg").count() == 3 * len(charts)


def test_the_toggle_repaints_page_and_charts_and_is_remembered(page):
    drawn(page, "kl")
    light = page.evaluate(COLOR, "--c1")
    assert stroke(page, "kl") == light
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.click("#theme")
    dark = page.evaluate(COLOR, "--c1")
    assert page.evaluate(background) != before and dark != light
    repainted = "dark => getComputedStyle(document.querySelector('#kl .js-line')).stroke === dark"
    page.wait_for_function(repainted, arg=dark)
    assert page.inner_text("#theme") == "Light"
    page.reload()
    drawn(page, "kl")
    assert stroke(page, "kl") == dark
    page.click("#theme")
    assert page.evaluate(background) == before


def test_the_colours_follow_the_system_until_they_are_chosen(page):
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    changed = "before => getComputedStyle(document.body).backgroundColor !== before"
    page.wait_for_function(changed, arg=before)
    page.locator("#theme", has_text="Light").wait_for()  # it hears of the change a little later
    drawn(page, "kl")
    assert stroke(page, "kl") == page.evaluate(COLOR, "--c1")


def test_the_viewer_is_at_the_foot_of_the_page_and_settings_unfold(page):
    page.click("nav.sections a[href='#episodes']")
    page.wait_for_selector("#episodes .tokens i")
    page.click("#settings summary")
    assert page.locator("#settings td", has_text="0.2").first.is_visible()
