"""The report in a real browser: no script error, no sideways scrolling, enough contrast, both themes, no network."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_experiments import write_multi_horizon, write_sweep

from xp.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian's package chromium has it")

# Put before the page's own script: notes errors. Put after: measures, and writes what it found into the document.
SHOW = """<script>
const show = (found) => {
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = JSON.stringify(found);
  document.body.append(note);
};
</script>"""
WATCH = (
    SHOW
    + """<script>
window.faults = [];
window.fetched = [];
addEventListener("error", (event) => event.message && window.faults.push(event.message));
addEventListener("securitypolicyviolation", (event) => window.fetched.push(event.blockedURI));
</script>"""
)
# A headless window is never narrower than 500 px, so a phone is a frame that tells its parent what it found.
PHONE = (
    SHOW
    + """<body><script>addEventListener("message", (event) => show(event.data))</script>
<iframe src="probed.html" style="width:{width}px;height:2000px;border:0"></iframe></body>"""
)
PROBE = """<script>
(() => {
  const parse = (text) => {
    const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const unit = text.startsWith("color(") ? 255 : 1;
    return [numbers[0] * unit, numbers[1] * unit, numbers[2] * unit, numbers.length > 3 ? numbers[3] : 1];
  };
  const light = ([r, g, b]) => {
    const part = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const texts = [...document.querySelectorAll("body *")].filter((e) =>
    !e.closest("script, style, .skip") && e.checkVisibility() &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  const contrasts = texts.map((e) => {
    const style = getComputedStyle(e);
    return [ratio(parse(e.closest("svg") ? style.fill : style.color), behind(e)), e.textContent.slice(0, 40)];
  }).sort((a, b) => a[0] - b[0]);
  const lines = [...document.querySelectorAll(".chart .line")].map((e) =>
    [ratio(parse(getComputedStyle(e).stroke), behind(e)), e.getAttribute("class")]).sort((a, b) => a[0] - b[0]);
  const page = document.documentElement;
  const outside = [...document.querySelectorAll("body *")].filter((e) =>
    !e.closest(".scroll, .skip, pre, script") && e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.tagName + "." + e.className);
  const chart = document.querySelector("svg.chart");
  const box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 50 }));
  const tip = document.getElementById("tip");
  const background = () => getComputedStyle(document.body).backgroundColor;
  const themes = [background()];
  for (let i = 0; i < 3; i++) { document.getElementById("theme").click(); themes.push(background()); }
  const labels = [...document.querySelectorAll(".chart")].map((e) => {
    const boxes = [...e.querySelectorAll("text")].map((t) => t.getBoundingClientRect());
    return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right - 1 && b.left < a.right - 1 &&
      a.top < b.bottom - 1 && b.top < a.bottom - 1));
  });
  const cut = [...document.querySelectorAll(".chart text")].filter((e) => {
    const [text, whole] = [e.getBoundingClientRect(), e.closest("svg").getBoundingClientRect()];
    return text.left < whole.left - 1 || text.right > whole.right + 1 || text.bottom > whole.bottom + 1;
  });
  const smallest = Math.min(...texts.map((e) => {
    const svg = e.closest("svg");
    const zoom = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return parseFloat(getComputedStyle(e).fontSize) * zoom;
  }));
  const found = {
    width: innerWidth, scrollWidth: page.scrollWidth, outside, contrast: contrasts[0], line: lines[0], themes, smallest,
    tip: tip.hidden ? "" : tip.innerText, faults: window.faults, labelsOverlap: labels.filter(Boolean).length,
    fetched: window.fetched, cut: cut.map((e) => e.textContent),
    unnamed: [...document.querySelectorAll("svg.chart, button, .scroll")].filter((e) =>
      !e.getAttribute("aria-label") && !e.textContent.trim()).length,
  };
  const tell = () => (parent === window ? show(found) : parent.postMessage(found, "*"));
  setTimeout(tell, 200);  // what was refused is told after the page has loaded
})();
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, cells):
    root = tmp_path_factory.mktemp("browser")
    return {
        "matrix": write_report(write_multi_horizon(root / "multi_horizon", cells)),
        "sweep": write_report(write_sweep(root / "lr_sweep")),
    }


def look(page, folder, *flags, width=1200):
    """What the probe finds in the page, opened in a fresh headless browser at a width in pixels."""
    text = page.read_text().replace("<style>", WATCH + "<style>", 1).replace("</body>", PROBE + "</body>")
    opened = folder / "probed.html"
    opened.write_text(text)
    if width < 500:
        opened = folder / "phone.html"
        opened.write_text(PHONE.replace("{width}", str(width)))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},1400", "--virtual-time-budget=3000",
        *flags, "--dump-dom", f"file://{opened}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("name", ["matrix", "sweep"])
def test_on_a_desktop_nothing_fails_overlaps_or_is_fetched(pages, tmp_path, name):
    found = look(pages[name], tmp_path)
    assert found["faults"] == [] and found["fetched"] == []
    assert found["width"] == 1200 and found["scrollWidth"] <= 1200 and found["outside"] == []
    assert found["cut"] == [] and found["labelsOverlap"] == found["unnamed"] == 0


@pytest.mark.parametrize("name", ["matrix", "sweep"])
@pytest.mark.parametrize("width", [360, 320])
def test_on_a_phone_only_tables_scroll_and_text_stays_readable(pages, tmp_path, name, width):
    found = look(pages[name], tmp_path, width=width)
    assert found["width"] == width
    assert found["scrollWidth"] <= width and found["outside"] == []
    assert found["smallest"] >= 10
    assert found["cut"] == found["faults"] == [] and found["labelsOverlap"] == 0


@pytest.mark.parametrize(("scheme", "background"), [(1, "rgb(255, 255, 255)"), (0, "rgb(20, 23, 26)")])
def test_light_and_dark_follow_the_system_with_enough_contrast(pages, tmp_path, scheme, background):
    found = look(pages["matrix"], tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert found["themes"][0] == found["themes"][3] == background
    assert found["contrast"][0] >= 4.5, found["contrast"]  # WCAG 2.1, 1.4.3: text
    assert found["line"][0] >= 3.0, found["line"]  # WCAG 2.1, 1.4.11: graphics


def test_the_theme_button_and_the_pointer_work(pages, tmp_path):
    found = look(pages["matrix"], tmp_path)
    system, light, dark, again = found["themes"]
    assert light == "rgb(255, 255, 255)" and dark == "rgb(20, 23, 26)" and system == again
    assert "trained on h8 at" in found["tip"] and "hold-last at" in found["tip"]


FAULTS = {
    "contrast": ("--soft: #545d68", "--soft: #a0a8b0", lambda found: found["contrast"][0] < 4.5),
    "overflow": (".scroll { overflow-x: auto; max-width: 100%; }", "", lambda found: found["scrollWidth"] > 360),
    "script": ("const asked", "undefinedName(); const asked", lambda found: found["faults"] != []),
    "fetch": ("<main>", '<main><img src="https://example.invalid/a.png" alt="">', lambda found: found["fetched"] != []),
    "cut": ('class="tick" x="', 'class="tick" dx="60" x="', lambda found: found["cut"] != []),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_probe_notices_what_the_tests_above_rule_out(pages, tmp_path, name):
    good, bad, noticed = FAULTS[name]
    text = pages["matrix"].read_text()
    assert good in text
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(text.replace(good, bad))
    assert noticed(look(spoiled, tmp_path, width=360))
