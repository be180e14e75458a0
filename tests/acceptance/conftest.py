"""The console in a real browser, for the modules that look at it."""

import re

import pytest

from support.browser import Browser
from support.console_page import ROW

# What a browser notes by itself of a call that was refused, or found no gateway.
REFUSED = re.compile(r"/(v[12]/\S+|metrics) - Failed to load resource")


@pytest.fixture(scope="module")
def chromium():
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """The browser; afterwards its console has told of nothing but refused calls, and it has asked this machine alone."""
    yield chromium
    assert [line for line in chromium.said() if not REFUSED.search(line)] == []
    elsewhere = [url for url in chromium.asked() if not url.startswith(("http://127.0.0.1:", "data:", "chrome:"))]
    assert elsewhere == []


@pytest.fixture
def page(browser, gateway):
    """The console, with its models."""
    browser.open(gateway.url, wait=ROW)
    return browser
