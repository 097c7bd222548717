"""The episode viewer in a real browser, on a desk and a phone: what a reader does with it."""

import re

import pytest

from rlef_jax.report import viewer

CLEAR = "rgba(0, 0, 0, 0)"

# Counts the blocks that a page has unpacked.
_COUNTING = """
  unpacked = 0;
  const Plain = DecompressionStream;
  DecompressionStream = class extends Plain { constructor(...all) { super(...all); unpacked++; } };
"""


@pytest.fixture(scope="module")
def address(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("viewer") / "episodes.html"
    viewer.write(str(recorded), str(out))
    return f"file://{out}"


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desk", "phone"])
def page(chromium, address, request):
    """The opened page.

    After a test it has logged no error, asked for nothing but its file, and fits the screen.
    """
    width, height = request.param
    screen = {"viewport": {"width": width, "height": height}, "has_touch": width < 500}
    context = chromium.new_context(**screen)
    context.add_init_script(_COUNTING)
    page, errors, requests = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector(".tokens i")
    yield page
    assert not errors and {url.partition("#")[0] for url in requests} == {address}
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    context.close()


def title(page):
    return page.inner_text("article h2")


def opened(page, name):
    """Waits until the episode of the problem `name` is open."""
    is_open = "name => document.querySelector('article h2')?.textContent === name"
    page.wait_for_function(is_open, arg=name)


def listed(page):
    """(problems in the list, the words that count them)."""
    texts = "nodes => nodes.map(node => node.textContent)"
    problems = page.eval_on_selector_all("nav a > :nth-child(2)", texts)
    return problems, page.inner_text("[data-part=count]")


def test_only_what_is_opened_is_unpacked(page):
    assert title(page) == "add/0" and page.evaluate("unpacked") == 1
    assert len(listed(page)[0]) == 52
    page.click("nav a >> nth=7")
    opened(page, "add/7")
    assert page.evaluate("unpacked") == 1  # of the same block
    page.click("nav a >> nth=50")
    opened(page, "add/46")
    page.go_back()
    opened(page, "add/7")
    assert page.evaluate("unpacked") == 2


def test_filters_search_and_order(page):
    page.select_option("[data-part=kind]", "repaired at turn 3")
    opened(page, "add/45")
    assert listed(page) == (["add/45"], "1 of 52 episodes")
    assert page.is_disabled("[data-part=previous]") and page.is_disabled("[data-part=next]")
    page.select_option("[data-part=kind]", "")
    page.select_option("[data-part=name]", "rlef_000000")
    page.fill("[data-part=search]", "ADD 3")
    assert listed(page) == (["add/3", "add/13"], "2 of 52 episodes")
    page.fill("[data-part=search]", "nothing of the kind")
    assert listed(page) == ([], "0 of 52 episodes")
    page.fill("[data-part=search]", "")
    page.select_option("[data-part=name]", "")
    page.select_option("[data-part=order]", "kl")
    sides = page.locator("nav .side").all_text_contents()
    kl = [float(text.removeprefix("KL ")) for text in sides if text.startswith("KL")]
    assert len(kl) == 32 and kl == sorted(kl, reverse=True)
    assert all("turn" in text for text in sides[32:])  # episodes without a KL come last


def test_from_one_episode_to_the_next(page):
    page.click("[data-part=next]")
    opened(page, "add/1")
    page.keyboard.press("ArrowRight")
    opened(page, "add/2")
    page.keyboard.press("ArrowLeft")
    opened(page, "add/1")
    assert page.inner_text("[data-part=place]") == "2 of 52"
    assert page.get_attribute("nav li >> nth=1 >> a", "aria-current") == "true"
    page.focus("[data-part=search]")
    page.keyboard.press("ArrowRight")  # moves in the text, not in the list
    assert page.inner_text("[data-part=place]") == "2 of 52"
    assert page.url.endswith("#episode=before_T0.2/1")


def test_a_link_leads_to_its_episode(page, address):
    page.goto(f"{address}#episode=rlef_000002/45")
    opened(page, "add/45")
    assert "timeout" in page.inner_text("article")
    assert page.get_attribute("article header a", "href") == "#episode=rlef_000002/45"
    page.reload()
    opened(page, "add/45")
    top = page.evaluate("document.querySelector('article').getBoundingClientRect().top")
    assert -1 <= top < page.viewport_size["height"] / 3  # in sight
    page.evaluate("location.hash = '#episode=rlef_000000/999'")
    page.wait_for_selector("text=There is no episode rlef_000000/999 on this page")
    page.evaluate("location.hash = '#episode=rlef_000000/7'")
    opened(page, "add/7")


def test_tokens_take_the_colour_that_is_asked_for(page, address):
    page.goto(f"{address}#episode=rlef_000002/45")
    opened(page, "add/45")
    colour = "nodes => nodes.map(node => getComputedStyle(node).backgroundColor)"
    is_given = "nodes => nodes.map(node => node.classList.contains('given'))"
    given = page.eval_on_selector_all(".tokens i", is_given)
    seen = []
    for measure in ("log-prob", "KL to reference", "ratio", "advantage", "mask"):
        page.click(f".measures label:has-text('{measure}')")
        found = page.eval_on_selector_all(".tokens i", colour)
        assert {colour for colour, is_given in zip(found, given) if is_given} == {CLEAR}
        assert found not in seen
        assert page.locator(".scale span").count() == (2 if measure == "mask" else 5)
        seen.append(found)
    assert len({colour for colour, is_given in zip(seen[-1], given) if not is_given}) == 1
    first = page.locator(".tokens i:not(.given)").first
    first.click()
    tip = page.inner_text(".tip")
    numbers = r"log-prob −4.00\nKL [−.\d]+\nratio [.\d]+\nadvantage [−.\d]+$"
    assert re.search(r"token \d+ at \d+\n" + numbers, tip), tip
    page.locator(".tokens i.given").first.click()
    assert page.inner_text(".tip").endswith("given, not sampled")
    page.focus(".tokens")
    page.keyboard.press("ArrowRight")
    assert " at 1\n" in page.inner_text(".tip")
    assert title(page) == "add/45"  # the arrow moved among tokens, not episodes


def test_an_evaluation_has_only_log_probs(page):
    enabled = page.locator("[name=viewer-measure]:enabled")
    assert enabled.evaluate_all("nodes => nodes.map(node => node.value)") == ["logprob", "mask"]


def test_hostile_text_is_shown_and_does_nothing(page, address):
    page.goto(f"{address}#episode=rlef_000002/47")
    page.wait_for_selector("article >> text=<img src=x onerror")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("#viewer img").count() == 0
    page.fill("[data-part=search]", "</script>")
    problems, count = listed(page)
    assert count == "1 of 52 episodes" and "<img src=x" in problems[0]


def test_dark_colours_leave_text_readable(page):
    page.emulate_media(color_scheme="dark")
    page.click(".measures label:has-text('log-prob')")
    weakest = page.evaluate(_CONTRAST)
    page.emulate_media(color_scheme="light")
    assert min(weakest, page.evaluate(_CONTRAST)) >= 4.5  # WCAG AA


# The weakest contrast between a sampled token and its colour, painted over that of the panel.
_CONTRAST = """() => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    pixel.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1); }
    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.map((x) => linear(x / 255))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const panel = getComputedStyle(document.querySelector(".tokens")).backgroundColor;
  return Math.min(...[...document.querySelectorAll(".tokens i:not(.given)")].map((node) => {
    const style = getComputedStyle(node), a = light(paint(style.color));
    const b = light(paint(panel, style.backgroundColor));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""
