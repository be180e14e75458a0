"""What a webhook must never be made to do: reach an address that is not public, follow, leak, or hang."""

import contextlib
import itertools
import ssl
import time
from pathlib import Path

import pytest
import redis

from mutirao import errors, keyspace, webhook_policy
from mutirao.dead_letters import DeadLetters
from mutirao.redisdb.drivers import RedisDriver
from mutirao.settings import load
from mutirao_worker.webhooks import dns, http_post
from mutirao_worker.webhooks.delivery import Deliverer
from mutirao_worker.webhooks.host_limits import HostLimiter
from mutirao_worker.webhooks.outbox import Delivery, Outbox
from support import brokers, certificates, waiting, webhook_process
from support.redis_servers import RedisServer
from support.webhook_process import SECRET, Jobs, WebhookProcess
from support.webhook_receivers import Receiver, Silent

pytestmark = brokers.redis_only

RULES = Path(__file__).parents[2] / "deploy/redis/acl/webhooks"
METADATA = "169.254.169.254"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


class Teller:
    """One courier in this process, with its resolver and its trust chosen."""

    def __init__(self, url, hosts, **given):
        self.settings = load({}, broker_url=url, webhook_hosts=hosts, webhook_secret=SECRET)
        self._jobs, self._redis = Jobs(url), RedisDriver(self.settings)
        self._outbox = Outbox(self.settings)
        self._courier = Deliverer(self.settings, self._outbox, HostLimiter(8), worker="webhooks@test", **given)

    def tell(self, webhook):
        """End a job with this webhook; say what came of the first try."""
        (id,) = self._jobs.end(webhook)
        (envelope,) = self._outbox.take(1)
        return self._courier.deliver(Delivery(envelope, id))

    def letters(self):
        dead = DeadLetters(self.settings)
        return self._redis.run(dead.letters(self._redis.run(dead.ids())))

    def close(self):
        self._jobs.close()
        self._redis.close()
        self._outbox.close()


@pytest.fixture
def teller(server):
    server.client().flushall()
    with contextlib.ExitStack() as stack:
        yield lambda hosts, **given: stack.enter_context(contextlib.closing(Teller(server.url, hosts, **given)))


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"], [METADATA], ["10.0.0.8"], ["100.64.0.1"], ["0.0.0.0"], ["224.0.0.1"], ["::1"], ["fe80::1"],
        ["fd00:ec2::254"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["2001:0:7f00:1::1"],
        ["8.8.8.8", "127.0.0.1"], ["2606:4700::1111", METADATA], ["127.0.0.1", "8.8.8.8"],
    ],
)  # fmt: skip
def test_a_name_that_leads_inside_is_refused(teller, found):
    """A name of an allowed host that resolves to anything but public addresses is never connected to, and an operator is told."""
    with Receiver() as receiver:
        made = teller(f"http://crm.example.com:{receiver.port}", resolver=lambda *_: found)
        said = made.tell(f"http://crm.example.com:{receiver.port}/hook?token=hunter2")
        assert "leads to an address that is not public" in said
        (letter,) = made.letters()
        assert letter.reason == "webhook undelivered"
        assert not [word for word in ("hunter2", *found) if word in letter.message]
        assert receiver.connections == 0


def test_a_name_that_is_bound_anew_is_looked_up_once(teller):
    """DNS rebinding: what was checked is what is connected to, for there is no second look-up that could say otherwise."""
    asked = []
    answers = itertools.chain([["127.0.0.2"]], itertools.repeat(["127.0.0.1"]))

    def resolver(host, port):
        asked.append((host, port))
        return next(answers)

    with Receiver(host="127.0.0.2") as meant, Receiver(port=meant.port) as inside:
        made = teller(f"http://crm.example.com:{meant.port}=127.0.0.2/32", resolver=resolver)
        url = f"http://crm.example.com:{meant.port}/hook"
        assert made.tell(url) == "answered 204"
        assert asked == [("crm.example.com", meant.port)]
        assert meant.requests[0].headers["host"] == f"crm.example.com:{meant.port}"
        assert "not public" in made.tell(url)
        assert inside.connections == 0


