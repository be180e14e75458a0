"""`mutirao keys`, as an operator meets it: what is printed once, what never, and how a gateway starts with keys and without."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mutirao import keyspace
from mutirao.cli.console import Exit
from support import waiting
from support.command_line import CommandLine
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer

pytestmark = pytest.mark.executed

COMMAND = str(Path(sys.executable).parent / "mutirao")
TOKEN = r"mutirao_[0-9a-f]{12}_[A-Za-z0-9_-]{43}"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path, server):
    """A command line, and a Redis without keys."""
    server.client().flushall()
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys, monkeypatch).at(server.url)


def test_a_key_is_printed_once_and_never_again(shell, server):
    """add prints the token alone on stdout, and says beside it that this was the only time; list shows neither it nor its hash."""
    code, out, err = shell.run("keys", "add", "crm", "--note", "the shop")
    assert (code, bool(re.fullmatch(TOKEN + "\n", out))) == (0, True)
    id = out.split("_")[1]
    assert err == f"key {id} of tenant 'crm': keep it now, it will not be shown again\n"
    listed = shell.says("keys", "list")
    assert re.search(rf"{id}\tcrm\tpredict:\* read:\* cancel:\*.*\tthe shop", listed)
    digest = re.search(rb'"digest":"(\w+)"', server.client().hget(keyspace.KEYS, id))
    assert digest is not None
    for hidden in (out.split("_", 2)[2].strip(), digest[1].decode()):
        assert hidden not in listed + str(shell.json("keys", "list"))


def test_keys_for_scripts(shell):
    """--json prints one document a key: the token with `add` alone; times in seconds, null for what there is not."""
    args = ("--scope", "predict:iris", "--scope", "read:*", "--rate", "30/min", "--burst", 5, "--in-flight", 100)
    (added,) = shell.json("keys", "add", "crm", *args)
    assert re.fullmatch(TOKEN, added.pop("token"))
    assert shell.json("keys", "list") == [added]
    assert added == {
        "id": added["id"],
        "tenant": "crm",
        "scopes": ["predict:iris", "read:*"],
        "rate_per_s": 0.5,
        "burst": 5,
        "in_flight": 100,
        "created_at": added["created_at"],
        "revoked_at": None,
        "note": None,
    }
    (plain,) = shell.json("keys", "add", "web")
    assert (plain["rate_per_s"], plain["burst"], plain["in_flight"]) == (None, None, None)
    assert [key["tenant"] for key in shell.json("keys", "list")] == ["crm", "web"]  # the newest last


@pytest.mark.parametrize(
    ("rate", "per_s", "burst"), [("100/s", 100.0, 100), ("0.5/s", 0.5, 1), ("30/min", 0.5, 1), ("7200/h", 2.0, 2)]
)
def test_rates_are_written_as_people_say_them(shell, rate, per_s, burst):
    """In a second, a minute or an hour; at once may come what is allowed in a second, and one at least."""
    (added,) = shell.json("keys", "add", "crm", "--rate", rate)
    assert (added["rate_per_s"], added["burst"]) == (per_s, burst)
    assert f"{per_s:g}/s, {burst} at once" in shell.says("keys", "list")


def test_revoked_keys_stay_in_the_list(shell):
    """revoke names what it revoked; the list shows since when; an unknown id is said with exit code 3, and the others are revoked."""
    ids = [shell.json("keys", "add", "crm")[0]["id"] for _ in range(2)]
    (good,) = shell.json("keys", "add", "web")
    code, out, err = shell.run("keys", "revoke", ids[0], "nope", ids[1])
    assert (code, out.splitlines()) == (Exit.NOT_FOUND, [f"revoked {id} of tenant 'crm'" for id in ids])
    assert err == "error: there is no API key 'nope': mutirao keys list shows all there are, also revoked ones\n"
    code, out, err = shell.run("keys", "revoke", "web")
    assert (code, out) == (Exit.NOT_FOUND, "")
    assert (
        err == f"error: there is no API key 'web': a key goes by its id, and those of tenant 'web' are {good['id']}\n"
    )
    listed = shell.json("keys", "list")
    assert [key["id"] for key in listed] == [*ids, good["id"]]
    assert all(key["revoked_at"] >= key["created_at"] for key in listed[:2])
    assert shell.json("keys", "revoke", ids[0]) == listed[:1]


def test_a_token_that_was_found_somewhere_revokes_itself(shell):
    """revoke takes a whole token in the place of its id, and does not print it."""
    shell.run("keys", "add", "web")
    token = shell.run("keys", "add", "crm")[1].strip()
    assert shell.says("keys", "revoke", token) == f"revoked {token.split('_')[1]} of tenant 'crm'\n"
    wrong = shell.run("keys", "revoke", token.replace("mutirao_", "mutirao_0"))
    assert wrong[0] == Exit.NOT_FOUND
    assert token[-43:] not in str(wrong)


def test_where_every_key_is_revoked_the_way_back_is_said(shell):
    """Revoking the last good key, and the list, name the commands that let somebody in; clear removes revoked keys alone."""
    ids = [shell.json("keys", "add", "crm")[0]["id"] for _ in range(2)]
    assert shell.run("keys", "revoke", ids[0])[2] == ""
    code, _, err = shell.run("keys", "clear")
    assert (code, f"mutirao keys revoke {ids[1]}" in err) == (2, True)
    says = "every key is revoked, so the gateway lets nobody in: make one with mutirao keys add TENANT, or open it to this machine again with mutirao keys clear and a restart of the gateway"
    for command in (("revoke", ids[1]), ("list",)):
        assert " ".join(shell.run("keys", *command)[2].split()) == says
    code, out, err = shell.run("doctor")
    assert says.partition(": ")[2] in " ".join(f"{out}{err}".split())
    assert (
        shell.says("keys", "clear") == "removed 2 revoked keys; restart the gateway: it is then open to this machine\n"
    )
    assert shell.json("keys", "list") == []


def test_no_keys_is_said(shell):
    """Where there are none, the list says what that means."""
    assert shell.run("keys", "list") == (
        0,
        "",
        "no keys: a gateway that starts now needs none, and listens to this machine only\n",
    )
    assert shell.json("keys", "list", "--broker-url", os.environ["MUTIRAO_BROKER_URL"]) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["add"], "Missing argument 'TENANT'."),
        (["add", "CRM"], "tenant 'CRM' is not allowed: it must be 1 to 64 of a-z 0-9"),
        (["add", "crm", "--scope", "fly:iris"], "scope 'fly:iris' is not allowed: write verb:model, such as predict:iris"),
        (["add", "crm", "--rate", "fast"], "'fast' is not a rate: write it as 100/s, 30/min or 5000/h."),
        (["add", "crm", "--rate", "0/s"], "rate_per_s 0.0 is not allowed: it must be more than 0"),
        (["add", "crm", "--burst", "5"], "--burst is how much of a rate may come at once: name it with --rate."),
        (["add", "crm", "--in-flight", "0"], "0 is not in the range 1<=x<=10000"),
        (["revoke"], "Missing argument 'ID...'."),
    ],
)  # fmt: skip
def test_misuse(shell, server, args, says):
    """What cannot be a key is refused in one line with its value and what to write, and nothing is kept."""
    code, out, err = shell.run("keys", *args)
    assert (code, out, err.count("\n")) == (Exit.USAGE, "", 1)
    assert says in err
    assert not server.client().exists(keyspace.KEYS)


def test_ids_complete(shell, server):
    """`keys revoke <TAB>` offers the keys that are good."""
    good, gone = (shell.json("keys", "add", "crm")[0]["id"] for _ in range(2))
    shell.says("keys", "revoke", gone)
    env = {**os.environ, "_MUTIRAO_COMPLETE": "bash_complete", "COMP_WORDS": "mutirao keys revoke ", "COMP_CWORD": "3"}
    done = subprocess.run([COMMAND], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"plain,{good}"]


def test_a_gateway_that_others_reach_starts_with_keys_alone(shell, server):
    """Beyond loopback `mutirao gateway` refuses to start while there are no keys, and says how to make one; with one it asks for it."""
    code, out, err = shell.run("gateway", "--host", "0.0.0.0", "--port", 0)
    assert (code, out, err.count("\n")) == (Exit.USAGE, "", 1)
    assert "MUTIRAO_GATEWAY_HOST is '0.0.0.0': a gateway that others reach needs API keys" in err
    assert "mutirao keys add TENANT" in err
    token = shell.run("keys", "add", "crm")[1].strip()
    with GatewayProcess(server.url, gateway_host="0.0.0.0") as gateway, gateway.client() as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_the_first_key_closes_a_gateway_that_runs(shell, server):
    """A gateway that was open asks for a key within about a second of the first one, without being started again."""
    with GatewayProcess(server.url) as gateway, gateway.client() as client:
        assert client.get("/v1/models").status_code == 200
        shell.run("keys", "add", "crm")
        waiting.until(lambda: client.get("/v1/models").status_code == 401, timeout_s=5)


def test_the_commands_of_the_page_work_as_printed(shell):
    """docs/keys.md: each `mutirao keys` line runs; the id of its example stands for a real one."""
    page = (Path(__file__).parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")
    lines = re.findall(r"^mutirao (keys [^#\n]*)", page, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        real = shell.json("keys", "list")[:1]
        code, _, err = shell.run(*shlex.split(line.replace("5f0c9a1be2d4", real[0]["id"] if real else "")))
        assert code == 0, err
    assert [key["revoked_at"] is None for key in shell.json("keys", "list")] == [False, True, True]
