"""The console, in a real browser against a real gateway and fleet: what is served, live, and a form to try each model."""

import json
import time

import msgspec
import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from mutirao import Client, keyspace
from mutirao.registry import ModelInfo, WorkerInfo
from mutirao.wire.signature import InputSpec, OutputSpec, Signature
from support import browser as browsers
from support import sample_models, waiting
from support.console_page import ROW, choose, fill, result, steps
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer

pytestmark = pytest.mark.skipif(browsers.SKIPPED, reason=browsers.MISSING)

IRIS = [5.1, 3.5, 1.4, 0.2]
ROWS = "return document.getElementById('try-rows').value"

# The contrast of each piece of text with what lies behind it, by WCAG 2.2's formula; the least first.
CONTRAST = """
const light = (channel) => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4);
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = ([r, g, b]) => 0.2126 * light(r / 255) + 0.7152 * light(g / 255) + 0.0722 * light(b / 255);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgb(getComputedStyle(at).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
};
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  const said = texts.currentNode.data.trim();
  if (!said || !element.checkVisibility() || element.closest(".unseen, noscript, script")) continue;
  const style = getComputedStyle(element);
  const [a, b] = [luminance(rgb(style.color)), luminance(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const large = parseFloat(style.fontSize) >= 24;
  found.push([ratio / (large ? 3 : 4.5), said]);
}
return found.sort((a, b) => a[0] - b[0]).slice(0, 5);
"""


def test_models_and_workers_are_shown(page, fleet):
    """Each model has a row with its version and readiness, each worker one with its processes and models; and the page is live."""
    assert "ready" in page.find(ROW).text
    assert "version 1" in page.find(ROW).text
    worker = page.find(f"#workers-rows tr[data-worker='{fleet.worker.name}']").text
    assert "MB" in worker
    assert "houses" in worker
    names = [row.get_attribute("data-model") for row in page.all("#models-rows tr")]
    assert names == sorted(fleet.repository.names())
    assert page.find("#hands").text == "1"
    page.find("#link", text="live")


def test_figures_follow_what_happens(page, fleet):
    """What waits, and what is answered a second, shows by itself after a submit, and nothing waits once it is answered."""
    slow = "#models-rows tr[data-model=slow]"

    def drawn(kind):
        """A line that has been other than 0 at some time since the page was opened."""
        return page.run(f"return document.querySelector('{slow} path.{kind}').getAttribute('d')")

    with Client(fleet.url) as client:
        assert not drawn("depth")
        with fleet.worker.still():
            jobs = client.submit_many("slow", [[0.0, 0.0, 0.0]] * 6, expires_s=60)
            waiting.until(lambda: drawn("depth"))
        for _ in client.as_completed(jobs, 60):
            pass
    waiting.until(lambda: drawn("rate"))
    page.find(f"{slow} td[data-name=Waiting] span.zero", text="0")


def test_a_model_is_tried_with_the_keyboard_alone(page):
    """Tab leads from the top to the form, every stop shows that it has the focus, typing and Enter submit, and the result comes."""
    page.run("document.body.focus()")
    for _ in range(60):
        page.press(Keys.TAB)
        shown = page.run(
            "const style = getComputedStyle(document.activeElement);"
            "return [document.activeElement.id, parseFloat(style.outlineWidth), style.outlineStyle]"
        )
        assert shown[1] >= 2, shown
        assert shown[2] != "none", shown
        if shown[0] == "try-model":
            break
    else:
        pytest.fail("Tab never reached the form")
    page.press("iris")
    waiting.until(lambda: page.run("return document.getElementById('try-model').value") == "iris")
    waiting.until(lambda: len(page.all("#try-fields input")) == 4)
    page.press(Keys.TAB, Keys.TAB)
    for value in IRIS:
        # What Tab comes to is selected, so this types over it.
        page.press(str(value), Keys.TAB if value != IRIS[-1] else Keys.ENTER)
    expected = sample_models.get("iris").model.predict_proba([IRIS])[0]
    shown = result(page)
    assert shown["predict"] == ("0",)
    assert [float(shown[f"predict_proba[{at}]"][0]) for at in range(3)] == pytest.approx(expected, rel=1e-4)
    waiting.until(lambda: steps(page)[-1:] == ["committed"])
    assert steps(page) == ["submitted", "reserved", "batched", "run", "committed"]
    assert "ran" in page.find("#job-times").text


def test_tab_leaves_the_page_again(page):
    """No control keeps the focus: from the last one Tab goes on, out of the page."""
    page.run("document.querySelector('#try-curl summary').focus()")
    for _ in range(20):
        page.press(Keys.TAB)
        if page.run("return document.activeElement === document.body"):
            return
    pytest.fail("the focus never left the page")