def test_public_first_then_inside_is_refused_at_the_second_look():
    """Each delivery looks its host up for itself, so what was public once is no pass for later."""
    target = webhook_policy.check_url("https://crm.example.com/", "crm.example.com")
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])
    resolver = lambda *_: next(answers)  # noqa: E731
    assert dns.resolve(target, resolver) == "8.8.8.8"
    with pytest.raises(errors.WebhookRefused):
        dns.resolve(target, resolver)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(teller, status):
    """An allowed receiver cannot send us elsewhere."""
    with Receiver() as inside, Receiver(status, headers={"Location": f"{inside.url}"}) as receiver:
        made = teller(f"http://127.0.0.1:{receiver.port}, http://127.0.0.1:{inside.port}")
        assert f"answered {status}" in made.tell(receiver.url)
        assert inside.connections == 0
        assert len(made.letters()) == 1


def test_a_proxy_of_the_environment_is_not_used(teller, monkeypatch):
    """Variables that name a proxy change nothing: a proxy would resolve the name by itself."""
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert teller(f"http://127.0.0.1:{receiver.port}").tell(receiver.url) == "answered 204"
        assert proxy.connections == 0


def test_a_host_that_is_not_allowed_any_more_is_not_called(teller):
    """A URL that came into a record while it was allowed, or past the gateway, is checked again before it is called."""
    with Receiver() as receiver:
        for url in (receiver.url, "https://user:hunter2@crm.example.com/", "file:///etc/passwd", "gopher://x/\r\nEHLO"):
            made = teller("crm.example.com")
            assert "the webhook is refused" in made.tell(url)
        assert receiver.connections == 0
        assert not [letter for letter in made.letters() if "hunter2" in letter.message]


def test_no_url_makes_a_header_or_a_request_of_its_own(teller):
    """What would break a line in a request's head never gets there; what is escaped arrives as it was written."""
    with Receiver() as receiver:
        made = teller(f"http://127.0.0.1:{receiver.port}")
        for bad in ("/a\r\nX-Evil: 1", "/a\nb", "/a b", "/a\tb", "/\x7f", "/\u010a"):
            assert "the webhook is refused" in made.tell(receiver.url + bad)
        assert receiver.connections == 0
        assert made.tell(receiver.url + "/%0d%0aX-Evil:%201") == "answered 204"
        assert receiver.requests[0].path == "/hook/%0d%0aX-Evil:%201"
        assert "x-evil" not in receiver.requests[0].headers


def test_a_huge_answer_is_not_read(teller):
    """Of an answer that never ends no more than 64 KiB is taken; its status counts."""
    sent = []

    def endless():
        while True:
            sent.append(65536)
            yield bytes(65536)

    with Receiver(200, body=endless) as receiver:
        began = time.monotonic()
        assert teller(f"http://127.0.0.1:{receiver.port}").tell(receiver.url) == "answered 200"
        assert time.monotonic() - began < 10
        assert sum(sent) < 20_000_000  # what fits into the system's own buffers


def dripping():
    while True:
        time.sleep(0.05)
        yield b"x"


@pytest.fixture
def target():
    return lambda receiver: webhook_policy.check_url(receiver.url, f"http://127.0.0.1:{receiver.port}")


def test_a_receiver_that_drips_is_cut_off(target):
    """A byte now and then outlives every socket's timeout, but not the delivery's own: nothing takes longer than all of it may."""
    with Receiver(200, body=dripping) as receiver:
        began = time.monotonic()
        answer = http_post.post(
            target(receiver), "127.0.0.1", {}, b"{}", tls=ssl.create_default_context(), timeout_s=0.5
        )
        assert answer.status == 200
        assert 0.4 < time.monotonic() - began < 5


def test_a_head_that_drips_is_no_answer(target):
    """The same before the status has come: there was no answer."""
    with Receiver(
        before=lambda handler: [handler.wfile.write(part) for part in itertools.islice(dripping(), 120)]
    ) as receiver:
        began = time.monotonic()
        with pytest.raises(http_post.DeliveryError, match="timed out"):
            http_post.post(target(receiver), "127.0.0.1", {}, b"{}", tls=ssl.create_default_context(), timeout_s=0.5)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(("scheme", "why"), [("http", "timed out"), ("https", "timed out")])
