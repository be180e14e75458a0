"""API keys: what scopes allow, what a token is, and what is kept of it."""

import hashlib
import re
import sys

import pytest

from mutirao import api_keys, errors, keyspace
from mutirao.api_keys import ApiKey, KeyLimits
from support.blocking_keys import BlockingKeys
from support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


@pytest.fixture
def ring(server):
    """A Redis without keys."""
    server.client().flushall()
    with BlockingKeys(server.url) as made:
        yield made


@pytest.mark.parametrize(
    ("scopes", "verb", "model", "allowed"),
    [
        (api_keys.SCOPES, "predict", "iris", True),
        (api_keys.SCOPES, "read", "", True),
        (api_keys.SCOPES, "cancel", "iris", True),
        (api_keys.SCOPES, "operate", "", False),
        (["predict:iris"], "predict", "iris", True),
        (["predict:iris"], "predict", "houses", False),
        (["predict:iris"], "predict", "iris2", False),
        (["predict:iris"], "predict", "", False),
        (["predict:iris"], "predict", "*", False),
        (["predict:iris"], "read", "iris", False),
        (["*:iris"], "cancel", "iris", True),
        (["*:iris"], "operate", "", False),
        (["operate:*"], "operate", "", True),
        (["operate:*"], "predict", "iris", False),
        (["*:*"], "operate", "", True),
        ([], "read", "iris", False),
    ],
)
def test_scopes_allow_what_they_name_and_nothing_beside_it(scopes, verb, model, allowed):
    """A scope allows one verb on one model, or, by *, on all; the system as a whole is covered by * alone."""
    assert api_keys.allows(scopes, verb, model) is allowed


@pytest.mark.parametrize("text", ["*:*", "predict:iris", "read:*", "*:iris-2.1"])
def test_scopes_are_verb_and_model(text):
    """verb:model, either of which may be *."""
    assert api_keys.scope(text) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "scope '' is not allowed: write verb:model"),
        ("predict", "scope 'predict' is not allowed: write verb:model"),
        ("predit:iris", "scope 'predit:iris' is not allowed: write verb:model, such as predict:iris"),
        (":iris", "scope ':iris' is not allowed"),
        ("predict:", "model name '' is not allowed"),
        ("read:Iris", "model name 'Iris' is not allowed"),
        ("read:../x", "model name '../x' is not allowed"),
        ("predict:iris*", "model name 'iris*' is not allowed"),
    ],
)
def test_a_scope_that_would_allow_nothing_is_refused(text, says):
    """A verb that is none, or a name that no model can have, is refused with what it must be."""
    with pytest.raises(errors.InvalidRequest, match=re.escape(says)):
        api_keys.scope(text)


def test_a_key_is_found_by_its_token_alone(ring):
    """What `add` returns finds the key; with another secret, id, case or a byte more it finds none."""
    first, token = ring.add("crm", scopes=["predict:iris", "predict:iris"], note="the shop")
    second, other = ring.add("web")
    known = ring.all()
    assert re.fullmatch(rf"mutirao_{first.id}_[A-Za-z0-9_-]{{43}}", token)
    assert known == {first.id: first, second.id: second}
    assert (first.tenant, first.scopes, first.note, first.limits) == ("crm", ("predict:iris",), "the shop", None)
    assert api_keys.find_by_token(known, token) == first
    assert api_keys.find_by_token(known, other) == second
    swapped = f"mutirao_{first.id}_{other[-43:]}"
    unknown = f"mutirao_{'0' * 12}_{token[-43:]}"
    for wrong in (swapped, unknown, token[:-1], f"{token}x", token.upper(), token[8:], f"{token}\n", "", "é\udc80"):
        assert api_keys.find_by_token(known, wrong) is None