def test_a_model_of_columns_has_a_field_for_each(page):
    """A model that was fitted on a table is asked by its columns' names, text as text, and answers in its own words."""
    choose(page, "houses")
    labels = [label.text for label in page.all("#try-fields label")]
    assert labels == ["area", "city", "rooms"]
    row = sample_models.get("houses").data.iloc[0]
    fill(page, [row["area"], row["city"], row["rooms"]])
    page.find("#try-submit").click()
    assert result(page)["predict"] == (str(sample_models.get("houses").expected()[0]),)


def test_many_rows_go_as_json(page):
    """JSON rows are sent as they are written, each row of the result stands on a line of its own, and text that is no JSON is marked."""
    choose(page, "iris")
    page.find("#try-as input[value=json]").click()
    rows = sample_models.get("iris").data[:3]
    area = page.find("#try-rows")
    area.clear()
    area.send_keys("[[1, 2")
    page.find("#try-submit").click()
    page.find("#try-error", text="not JSON")
    assert area.get_attribute("aria-invalid") == "true"
    area.clear()
    area.send_keys(json.dumps(rows.tolist()))
    page.find("#try-submit").click()
    assert np.array(result(page)["predict"], int).tolist() == sample_models.get("iris").expected()[:3].tolist()


def test_the_form_fits_any_signature(page):
    """Many features are given as rows, few in fields again; a bool is ticked, and a whole number of 64 bits stays what it is."""

    def build(*inputs):
        page.driver.execute_async_script(
            "const [model, done] = arguments; import('/console/form.js').then((form) => { form.build(model); done() })",
            {"inputs": [dict(zip(("name", "datatype", "shape"), spec, strict=True)) for spec in inputs], "outputs": []},
        )

    choose(page, "iris")
    build(("X", "FP64", [-1, 64]))
    assert np.shape(json.loads(page.run(ROWS))) == (1, 64)
    assert not page.all("#try-fields input")
    build(("count", "INT64", [-1]), ("sure", "BOOL", [-1]), ("pair", "FP32", [-1, 2]))
    count = page.find("#try-field-0")
    count.clear()
    count.send_keys("9007199254740993")
    page.find("#try-field-1").click()
    body = page.driver.execute_async_script(
        "const [done] = arguments; import('/console/form.js').then((form) => done(form.body()))"
    )
    assert [tensor["data"] for tensor in json.loads(body)["inputs"]] == [[9007199254740993], [False], [1.4, 0.2]]


def test_errors_are_told_as_the_gateway_says_them(page, gateway):
    """A request that is refused, and a job that fails, show the gateway's own sentence; a field that is no number is named."""
    choose(page, "iris")
    fill(page, [1, 2, 3, "viel"])
    page.find("#try-submit").click()
    assert page.find("#try-error").text == "X[3] must be a number"
    assert page.run("return document.activeElement.getAttribute('aria-invalid')") == "true"

    page.find("#try-as input[value=json]").click()
    page.find("#try-rows").clear()
    page.find("#try-rows").send_keys("[[1, 2]]")
    page.find("#try-submit").click()
    with gateway.client() as client:
        said = client.post("/v1/models/iris/jobs", json=[[1, 2]]).json()["error"]
    page.find("#try-error", text=said)

    choose(page, "raises")
    page.find("#try-as input[value=fields]").click()
    fill(page, [-1, 2, 3])
    page.find("#try-submit").click()
    page.find("#job-state", text="failed")
    page.find("#job-error", text="ValueError")


def test_without_a_worker_a_job_waits_and_can_be_cancelled(browser):
    """A model that no worker serves any more is not ready; a job for it waits, is counted, and is cancelled in its record too."""
    takes = Signature(
        inputs=(InputSpec("X", "FP64", (-1, 2)),), outputs=(OutputSpec("predict", "FP64", (-1,), default=True),)
    )
    with RedisServer() as server, GatewayProcess(server.url) as gateway, Client(server.url, check=False) as client:
        server.client().hset(
            keyspace.MODELS, "left", msgspec.json.encode(ModelInfo(name="left", version="1", signature=takes))
        )
        row = "#models-rows tr[data-model=left]"
        browser.open(gateway.url, wait=row)
        browser.find(row, text="no live worker serves it")
        browser.find("#workers-none", text="mutirao worker")
        browser.find("#try-fields input")
        browser.find("#try-submit").click()
        browser.find(f"{row} td[data-name=Waiting]", text="1")
        browser.find("#job-ahead", text="0 requests before it")
        browser.find("#job-cancel").click()
        browser.find("#job-state", text="cancelled")
        browser.find("#recent-list li", text="cancelled")
        assert client.job(browser.find("#job-id").text).status == "cancelled"


