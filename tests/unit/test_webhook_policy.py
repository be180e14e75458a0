"""Which webhooks may be: the operator's list, and every URL that tries to be more than it says."""

import ipaddress

import pytest

from mutirao import errors, webhook_policy

HOSTS = "crm.example.com, *.hooks.example.com, http://intra.example.com:8080=10.0.0.0/8, http://127.0.0.1:9000, https://[::1]:8443"


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://crm.example.com/hook?a=1&b=2", "crm.example.com", 443, "/hook?a=1&b=2"),
        ("https://crm.example.com", "crm.example.com", 443, "/"),
        ("https://crm.example.com?x", "crm.example.com", 443, "/?x"),
        ("HTTPS://CRM.Example.com:443/A", "crm.example.com", 443, "/A"),
        ("https://crm.example.com./", "crm.example.com", 443, "/"),
        ("https://a.b.hooks.example.com/", "a.b.hooks.example.com", 443, "/"),
        ("http://intra.example.com:8080/x", "intra.example.com", 8080, "/x"),
        ("http://127.0.0.1:9000/x", "127.0.0.1", 9000, "/x"),
        ("https://[::1]:8443/x", "::1", 8443, "/x"),
        ("https://[0:0:0:0:0:0:0:1]:8443/x", "::1", 8443, "/x"),
    ],
)
def test_an_allowed_url_is_taken_apart(url, host, port, path):
    """A URL of a host that the operator allows says where it leads, however it is written."""
    target = webhook_policy.check_url(url, HOSTS)
    assert (target.host, target.port, target.path) == (host, port, path)


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.com/",
        "https://crm.example.com.evil.example/",
        "https://hooks.example.com/",  # the names below it alone
        "https://evilhooks.example.com/",
        "https://127.0.0.1:9000/",  # not by TLS
        "http://127.0.0.1:9001/",
        "http://127.0.0.1/",
        "http://127.1:9000/",
        "http://0x7f.0.0.1:9000/",
        "http://2130706433:9000/",
        "http://[::ffff:127.0.0.1]:9000/",
        "http://crm.example.com/",
        "https://crm.example.com:8443/",
        "https://xn--80ak6aa92e.com/",
    ],
)
def test_a_host_that_is_not_allowed_is_named(url):
    """A host, scheme or port that the operator has not allowed is refused, with the host named and the setting."""
    with pytest.raises(errors.WebhookRefused) as caught:
        webhook_policy.check_url(url, HOSTS)
    assert caught.value.status == 400
    assert caught.value.host
    assert "operator allows" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "crm.example.com/hook",
        "//crm.example.com/hook",
        "ftp://crm.example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https:///hook",
        "https://user@crm.example.com/",
        "https://user:secret@crm.example.com/",
        "https://crm.example.com@evil.example/",
        "https://evil.example\\@crm.example.com/",
        "https://crm.example.com\\.evil.example/",
        "https://crm.example.com/\r\nX-Evil: 1",
        "https://crm.example.com/\nx",
        "https://crm.example.com/a b",
        " https://crm.example.com/",
        "https://crm.example.com/\x00",
        "https://crm.exampl\u00e9.com/",
        "https://crm\u3002example\u3002com/",
        "https://crm.example.com/#fragment",
        "https://crm.example.com:0/",
        "https://crm.example.com:99999/",
        "https://crm.example.com:x/",
        "https://crm%2eexample.com/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://.crm.example.com/",
        "https://*.hooks.example.com/",
        "https://crm.example.com/" + "a" * webhook_policy.MAX_URL,
    ],
)
def test_what_is_no_plain_url_is_refused(url):
    """Other schemes, credentials, control characters, tricks of parsers and overlong URLs are refused before any look-up."""
    with pytest.raises(errors.WebhookRefused, match="the webhook is refused"):
        webhook_policy.check_url(url, HOSTS)


def test_a_refusal_quotes_neither_query_nor_credentials():
    """What a URL may hold of secrets is in no refusal."""
    for url in ("https://other.example.com/?token=hunter2", "https://me:hunter2@crm.example.com/"):
        with pytest.raises(errors.WebhookRefused) as caught:
            webhook_policy.check_url(url, HOSTS)
        assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_off_until_hosts_are_allowed():
    """Without allowed hosts every webhook is refused, and the caller is told which setting that is."""
    with pytest.raises(errors.WebhookRefused, match="MUTIRAO_WEBHOOK_HOSTS"):
        webhook_policy.check_url("https://crm.example.com/", "")


@pytest.mark.parametrize(
    "entry",
    ["*", "*.com", "*.", "ftp://x.example", "crm.example.com/hook", "a b", "https://", "a=nothing", "user@a.example", "10.0.0.0/8", "a=10.0.0.1/8"],
)  # fmt: skip
def test_an_entry_that_allows_by_mistake_is_refused(entry):
    """An entry that is no host, or allows half of the internet, stops whoever starts with it."""
    with pytest.raises(errors.SettingsError, match="MUTIRAO_WEBHOOK_HOSTS"):
        webhook_policy.allowed_hosts(f"ok.example.com, {entry}")


PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.0.1", "2001:4860:4860::8888", "2606:4700::1111"]
PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::8.8.8.8", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "2002:808:808::1",
    "2001:0:4136:e378::1", "2001:db8::1", "2001:10::1", "2001:20::1", "3fff::1", "100::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip


@pytest.mark.parametrize(("text", "is_public"), [(each, True) for each in PUBLIC] + [(each, False) for each in PRIVATE])
def test_only_a_public_hosts_own_address_is_public(text, is_public):
    """Private, loopback, link-local, metadata, shared, reserved and multicast addresses are not public, nor IPv6 that carries IPv4."""
    assert webhook_policy.is_public(ipaddress.ip_address(text)) is is_public