def test_whatever_is_wrong_with_a_token_the_same_is_done(ring):
    """A good token, a wrong secret, an unknown id and no token at all cost one hash and one constant-time comparison each."""
    key, token = ring.add("crm")
    known = ring.all()

    def done(token):
        called = []
        sys.setprofile(lambda _frame, event, function: called.append(function.__name__) if event == "c_call" else None)
        try:
            api_keys.find_by_token(known, token)
        finally:
            sys.setprofile(None)
        return [name for name in called if "sha256" in name or "digest" in name]

    good = done(token)
    assert good == ["openssl_sha256", "hexdigest", "compare_digest"]
    for wrong in (f"mutirao_{key.id}_{'x' * 43}", f"mutirao_{'0' * 12}_{'x' * 43}", "nonsense", ""):
        assert done(wrong) == good


def test_redis_keeps_the_hash_of_the_secret_alone(redis_server):
    """Nothing that Redis writes to its disk, all it holds, has the secret in it; its SHA-256 is there."""
    client, ring = redis_server.client(), BlockingKeys(redis_server.url)
    client.config_set("rdbcompression", "no")
    key, token = ring.add("crm")
    ring.close()
    secret = token[-43:]
    client.shutdown(save=True)
    redis_server.process.wait()
    written = b"".join(path.read_bytes() for path in redis_server.folder.rglob("*") if path.is_file())
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in written
    assert key.id.encode() in written
    assert secret.encode() not in written
    assert secret not in repr(key) + str(key)


def test_revoked_keys_stay_listed(ring):
    """A revoked key is there, with the moment of its end, which a second revocation does not move."""
    key, token = ring.add("crm")
    assert (ring.any(), key.revoked_at) == (True, None)
    revoked = ring.revoke(key.id)
    assert revoked.revoked_at >= key.created_at > 1.7e9
    assert ring.revoke(token) == revoked  # whoever finds a token may revoke it as it is
    assert api_keys.find_by_token(ring.all(), token) == revoked


def test_no_key_of_this_id(ring):
    """An unknown id is named, with where to look; of a mistyped token no more than its id is shown."""
    assert (ring.any(), ring.all()) == (False, {})
    with pytest.raises(errors.KeyNotFound, match="no API key 'nope': mutirao keys list"):
        ring.revoke("nope")
    with pytest.raises(errors.KeyNotFound) as raised:
        ring.find("mutirao_0123_secret")
    assert "secret" not in f"{raised.value} {raised.value!r}"


def test_a_record_that_cannot_be_read_is_a_key_that_is_refused(ring, server):
    """Damage in one record neither opens the gateway nor closes it to the others."""
    _, token = ring.add("crm")
    server.client().hset(keyspace.KEYS, "bad", "{")
    known = ring.all()
    assert known["bad"].revoked_at is not None
    assert (found := api_keys.find_by_token(known, token)) is not None
    assert found.tenant == "crm"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tenant": "CRM"}, "tenant 'CRM' is not allowed"),
        ({"scopes": ["fly:iris"]}, "scope 'fly:iris' is not allowed"),
        ({"limits": KeyLimits(rate_per_s=0)}, "rate_per_s 0 is not allowed: it must be more than 0"),
        ({"limits": KeyLimits(rate_per_s=float("nan"))}, "rate_per_s nan is not allowed"),
        ({"limits": KeyLimits(rate_per_s=1, burst=0)}, "burst 0 is not allowed: it must be 1 or more"),
        ({"limits": KeyLimits(in_flight=10_001)}, "in_flight 10001 is not allowed: it must be 1 to 10,000"),
        ({"note": "two\nlines"}, "it must be one line"),
    ],
)
def test_what_cannot_be_a_key(ring, given, says):
    """A tenant, scope, limit or note that cannot be used is refused with its value, and nothing is kept."""
    with pytest.raises(errors.InvalidRequest, match=re.escape(says)):
        ring.add(**({"tenant": "crm"} | given))
    assert not ring.any()


def test_a_key_without_limits_says_so():
    """None, so that nobody asks Redis on its account; otherwise the limits with their burst."""
    assert ApiKey(id="a", digest="", tenant="crm").limits is None
    assert ApiKey(id="a", digest="", tenant="crm", in_flight=3).limits == KeyLimits(in_flight=3)
    assert ApiKey(id="a", digest="", tenant="crm", rate_per_s=2.0, burst=5).limits == KeyLimits(rate_per_s=2.0, burst=5)