def test_what_a_worker_cannot_serve_is_told(browser):
    """A model that one worker fails at and another serves is ready, and the reason stands with the worker that fails."""
    left, right = (
        WorkerInfo(name=name, pid=1, processes=1, models=served, failing=failing, seen_at=time.time() + 60)
        for name, served, failing in (("left@a", {"iris": "1"}, {}), ("right@b", {}, {"iris": "no weights here"}))
    )
    told = ModelInfo(name="iris", version="1", state="unavailable", reason="no weights here")
    with RedisServer() as server, GatewayProcess(server.url) as gateway:
        for key, info in ((keyspace.MODELS, told), (keyspace.WORKERS, left), (keyspace.WORKERS, right)):
            server.client().hset(key, info.name, msgspec.json.encode(info))
        browser.open(gateway.url, wait=ROW)
        waiting.until(lambda: browser.text(f"{ROW} .state") == "ready")
        browser.find("#workers-rows tr[data-worker='right@b'] .reason", text="iris: no weights here")
        assert not browser.all("#workers-rows tr[data-worker='left@a'] .reason")


def test_workers_of_one_host_share_its_cores(browser):
    """Cores that two workers of a host have are counted once, those of another host beside them."""
    with RedisServer() as server, GatewayProcess(server.url) as gateway:
        for name in ("left@a", "right@a", "far@b"):
            info = WorkerInfo(name=name, pid=1, processes=2, cores=4, models={"iris": "1"}, seen_at=time.time() + 60)
            server.client().hset(keyspace.WORKERS, name, msgspec.json.encode(info))
        browser.open(gateway.url, wait="#workers-rows tr[data-worker='far@b']")
        browser.find("#hands-more", text="6 processes · 8 cores")


def test_recent_jobs_outlive_a_reload(page):
    """The jobs of a tab are listed again after a reload, without their data, and one opens with its steps and result."""
    choose(page, "iris")
    fill(page, [1.25, 2, 3, 4])
    page.find("#try-submit").click()
    result(page)
    page.driver.refresh()
    page.find("#recent-list button", text="succeeded").click()
    assert len(result(page)["predict"]) == 1
    assert "1.25" not in page.run("return JSON.stringify(sessionStorage)")


def test_the_same_with_curl_is_the_same(page, gateway):
    """The curl line that the page shows asks for what the form says: run by hand it is a job of the same model."""
    choose(page, "iris")
    fill(page, IRIS)
    page.find("#try-curl summary").click()
    line = page.find("#try-curl-code").text
    assert f"{gateway.url}/v1/models/iris/jobs" in line
    body = line.split("-d '", 1)[1].rstrip("'")
    with gateway.client() as client:
        made = client.post("/v1/models/iris/jobs", content=body, headers={"content-type": "application/json"}).json()
        assert client.get(f"/v1/jobs/{made['id']}", params={"wait": 20}).json()["status"] == "succeeded"


def test_the_same_with_curl_is_refused_with_the_form(page):
    """Where the form refuses a value, the curl line says so, and sends nothing else in its place."""
    choose(page, "iris")
    page.find("#try-curl summary").click()
    fill(page, ["5.1", "three", "1.4", "0.2"])
    assert page.find("#try-curl-code").text == "# X[1] must be a number"
    fill(page, IRIS)
    assert "[5.1,3.5,1.4,0.2]" in page.find("#try-curl-code").text


def test_the_form_begins_with_the_model_s_own_example(page, fleet):
    """Each model's form is filled with a row of the example that its repository keeps, in fields and as rows."""
    with Client(fleet.url) as client:
        example = client.catalog().models["houses"].example
    choose(page, "houses")
    names = [label.text for label in page.all("#try-fields label")]
    values = [field.get_attribute("value") for field in page.all("#try-fields input")]
    assert dict(zip(names, values, strict=True)) == {
        name: str(value).removesuffix(".0") for name, (value,) in example.items()
    }
    assert "text" not in values
    assert json.loads(page.run(ROWS)) == [{name: value for name, (value,) in example.items()}]
    with Client(fleet.url) as client:
        own = next(iter(client.catalog().models["iris"].example.values()))
    choose(page, "iris")
    assert [float(field.get_attribute("value")) for field in page.all("#try-fields input")] == own
    assert json.loads(page.run(ROWS)) == [own]
    assert own != IRIS, "the console's own numbers, where a model has no example"