def test_a_receiver_that_says_nothing_is_left(scheme, why):
    """One that accepts and never speaks, TLS or not, costs no more than the time that a delivery may take."""
    with Silent() as silent:
        address = f"{scheme}://127.0.0.1:{silent.port}"
        began = time.monotonic()
        with pytest.raises(http_post.DeliveryError, match=why):
            http_post.post(
                webhook_policy.check_url(address, address),
                "127.0.0.1",
                {},
                b"{}",
                tls=ssl.create_default_context(),
                timeout_s=0.5,
            )
        assert time.monotonic() - began < 5


def test_tls_is_checked_against_the_urls_own_name(tmp_path, teller):
    """We connect to an address, but the certificate must be the name's: one of another name, or one that nobody vouches for, ends it."""
    certificate = certificates.certificate(tmp_path, "DNS:crm.example.com")
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, tmp_path / "key.pem")
    tls = ssl.create_default_context(cafile=str(certificate))
    with Receiver(tls=own) as receiver:
        hosts = ", ".join(f"https://{name}.example.com:{receiver.port}=127.0.0.1" for name in ("crm", "other"))
        given = {"resolver": lambda *_: ["127.0.0.1"]}
        believing, others = teller(hosts, tls=tls, **given), teller(hosts, **given)
        assert believing.tell(f"https://crm.example.com:{receiver.port}/hook") == "answered 204"
        assert "certificate" in believing.tell(f"https://other.example.com:{receiver.port}/hook")
        assert "certificate" in others.tell(f"https://crm.example.com:{receiver.port}/hook")
        assert len(receiver.requests) == 1
        assert receiver.requests[0].headers["host"] == f"crm.example.com:{receiver.port}"


def test_a_receiver_that_refuses_or_is_unknown_is_called_again(teller):
    """No connection, and no such name, are reasons to wait, not to give up."""
    made = teller("http://127.0.0.1:9, crm.example.com", resolver=webhook_process.unknown_but_literal)
    assert "connection was refused; again in" in made.tell("http://127.0.0.1:9/x")
    assert "not known now; again in" in made.tell("https://crm.example.com/")
    assert made.letters() == []


def test_the_courier_needs_few_rights(redis_server):
    """By the rules that are deployed it tells receivers, tries again and keeps dead letters, but reads no queue, request or letter."""
    if redis_server.program.version < (7,):
        pytest.skip("this redis-server knows no rights to read alone (%R), which came with Redis 7")
    rules = [line for line in RULES.read_text().splitlines() if line and not line.startswith("#")]
    admin = redis_server.client()
    admin.execute_command("ACL", "SETUSER", "webhooks", "on", ">secret", *rules)
    url = redis_server.url.replace("redis://", "redis://webhooks:secret@")
    with (
        Receiver(500, 410, 204) as receiver,
        Jobs(redis_server.url) as jobs,
        WebhookProcess(url, f"http://127.0.0.1:{receiver.port}") as courier,
    ):
        jobs.end(receiver.url)
        webhook_process.wait_tried(admin, 1)
        webhook_process.pass_time(admin)
        waiting.until(lambda: admin.exists(keyspace.DEAD), timeout_s=5, what=lambda: courier.log)
        jobs.end(receiver.url)
        receiver.wait(3)
        assert courier.stop() == 0
        assert not [word for word in ("NOPERM", "o permissions", "Traceback") if word in courier.log], courier.log
    with redis.Redis.from_url(url) as asking:
        for command in (
            ("LRANGE", "mutirao.iris", 0, -1),
            ("RPOP", "mutirao.iris"),
            ("GET", keyspace.payload_key("x", "in")),
            ("SET", keyspace.record_key("x"), "x"),
            ("HGETALL", keyspace.DEAD),
            ("HGET", keyspace.DEAD, "x"),
            ("HGETALL", keyspace.KEYS),
            ("KEYS", "*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                asking.execute_command(*command)
