"""URLs: what is read from them, what Celery is told, what is refused, what is shown."""

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from mutirao import MutiraoError, settings, urls
from mutirao.errors import SettingsError
from mutirao.redisdb import failure
from mutirao.redisdb.drivers import RedisDriver

THREE = "sentinel://u:p%40w@a:1;sentinel://b;sentinel://[::1]:3/4"


def test_a_redis_url_names_one_server():
    """Host, port, user, password, database and options are read from a redis:// URL; what it leaves out has Redis's default."""
    read = urls.parse("redis://u:p%2Fw@h/2?socket_timeout=3")

    assert (read.scheme, read.hosts, read.user, read.password, read.db) == ("redis", (("h", 6379),), "u", "p/w", 2)
    assert read.query == {"socket_timeout": "3"}
    assert urls.parse("redis://h?db=5").db == 5


def test_sentinels_share_what_one_of_them_says():
    """Every sentinel is read, with the login and the database that any of them names, and Celery is told them with each."""
    read = urls.parse(THREE)

    assert read.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert (read.user, read.password, read.db) == ("u", "p@w", 4)
    assert read.explicit() == "sentinel://u:p%40w@a:1/4;sentinel://u:p%40w@b:26379/4;sentinel://u:p%40w@[::1]:3/4"
    assert urls.parse(read.explicit()) == read


def test_celery_is_told_to_check_certificates():
    """A rediss:// URL that says nothing of certificates has them checked, and one that does is left as it is."""
    assert urls.parse("rediss://h").explicit().endswith("?ssl_cert_reqs=required&ssl_check_hostname=true")
    assert "ssl_cert_reqs=none" in urls.parse("rediss://h?ssl_cert_reqs=none&ssl_ca_certs=%2Fca.pem").explicit()
    assert "ssl_ca_certs=%2Fca.pem" in urls.parse("rediss://h?ssl_ca_certs=/ca.pem").explicit()


@pytest.mark.parametrize(
    "url", ["unix://u:p%40w@/run/redis.sock?db=3", "redis+socket://u:p%40w@/run/redis.sock?virtual_host=3"]
)
def test_a_socket_is_named_as_redis_py_and_kombu_name_it(url):
    """Path, login and database of a Unix socket are read from either form, and Celery is told kombu's."""
    read = urls.parse(url)

    assert (read.path, read.hosts, read.user, read.password, read.db) == ("/run/redis.sock", (), "u", "p@w", 3)
    assert read.explicit() == "redis+socket://u:p%40w@/run/redis.sock?virtual_host=3"
    assert not settings.load({}, broker_url=url).uses_amqp


def test_a_login_may_stand_in_the_query():
    """What redis-py takes from the query is the login, for Celery too."""
    read = urls.parse("redis://h/1?username=u&password=p%2Fw")

    assert (read.user, read.password, read.query) == ("u", "p/w", {})
    assert read.explicit() == "redis://u:p%2Fw@h:6379/1"


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"broker_url": "unix://host/run/redis.sock"}, "the path of a socket is whole"),
        ({"broker_url": "redis://:pa/ss@h/0"}, "in a password write"),
        ({"broker_url": "redis://:pa?ss@h/0"}, "in a password write"),
        ({"broker_url": "redis://h:port"}, "its port must be a number"),
        ({"broker_url": "redis://[h"}, "it must look like redis://"),
        ({"broker_url": "ftp://h"}, "it must look like redis://"),
        ({"broker_url": "http:///"}, "it must look like http://127.0.0.1:8000"),
        ({"broker_url": "https://h/?key=1"}, "it must look like http://127.0.0.1:8000"),
        ({"broker_url": "https://:key@h"}, "a gateway's key is given apart: MUTIRAO_API_KEY"),
        ({"broker_url": "redis:///0"}, "it must look like redis://"),
        ({"broker_url": "redis://h/many"}, "the database, what follows the last / or db=, must be a number"),
        ({"broker_url": "redis://h/0?db=text"}, "the database, what follows the last / or db=, must be a number"),
        ({"broker_url": "unix:///run/r.sock?db=text"}, "the database, .* must be a number"),
        ({"broker_url": "redis://h/1?db=2"}, "it names different databases: name one, once"),
        ({"broker_url": "redis://h/0?socket_timeout=soon"}, "socket_timeout in its query must be a number"),
        ({"broker_url": "redis://a;redis://b"}, "only sentinels are more than one"),
        ({"broker_url": "sentinel://a;redis://b"}, "each part must begin with sentinel://"),
        ({"broker_url": "sentinel://a/1;sentinel://b/2"}, "it names different databases: name one, in any"),
        ({"broker_url": "redis://h/0?PASSWORD=PW"}, "an option in its query is none of client_name, db, "),
        ({"broker_url": "redis://h/0?ssl_password=PW"}, "an option in its query is none of client_name, db, "),
        (
            {"broker_url": "unix:///run/r.sock?socket_keepalive=1"},
            "an option in its query is none of client_name, db, ",
        ),
        ({"broker_url": "sentinel://a?ssl_cert_reqs=none"}, "TLS is spoken with a server that is named itself"),
        ({"broker_url": "amqp://guest@h//"}, "results are kept in Redis: set MUTIRAO_RESULT_URL"),
        ({"broker_url": "amqp://", "result_url": "redis://h"}, "it must look like amqp://"),
    ],
)
def test_what_is_no_address_is_refused(given, rule):
    """A setting that cannot work is refused by its name, its value and the rule."""
    with pytest.raises(SettingsError, match=rule):
        settings.load({}, **given)


