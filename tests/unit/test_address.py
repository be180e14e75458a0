"""URLs: what is read from them, what Celery is told, what is refused, what is shown."""

import pytest

from mutirao import address, settings
from mutirao.broker.redis import Redis
from mutirao.errors import SettingsError

THREE = "sentinel://u:p%40w@a:1;sentinel://b;sentinel://[::1]:3/4"


def test_a_redis_url_names_one_server():
    """Host, port, user, password, database and options are read from a redis:// URL; what it leaves out has Redis's default."""
    read = address.read("redis://u:p%2Fw@h/2?socket_timeout=3")

    assert (read.scheme, read.hosts, read.user, read.password, read.db) == ("redis", (("h", 6379),), "u", "p/w", 2)
    assert read.query == {"socket_timeout": "3"}
    assert address.read("redis://h?db=5").db == 5


def test_sentinels_share_what_one_of_them_says():
    """Every sentinel is read, with the login and the database that any of them names, and Celery is told them with each."""
    read = address.read(THREE)

    assert read.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert (read.user, read.password, read.db) == ("u", "p@w", 4)
    assert read.url == "sentinel://u:p%40w@a:1/4;sentinel://u:p%40w@b:26379/4;sentinel://u:p%40w@[::1]:3/4"
    assert address.read(read.url) == read


def test_celery_is_told_to_check_certificates():
    """A rediss:// URL that says nothing of certificates has them checked, and one that does is left as it is."""
    assert address.read("rediss://h").url.endswith("?ssl_cert_reqs=required&ssl_check_hostname=true")
    assert "ssl_cert_reqs=none" in address.read("rediss://h?ssl_cert_reqs=none&ssl_ca_certs=%2Fca.pem").url
    assert "ssl_ca_certs=%2Fca.pem" in address.read("rediss://h?ssl_ca_certs=/ca.pem").url


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"broker_url": "ftp://h"}, "it must look like redis://"),
        ({"broker_url": "http:///"}, "it must look like http://127.0.0.1:8000"),
        ({"broker_url": "https://h/?key=1"}, "it must look like http://127.0.0.1:8000"),
        ({"broker_url": "https://:key@h"}, "a gateway's key is given apart: MUTIRAO_API_KEY"),
        ({"broker_url": "redis:///0"}, "it must look like redis://"),
        ({"broker_url": "redis://h/many"}, "the database's number"),
        ({"broker_url": "redis://a;redis://b"}, "only sentinels are more than one"),
        ({"broker_url": "sentinel://a;redis://b"}, "each part must begin with sentinel://"),
        ({"broker_url": "sentinel://a/1;sentinel://b/2"}, "name different databases"),
        ({"broker_url": "sentinel://a?ssl_cert_reqs=none"}, "TLS is spoken with a server that is named itself"),
        ({"broker_url": "amqp://guest@h//"}, "results are kept in Redis: set MUTIRAO_RESULT_URL"),
        ({"broker_url": "amqp://", "result_url": "redis://h"}, "it must look like amqp://"),
        ({"engine": "perhaps"}, "it must be 1 or 0"),
    ],
)
def test_what_is_no_address_is_refused(given, rule):
    """A setting that cannot work is refused by its name, its value and the rule."""
    with pytest.raises(SettingsError, match=rule):
        settings.load({}, **given)


def test_a_gateway_is_for_clients_alone():
    """A gateway's URL is taken, results and all, and refused to those who speak with Redis itself."""
    given = settings.load({"MUTIRAO_RESULT_URL": "redis://h"}, broker_url="https://gateway/mutirao")

    assert (given.remote, given.split) == (True, False)
    with pytest.raises(SettingsError, match="only clients go through a gateway"):
        Redis(given)


def test_an_api_key_is_not_shown():
    """The key that a gateway knows a client by, and the key that webhooks are signed with, are in no repr of the settings."""
    given = settings.load(
        {"MUTIRAO_API_KEY": "s3cret"}, broker_url="http://gateway:8000", webhook_secret="whsec_s3cret"
    )

    assert given.api_key == "s3cret"
    assert "s3cret" not in repr(given)
    assert "api_key='***'" in repr(given)
    assert "webhook_secret='***'" in repr(given)
    assert "api_key=''" in repr(settings.load({}))
    with pytest.raises(SettingsError, match="MUTIRAO_API_KEY holds what no key does") as caught:
        settings.load({}, api_key="s3cret\n")
    assert "s3cret" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(("text", "meant"), [("0", False), ("false", False), ("1", True), ("true", True)])
def test_the_engine_is_switched_from_the_environment(text, meant):
    """MUTIRAO_ENGINE says in one word whether the engine's transport is used."""
    assert settings.load({"MUTIRAO_ENGINE": text}).engine is meant


def test_no_password_is_shown():
    """No password of any part is shown, neither by the URL nor by the settings, nor by what refuses them."""
    url = "sentinel://u:secret1@a:1;sentinel://u:secret2@b:2/0"

    assert address.without_password(url) == "sentinel://u:***@a:1;sentinel://u:***@b:2/0"
    with pytest.raises(SettingsError) as caught:
        settings.load({}, broker_url=url)
    assert "secret" not in str(caught.value)
    shown = repr(settings.load({}, broker_url="amqp://u:secret@h//", result_url="rediss://:secret@h"))
    assert ":secret" not in shown
