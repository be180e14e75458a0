"""What `mutirao up` prints, and refuses."""

from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner

from mutirao.cli import up
from mutirao.registry import Registry
from mutirao.settings import Settings


def test_each_port_that_moved_is_named_below_its_address():
    """The usual port that was taken stands below what listens elsewhere now: the gateway's below the console, Flower's below Flower."""
    console, flower = "http://127.0.0.1:4001", "http://127.0.0.1:4002"
    system: Any = SimpleNamespace(
        fleet=lambda: Registry({}, ()),
        server=SimpleNamespace(port=4000),
        binary="Valkey",
        settings=Settings(),
        gateway_url=console,
        flower_url=flower,
        flower_user="mutirao",
        flower_password="x",
        moved_from={console: 8000, flower: 5555},
        home=SimpleNamespace(logs="log"),
        pids={},
    )
    lines = [f"{what}: {text}" for what, text in up._parts(system)]
    for name, port, url in (("Console", 8000, console), ("Flower", 5555, flower)):
        at = next(index for index, line in enumerate(lines) if line.startswith(name))
        assert lines[at + 1] == f": port {port} is another program's here: use {url}"


def test_a_port_that_is_refused_names_the_variable_that_it_may_come_from(monkeypatch):
    """A port that the environment has wrong is refused by the variable's name."""
    monkeypatch.setenv("MUTIRAO_GATEWAY_PORT", "abc")
    refused = CliRunner().invoke(up.up, [])
    assert refused.exit_code == 2
    assert "MUTIRAO_GATEWAY_PORT" in refused.output
    assert "'abc' is not a whole number" in refused.output or "'abc' is not a valid integer" in refused.output
