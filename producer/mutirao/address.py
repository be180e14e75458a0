"""Where a server is: its URL, taken apart."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import msgspec

REDIS = ("redis", "rediss", "sentinel")
AMQP = ("amqp", "amqps", "pyamqp")
HTTP = ("http", "https")
SEPARATOR = ";"
_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis server, or the master that sentinels know.

    Attributes:
        scheme: redis, rediss (TLS) or sentinel.
        hosts: one server, or every sentinel, with its port.
        user: of the server, not of the sentinels; "" for none.
        password: as `user`.
        db: the database's number.
        query: redis-py's options, such as ssl_ca_certs.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    user: str = ""
    password: str = ""
    db: int = 0
    query: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The URL with everything in it that kombu and Celery would leave to chance.

        They take user, password and database from the sentinel that they happen to ask, and a rediss:// URL that says nothing of
        certificates makes kombu speak without TLS.
        """
        query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"} if self.scheme == "rediss" else {}
        ending = f"/{self.db}?{urlencode(query | self.query)}".rstrip("?")
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user or self.password else ""
        return SEPARATOR.join(
            f"{self.scheme}://{login}{f'[{host}]' if ':' in host else host}:{port}{ending}" for host, port in self.hosts
        )


def scheme(url: str) -> str:
    """Say what kind of server a URL is of."""
    return url.partition("://")[0]


def is_redis(url: str) -> bool:
    """Whether a URL is of a Redis, however it is reached."""
    return scheme(url) in REDIS


def read(url: str) -> Address:
    """Take a Redis URL apart.

    Raises:
        ValueError: it is none; says what it must be.
    """
    parts = [urlsplit(each) for each in url.split(SEPARATOR)]
    first = parts[0]
    if first.scheme not in REDIS or any(not part.hostname for part in parts):
        raise ValueError(
            "it must look like redis://127.0.0.1:6379/0, rediss://... or sentinel://a:26379;sentinel://b:26379/0"
        )
    if first.scheme != "sentinel" and len(parts) > 1:
        raise ValueError("only sentinels are more than one: sentinel://a:26379;sentinel://b:26379/0")
    if any(part.scheme != first.scheme for part in parts):
        raise ValueError(f"each part must begin with {first.scheme}://, as the first does")
    query = dict(parse_qsl("&".join(part.query for part in parts if part.query)))
    if first.scheme == "sentinel" and any(name.startswith("ssl_") for name in query):
        raise ValueError(
            "TLS is spoken with a server that is named itself, by rediss://, not with one behind sentinels"
        )
    given_db = query.pop("db", "")
    return Address(
        scheme=first.scheme,
        hosts=tuple((part.hostname or "", _port(part)) for part in parts),
        user=unquote(_one(parts, [part.username for part in parts], "user")),
        password=unquote(_one(parts, [part.password for part in parts], "password")),
        db=_db(_one(parts, [given_db, *(part.path.strip("/") for part in parts)], "database")),
        query=query,
    )


def without_password(url: str) -> str:
    """Return the URL as it may be shown: with *** for its password."""
    return SEPARATOR.join(map(_shown, url.split(SEPARATOR)))


def _shown(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"))


def _one(parts: list[SplitResult], said: list[str | None], what: str) -> str:
    """Choose what one of the parts says, or several in agreement."""
    found = {each for each in said if each}
    if len(found) > 1:
        raise ValueError(f"its {len(parts)} parts name different {what}s: name one, in any of them")
    return found.pop() if found else ""


def _port(part: SplitResult) -> int:
    return part.port or _PORTS[part.scheme]


def _db(path: str) -> int:
    if path and not path.isdecimal():
        raise ValueError("what follows the last / must be the database's number")
    return int(path or 0)
