"""Each role's Redis user can do its work (the other tests), and is refused what is not its work (these)."""

import re

import pytest
import redis

from compose.stack import missing
from mutirao import Client, errors

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

# What Redis says to a command, and to one within a script.
REFUSAL = re.compile("^NOPERM|^ERR (ACL failure in script|The user executing the script can't)")
OPERATORS = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET requirepass",
    "CONFIG SET dir /tmp",
    "ACL LIST",
    "ACL SETUSER worker on nopass",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "FUNCTION LIST",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "MODULE LIST",
    "MONITOR",
    "REPLICAOF NO ONE",
    "SAVE",
    "SCRIPT FLUSH",
    "SHUTDOWN NOSAVE",
    "SWAPDB 0 1",
    "GET other",
    "SET other 1",
    "EVAL \"return redis.call('GET', KEYS[1])\" 1 other",
    "PUBLISH other x",
    "SUBSCRIBE other",
)
REFUSED = {
    "producer": (
        "RPOP mutirao.iris",
        "BRPOP mutirao.iris 1",
        "LRANGE mutirao.iris 0 -1",
        "EVAL \"return redis.call('RPOP', KEYS[1])\" 1 mutirao.iris",
        "HGETALL unacked",
        "HSET mutirao:models iris x",
        "HDEL mutirao:workers x",
        "PUBLISH /0.celery.pidbox shutdown",
        "PSUBSCRIBE celery-task-meta-*",
        "SUBSCRIBE /0.celeryev/task.multi",
        "SADD _kombu.binding.celery.pidbox x",
    ),
    "worker": ("SET celery x", "LPUSH celery x", "PSUBSCRIBE *", "SUBSCRIBE /1.celery.pidbox"),
    "webhooks": (
        "GET mutirao:payload:x:in",
        "SET celery-task-meta-x 1",
        "LRANGE mutirao.iris 0 -1",
        "LPUSH mutirao.iris x",
        "HGETALL mutirao:dead",
        "HGETALL mutirao:keys",
        "HGETALL mutirao:workers",
        "EVAL \"return redis.call('HGETALL', ARGV[1])\" 0 mutirao:dead",
    ),
    "flower": (
        "GET celery-task-meta-x",
        "SET celery-task-meta-x 1",
        "GET mutirao:payload:x:in",
        "LRANGE mutirao.iris 0 -1",
        "BRPOP mutirao.iris 1",
        "LPUSH mutirao.iris x",
        "DEL mutirao.iris",
        "HGETALL unacked",
        "HGETALL mutirao:models",
        "HSET mutirao:models iris x",
        "SUBSCRIBE celery-task-meta-x",
        "PUBLISH celery-task-meta-x 1",
        "EVAL \"return redis.call('DEL', KEYS[1])\" 1 mutirao.iris",
    ),
}


@pytest.mark.parametrize("role", REFUSED)
def test_a_role_is_refused_what_is_not_its_own(two_workers, role):
    """No role reads or writes beyond its keys and channels, takes another's part, or has an operator's commands."""
    stack = two_workers
    commands = OPERATORS + REFUSED[role]
    replies = stack.redis(role, *commands)
    stack.redis("admin", "ACL LOG RESET")
    served = [(command, reply) for command, reply in zip(commands, replies, strict=True) if not REFUSAL.search(reply)]
    assert served == []


def test_nobody_comes_in_without_a_password(two_workers):
    """Without a user, as the default user, or with another's password, Redis answers nothing."""
    stack = two_workers
    with redis.Redis(port=stack.redis_port) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()
    for user, password in (
        ("default", ""),
        ("default", "x"),
        ("admin", stack.passwords["MUTIRAO_REDIS_WORKER_PASSWORD"]),
    ):
        with (
            redis.Redis(port=stack.redis_port, username=user, password=password) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
    stack.redis("admin", "ACL LOG RESET")


def test_a_wrong_password_is_told_to_the_producer(two_workers):
    """The client's error says what to check, and does not show the password."""
    with (
        Client(f"redis://producer:wrong@127.0.0.1:{two_workers.redis_port}/0") as client,
        pytest.raises(errors.BrokerUnavailable) as raised,
    ):
        client.models()
    two_workers.redis("admin", "ACL LOG RESET")
    assert "check the user and password in MUTIRAO_BROKER_URL" in str(raised.value)
    assert "wrong" not in str(raised.value).replace("WRONGPASS", "")