def test_a_gateway_is_for_clients_alone():
    """A gateway's URL is taken, results and all, and refused to those who speak with Redis itself."""
    given = settings.load({"MUTIRAO_RESULT_URL": "redis://h"}, broker_url="https://gateway/mutirao")

    assert (given.uses_gateway, given.separate_results) == (True, False)
    with pytest.raises(SettingsError, match="only clients go through a gateway"):
        RedisDriver(given)


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


def test_no_password_is_shown():
    """No password of any part is shown, neither by the URL nor by the settings, nor by what refuses them."""
    url = "sentinel://u:secret1@a:1;sentinel://u:secret2@b:2/0"

    assert urls.without_password(url) == "sentinel://u:***@a:1;sentinel://u:***@b:2/0"
    with pytest.raises(SettingsError) as caught:
        settings.load({}, broker_url=url)
    assert "secret" not in str(caught.value)
    shown = repr(settings.load({}, broker_url="amqp://u:secret@h//", result_url="rediss://:secret@h"))
    assert ":secret" not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://u:pw@[::1]:6379/0?ssl_cert_reqs=none", "rediss://u:***@[::1]:6379/0?ssl_cert_reqs=none"),
        ("redis://:a@b@h/0", "redis://:***@h/0"),
        ("redis://pw@h", "redis://***@h"),
        ("redis://h/0?password=pw&db=2&username=u&other=x", "redis://h/0?password=***&db=2&username=***&***=***"),
        ("redis://:a/b@h/0", "redis://***"),
        ("redis://h:pw", "redis://***"),
        ("redis://h/pw", "redis://h/***"),
        ("unix://u:pw@/run/redis.sock?db=1", "unix://u:***@/run/redis.sock?db=1"),
        ("amqp://guest:pw@h:5672/vhost", "amqp://guest:***@h:5672/vhost"),
        ("https://gateway:8000/mutirao", "https://gateway:8000/mutirao"),
        ("https://gateway/?token=pw", "https://gateway/?***=***"),
        ("localhost:6379", "localhost:6379"),
        ("pw@h", "***@h"),
    ],
)
def test_what_is_no_secret_is_shown(url, shown):
    """Where a server is can be read from what is shown of its URL."""
    assert urls.without_password(url) == shown


# Printable, and such as mean something in a URL; a shorter one stands in any text by chance.
_SECRETS = st.text(st.sampled_from("kQzXwJ49/?#@:;%&=+[] \\\"'é\n"), min_size=6, max_size=12).filter(
    lambda text: sum(letter in "kQzXwJ49é" for letter in text) >= 5
)
_FORMS = (
    "redis://:{}@h:6379/0",
    "redis://user:{}@h/0",
    "redis://{}@h",
    "rediss://u:{}@[::1]:6379/0?ssl_cert_reqs=none",
    "redis://h/0?password={}",
    "redis://h:6379?username={}&db=1",
    "sentinel://a:1;sentinel://:{}@b:2/0",
    "sentinel://u:{0}@a:1/0;sentinel://u:{0}@b:2/0",
    "unix://:{}@/run/redis.sock",
    "unix:///run/redis.sock?password={}",
    "amqp://u:{}@h//",
    "http://:{}@gateway:8000",
    "http://gateway:8000?token={}",
    "redis:/:{}@h",
    "//:{}@h/0",
    ":{}@h:6379",
    "redis://:{}@h:notaport/x",
    "redis://[:{}@h",
)


def _pieces(secret):
    """What of a secret must not be seen: all of it, and each run of its letters that is no accident."""
    runs = "".join(letter if letter in "kQzXwJ49é" else " " for letter in secret).split()
    return {secret, *(run for run in runs if len(run) >= 4)}


@given(st.sampled_from(_FORMS), _SECRETS)
@example("redis://:{}@h:6379/0", "kQz/XwJ4")
@example("redis://:{}@h:6379/0", "kQzXwJ?49kQ")
@example("redis://h/0?password={}", "kQz@XwJ4")
def test_no_secret_of_any_url_is_shown(form, secret):
    """Whatever the URL, and wherever a secret stands in it: no message, no repr and no data of an error has it, or a piece of it."""
    url = form.format(secret)
    said = [urls.without_password(url)]
    try:
        given = settings.load({}, broker_url=url, result_url="redis://h" if url.startswith("amqp") else None)
        said.append(repr(given))
        if not given.uses_gateway:
            said += [str(failure.unavailable(redis.ConnectionError(f"Error connecting to {url}"), url))]
    except MutiraoError as exc:
        said += [str(exc), repr(exc), repr(exc.data), repr(exc.__cause__), repr(exc.__context__)]
    for piece in _pieces(secret):
        assert not any(piece in each for each in said), said