def test_the_model_that_is_chosen_first_is_ready(browser):
    """The form begins with a model that answers, though another comes before it; a model that a person chose stays chosen."""
    takes = Signature(
        inputs=(InputSpec(name="X", datatype="FP64", shape=(-1, 2)),),
        outputs=(OutputSpec(name="predict", datatype="FP64", shape=(-1,)),),
    )
    with RedisServer() as server, server.client() as redis, GatewayProcess(server.url) as alone:
        for name in ("absent", "served"):
            redis.hset(keyspace.MODELS, name, msgspec.json.encode(ModelInfo(name=name, version="1", signature=takes)))
        worker = WorkerInfo(name="w@h", pid=1, processes=1, models={"served": "1"}, seen_at=time.time())
        redis.hset(keyspace.WORKERS, worker.name, msgspec.json.encode(worker))
        browser.open(alone.url, wait="#models-rows tr[data-model=served]")
        waiting.until(lambda: browser.run("return document.getElementById('try-model').value") == "served")
        choose(browser, "absent")
        waiting.until(lambda: browser.find("#try-takes").text.startswith("takes X"))
        worker = msgspec.structs.replace(worker, name="another@h", seen_at=time.time())
        redis.hset(keyspace.WORKERS, worker.name, msgspec.json.encode(worker))
        browser.find("#workers-rows tr[data-worker='another@h']")  # the fleet has been drawn anew
        assert browser.run("return document.getElementById('try-model').value") == "absent"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(dark, browser, gateway):
    """In light and in dark, all text stands out from what is behind it as WCAG AA asks, that of a job and of stale figures too."""
    browser.open(gateway.url, dark=dark, wait=ROW)
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (max(int(part) for part in ground[4:-1].split(",")) < 64) is dark
    choose(browser, "iris")
    browser.find("#try-submit").click()
    result(browser)
    assert browser.run(CONTRAST)[0][0] >= 1, browser.run(CONTRAST)
    browser.run("document.querySelectorAll('#glance, #fleet').forEach((part) => part.classList.add('stale'))")
    assert browser.run(CONTRAST)[0][0] >= 1, browser.run(CONTRAST)


@pytest.mark.parametrize("width", [320, 375, 768, 881, 1121, 1321])
def test_nothing_is_wider_than_the_screen(width, browser, gateway):
    """From a narrow phone to a desktop no page scrolls sideways, and every row is inside it."""
    browser.open(gateway.url, width=width, height=812, wait=ROW)
    choose(browser, "houses")
    wide, screen = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= screen
    for part in ("table", "button", "input", ".tile"):
        right = browser.run(
            "return Math.max(...[...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())"
            ".map((one) => one.getBoundingClientRect().right))",
            part,
        )
        assert right <= screen, part


def test_who_wants_no_motion_gets_none(browser, gateway):
    """Nothing moves by itself for people who ask for reduced motion."""
    browser.open(gateway.url, still=True, wait=ROW)
    browser.find("#link", text="live")
    moving = browser.run("return document.getAnimations().filter((one) => one.playState === 'running').length")
    assert moving == 0


def test_everything_has_a_name_and_a_place(page):
    """Every control has a label, every picture a description, and the page has its landmarks and one main heading."""
    choose(page, "houses")
    nameless = page.run(
        "return [...document.querySelectorAll('input, select, textarea, button')]"
        ".filter((one) => !(one.tagName === 'BUTTON' ? one.textContent.trim() : one.labels.length)).map((one) => one.outerHTML)"
    )
    assert nameless == []
    assert page.run("return document.querySelectorAll('svg:not([aria-hidden], [aria-label])').length") == 0
    for landmark in ("header", "main", "nav", "footer", "h1"):
        assert page.run("return document.querySelectorAll(arguments[0]).length", landmark) == 1, landmark
    assert page.run("return document.getElementById('said').getAttribute('aria-live')") == "polite"
    assert page.run("return document.documentElement.lang") == "en"


def test_a_lost_gateway_is_seen_and_found_again(browser, fleet):
    """When the gateway goes, the page says so and marks its figures; when it is back, they go on by themselves."""
    with GatewayProcess(fleet.url) as gateway:
        browser.open(gateway.url, wait=ROW)
        gateway.kill()
        browser.find("#link", text="reconnecting")
        browser.find("#fleet.stale")
        with GatewayProcess(fleet.url, gateway_port=gateway.port):
            browser.find("#link", text="live")
            browser.find("#fleet:not(.stale)")
