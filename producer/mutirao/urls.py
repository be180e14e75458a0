"""The URLs of servers: parsed, written out in full, and shown without their secrets."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

_SERVERS = ("redis", "rediss", "sentinel")
# A Redis on this machine behind a Unix socket, as redis-py and as kombu name it.
SOCKETS = ("unix", "redis+socket")
REDIS = (*_SERVERS, *SOCKETS)
AMQP = ("amqp", "amqps", "pyamqp")
HTTP = ("http", "https")
SEPARATOR = ";"
_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}


class RedisURL(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis server, or the master that sentinels know.

    Attributes:
        scheme: redis, rediss (TLS), sentinel or unix.
        hosts: one server, or every sentinel, with its port; none for a socket.
        path: of the socket; "" for a server.
        user: of the server, not of the sentinels; "" for none.
        password: as `user`.
        db: the database's number.
        query: redis-py's options, such as ssl_ca_certs.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    user: str = ""
    password: str = ""
    db: int = 0
    query: dict[str, str] = {}

    def explicit(self) -> str:
        """Return the URL with everything stated that kombu and Celery would leave to chance.

        They take user, password and database from the URL of the sentinel that they happen to use, and kombu connects without TLS
        where a rediss:// URL does not mention certificates.
        """
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user or self.password else ""
        if self.path:
            return f"redis+socket://{login}{quote(self.path)}?virtual_host={self.db}"
        query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"} if self.scheme == "rediss" else {}
        ending = f"/{self.db}?{urlencode(query | self.query)}".rstrip("?")
        return SEPARATOR.join(
            f"{self.scheme}://{login}{f'[{host}]' if ':' in host else host}:{port}{ending}" for host, port in self.hosts
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, as far as its text tells."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def scheme(url: str) -> str:
    """Return the scheme of a URL."""
    return url.partition("://")[0]


def is_redis(url: str) -> bool:
    """Return whether a URL names a Redis server, sentinels or a Redis socket."""
    return scheme(url) in REDIS


def parse(url: str) -> RedisURL:
    """Parse a Redis URL.

    Raises:
        ValueError: it is not a Redis URL; the message says what it must be, and quotes nothing of it.
    """
    try:
        parts = [urlsplit(each) for each in url.split(SEPARATOR)]
    except ValueError:  # its message quotes the URL
        raise ValueError(f"{_FORM}{_escaping(url)}") from None
    first = parts[0]
    on_socket = first.scheme in SOCKETS  # as redis-py and as kombu write it
    if on_socket and (first.hostname or not first.path.strip("/") or len(parts) > 1):
        raise ValueError("the path of a socket is whole and the only one: unix:///run/redis/redis.sock?db=0")
    if first.scheme not in REDIS or (not on_socket and any(not part.hostname for part in parts)):
        raise ValueError(f"{_FORM}{_escaping(url)}")
    if first.scheme != "sentinel" and len(parts) > 1:
        raise ValueError("only sentinels are more than one: sentinel://a:26379;sentinel://b:26379/0")
    if any(part.scheme != first.scheme for part in parts):
        raise ValueError(f"each part must begin with {first.scheme}://, as the first does")
    if first.scheme == "sentinel" and any("ssl_" in part.query for part in parts):
        raise ValueError(
            "TLS is spoken with a server that is named itself, by rediss://, not with one behind sentinels"
        )
    query = _query(parts, url)
    db = [query.pop("db", ""), query.pop("virtual_host", "").strip("/")]
    user, password = query.pop("username", ""), query.pop("password", "")
    return RedisURL(
        scheme="unix" if on_socket else first.scheme,
        hosts=() if on_socket else tuple((part.hostname or "", _port(part, url)) for part in parts),
        path=unquote(first.path) if on_socket else "",
        user=_one(parts, [user, *(unquote(part.username or "") for part in parts)], "user"),
        password=_one(parts, [password, *(unquote(part.password or "") for part in parts)], "password"),
        db=_db(parts, db if on_socket else [*db, *(part.path.strip("/") for part in parts)], url),
        query=query,
    )


def without_password(url: str) -> str:
    """Return the URL as it may be shown: with *** for its password, and for anything that may be one.

    Of a malformed URL only the scheme is shown, since the end of a password cannot be found in it.
    """
    parts = url.split(SEPARATOR) if scheme(url) == "sentinel" else [url]
    matches = [_SHOWN.fullmatch(part) for part in parts]
    if all(matches):
        return SEPARATOR.join(_shown(part) for part in matches if part)
    name = scheme(url)
    return f"{name}://***" if name != url and name in (*REDIS, *AMQP, *HTTP) else "***"


def scrubbed(text: str, url: str) -> str:
    """Return a text from elsewhere with *** for the secrets of a URL."""
    rest = url.partition("://")[2] or url
    logins = [each.rpartition("@")[0].rpartition("//")[2] for each in (rest, *rest.split(SEPARATOR))]
    values = [value for name, value in _raw_pairs(rest.partition("?")[2]) if not _may_be_shown(name)]
    secrets = {*logins, *(each.partition(":")[2] for each in logins), *values}
    for secret in sorted({url, rest} | secrets | {unquote(each) for each in secrets}, key=len, reverse=True):
        if len(secret) >= _SECRET_MIN:
            text = text.replace(secret, without_password(url) if secret == url else "***")
    return text


_FORM = "it must look like redis://127.0.0.1:6379/0, rediss://..., unix:///run/redis.sock or sentinel://a:26379;sentinel://b:26379/0"
# Only host and port are shown of a URL without a scheme.
_SHOWN = re.compile(
    r"(?:(?P<scheme>redis|rediss|sentinel|amqp|amqps|pyamqp|http|https|unix|redis\+socket)://)?"
    r"(?:(?P<login>[^/?#]*)@)?"
    r"(?P<host>[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])"
    r"(?P<port>:\d{1,5})?"
    r"(?P<path>/[^?#@;]*)?"
    r"(?:\?(?P<query>[^#@;]*))?"
)
_USER = re.compile(r"[A-Za-z0-9_.-]*")
# Options of redis-py and kombu that are not secret.
_OPEN = frozenset(
    {
        "db",
        "virtual_host",
        "protocol",
        "timeout",
        "connect_timeout",
        "heartbeat",
        "health_check_interval",
        "max_connections",
    }
    | {"retry_on_timeout", "ssl", "client_name"}
)
_OPEN_BEGINS = ("socket_", "ssl_")
# Options that a query may have; redis-py raises a TypeError for others.
_OPTIONS = frozenset(
    {"client_name", "db", "health_check_interval", "max_connections", "protocol", "retry_on_timeout"}
    | {"socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout"}
)
_OF_TLS = frozenset(
    {"ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers"}
    | {"ssl_keyfile", "ssl_min_version", "ssl_password"}
)
_NUMBERS = {
    **dict.fromkeys(
        ("health_check_interval", "max_connections", "protocol", "socket_read_size"), re.compile(r"\d+", re.ASCII)
    ),
    **dict.fromkeys(("socket_connect_timeout", "socket_timeout"), re.compile(r"\d+(\.\d*)?", re.ASCII)),
}
_NAMED = ("username", "password")
# Shorter secrets are not replaced in a text, since they occur in it by chance.
_SECRET_MIN = 3


def _shown(part: re.Match[str]) -> str:
    login = part["login"]
    if login is not None:
        user, colon, password = login.partition(":")
        login = f"{user if password and _USER.fullmatch(user) else '***' * (not colon)}{':***' if colon else ''}@"
    path, name = part["path"] or "", part["scheme"]
    if path.strip("/") and not path.strip("/").isdecimal() and name in (None, *_SERVERS):
        path = "/***"
    pairs = _raw_pairs(part["query"] or "")
    query = "&".join(
        f"{name}={value}" if _may_be_shown(name) else f"{name if name in _NAMED else '***'}=***"
        for name, value in pairs
    )
    begin = f"{name}://" if name else ""
    return f"{begin}{login or ''}{part['host']}{part['port'] or ''}{path}{'?' if query else ''}{query}"


def _may_be_shown(name: str) -> bool:
    return name in _OPEN or (name.startswith(_OPEN_BEGINS) and "password" not in name)


def _raw_pairs(query: str) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return [(name, value) for name, _, value in pairs]


def _query(parts: list[SplitResult], url: str) -> dict[str, str]:
    query = dict(parse_qsl("&".join(part.query for part in parts if part.query)))
    allowed = {*_NAMED, *_OPTIONS, *(_OF_TLS if parts[0].scheme == "rediss" else ())}
    if parts[0].scheme in SOCKETS:
        allowed = allowed - {name for name in _OPTIONS if name.startswith("socket_keep")} | {"virtual_host"}
    if any(name not in allowed for name in query):  # the message does not name it: it may be part of a password
        raise ValueError(f"an option in its query is none of {', '.join(sorted(allowed))}{_escaping(url)}")
    for name, form in _NUMBERS.items():
        if name in query and not form.fullmatch(query[name]):
            raise ValueError(f"{name} in its query must be a number{_escaping(url)}")
    return query


def _escaping(url: str) -> str:
    """Return a hint on escaping where a URL's password may not be escaped."""
    rest = url.partition("://")[2]
    unescaped = "@" in rest and re.search(r"[/?#]", rest.rpartition("@")[0])
    return "; in a password write / ? # @ as %2F %3F %23 %40" if unescaped else ""


def _one(parts: list[SplitResult], values: list[str | None], what: str) -> str:
    """Return the value that one of the parts names, or several in agreement."""
    distinct = {each for each in values if each}
    if len(distinct) > 1:
        raise ValueError(f"it names different {what}s: name one, {'in any of its parts' if len(parts) > 1 else 'once'}")
    return distinct.pop() if distinct else ""


def _port(part: SplitResult, url: str) -> int:
    try:
        return part.port or _PORTS[part.scheme]
    except ValueError:  # its message quotes what may be a password
        raise ValueError(f"its port must be a number, 1 to 65535{_escaping(url)}") from None


def _db(parts: list[SplitResult], values: list[str], url: str) -> int:
    if any(each and not (each.isdecimal() and each.isascii()) for each in values):
        raise ValueError(f"the database, what follows the last / or db=, must be a number, such as 0{_escaping(url)}")
    return int(_one(parts, [str(int(each)) for each in values if each], "database") or 0)
