"""The console where the gateway has keys and where it has none, and what its files may do."""

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from support import browser as browsers
from support import waiting
from support.blocking_keys import BlockingKeys
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer

pytestmark = pytest.mark.skipif(browsers.SKIPPED, reason=browsers.MISSING)


def test_a_key_is_asked_for_and_forgotten(browser, fleet):
    """Where the gateway has keys, the page asks for one, says when it is wrong, keeps it in this tab alone, and forgets it."""
    with RedisServer() as server, GatewayProcess(server.url) as gateway:
        with BlockingKeys(server.url) as ring:
            made, blind = ring.add("ana", scopes=("operate:*",)), ring.add("bot", scopes=("predict:*",))
        browser.open(gateway.url, wait="#key-value")
        browser.press(Keys.ESCAPE)
        browser.find("#link", text="this needs an API key")
        browser.find("#link-again").click()
        browser.find("#key-value").send_keys("mutirao_wrong", Keys.ENTER)
        browser.find("#key-error", text="API key")
        browser.find("#key-value").send_keys(made.token, Keys.ENTER)
        browser.find("#models-none", text="mutirao models add")
        browser.find("#workers-none", text="mutirao worker")
        assert browser.run("return localStorage.length + document.cookie.length") == 0
        assert made.token in browser.run("return JSON.stringify(sessionStorage)")
        browser.find("#key-forget").click()
        browser.find("#key-value")
        assert made.token not in browser.run("return JSON.stringify(sessionStorage)")
        with gateway.client(headers={"authorization": f"Bearer {blind.token}"}) as client:
            assert client.get("/v1/fleet").status_code == client.get("/v1/fleet/events").status_code == 403


def test_metrics_are_asked_for_with_the_key(browser):
    """Where the gateway has keys, Metrics asks for one and shows what it may see, or says why it may not."""
    with RedisServer() as server, GatewayProcess(server.url) as gateway:
        with BlockingKeys(server.url) as ring:
            made, reader = ring.add("ana", scopes=("operate:*",)), ring.add("bot", scopes=("read:*",))
        browser.open(gateway.url, wait="#key-value")
        browser.press(Keys.ESCAPE)
        browser.find("#link", text="this needs an API key")
        browser.find("#metrics-link").click()
        browser.find("#key-value").send_keys(made.token, Keys.ENTER)
        browser.find("#metrics-text", text="mutirao_open_waits")
        assert browser.run("return location.pathname") == "/"
        browser.find("#metrics button").click()
        browser.find("#key-forget").click()
        browser.find("#key-value").send_keys(reader.token, Keys.ENTER)
        browser.find("#models-none")
        browser.find("#metrics-link").click()
        browser.find("#metrics-error", text="it takes the scope operate:*")
        assert not browser.text("#metrics-text")


def test_metrics_of_an_open_gateway_are_a_link(page):
    """Without keys, Metrics leads to /metrics itself."""
    page.find("#metrics-link").click()
    waiting.until(lambda: page.run("return location.pathname") == "/metrics")
    page.find("body", text="mutirao_open_waits")


def test_the_page_is_served_with_its_rules(gateway):
    """The page and its files come typed, with a policy that allows nothing inline or from elsewhere, and are not sent twice."""
    with gateway.client() as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert client.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == httpx.codes.NOT_MODIFIED
        script = client.get("/console/console.js")
        assert script.headers["content-type"].startswith("text/javascript")
        for path in ("/console/nothing.js", "/console/..%2fconsole.py", "/console/../app.py", "/console/"):
            assert client.get(path).status_code == 404, path
