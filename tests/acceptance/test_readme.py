"""What the README and the docs show is run as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutirao import settings
from support.redis_servers import RedisServer
from support.waiting import until

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Where `mutirao up` has it, unless another program listens there.
GATEWAY = "http://127.0.0.1:8000"
AWAY = "redis://127.0.0.1:1/0"
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py") if path.name != "fit_iris.py")


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def _asking(path: Path) -> list[str]:
    """The blocks of a page that ask the gateway of `mutirao up`."""
    return [block for block in blocks(path, "bash") if f"curl -s {GATEWAY}" in block or f'curl -s "{GATEWAY}' in block]


CURLS = [path for path in DOCS if _asking(path)]


def newcomers() -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MUTIRAO_")}


def run(command: list[str], folder: Path, **env: str) -> str:
    place = {**newcomers(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env}
    done = subprocess.run(command, cwd=folder, env=place, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where a newcomer typed the README's first commands, the last of which still runs."""
    folder = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(ROOT / "examples", folder / "examples")
    *first, up = [line for line in blocks(ROOT / "README.md", "bash")[1].splitlines() if line]
    for line in first:
        run(["bash", "-ec", line], folder)
    assert up.startswith("mutirao up ")
    with (folder / "up.log").open("wb") as log:
        system = subprocess.Popen(
            [sys.executable, "-m", "mutirao", "up", "--concurrency", "1", "--flower-port", "5599"],
            cwd=folder,
            env=newcomers(),
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: "mutirão is up" in (folder / "up.log").read_text() or system.poll() is not None, timeout_s=90)
        assert system.poll() is None, (folder / "up.log").read_text()
        yield folder
    finally:
        system.terminate()
        system.wait(60)


def test_the_commands_for_the_other_terminal_work_as_printed(folder: Path) -> None:
    """The README's commands beside `mutirao up` find it without an address, and answer."""
    (commands,) = [block for block in blocks(ROOT / "README.md", "bash") if "mutirao submit" in block]
    said = run(["bash", "-ec", commands], folder)
    assert "succeeded" in said


def test_the_commands_for_when_things_go_wrong_work_as_printed(folder: Path) -> None:
    """The README's way to look into a request, and to send again what was given up, is as it says, though nothing was."""
    submits, explains = (
        next(block for block in blocks(ROOT / "README.md", "bash") if f"mutirao {verb} " in block)
        for verb in ("submit", "explain")
    )
    run(["bash", "-ec", submits], folder)
    said = run(["bash", "-ec", explains], folder)
    assert "committed" in said


@pytest.mark.parametrize("path", CURLS, ids=lambda path: path.name)
def test_curl_lines_in_the_docs_run(folder: Path, path: Path) -> None:
    """Every line of a page that asks the gateway is answered, and none by a failure of the gateway."""
    address = json.loads((folder / ".mutirao" / "up.json").read_text())["gateway_url"]
    for block in _asking(path):
        said = run(["bash", "-euo", "pipefail", "-c", block.replace(GATEWAY, address)], folder)
        assert said.strip()
        assert not re.search(
            r'"type":"(IdTaken|InternalError|InvalidRequest|KeyReused|MethodNotAllowed|NotFound|UnsupportedMedia)"',
            said,
        )


@pytest.mark.parametrize("path", [path for path in DOCS if blocks(path, "python")], ids=lambda path: path.name)
def test_python_in_the_docs_runs(folder: Path, path: Path) -> None:
    """Every Python block of a page runs, one after another, with the README's model, where `mutirao env` was evaluated."""
    program = "\n".join(blocks(path, "python"))
    run(["bash", "-ec", 'eval "$(mutirao env)"; exec "$0" -W error -c "$1"', sys.executable, program], folder)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(folder: Path, name: str) -> None:
    """Every example runs as a newcomer would run it, and says something."""
    url = settings.load({}, home=str(folder / ".mutirao")).broker_url
    assert run([sys.executable, f"examples/{name}"], folder, MUTIRAO_BROKER_URL=url).strip()


@pytest.mark.parametrize(
    ("name", "url", "says"),
    [
        ("stock_celery.py", None, 'MUTIRAO_BROKER_URL is not set: eval "$(mutirao env)"'),
        ("submit_many.py", AWAY, "try mutirao doctor"),
        ("submit_many.py", "", "model 'iris'"),
        ("asyncio_client.py", AWAY, "try mutirao doctor"),
        ("asyncio_client.py", "", "model 'iris'"),
    ],
)
def test_examples_say_what_is_missing(
    redis_server: RedisServer, tmp_path: Path, name: str, url: str | None, says: str
) -> None:
    """Without Redis, or without the model, an example ends with one line that names the remedy."""
    env = newcomers() | ({} if url is None else {"MUTIRAO_BROKER_URL": url or redis_server.url})
    command = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert says in done.stderr


def test_every_link_of_the_pages_leads_somewhere() -> None:
    """A page links to no file that is not there."""
    links = [(path, link) for path in DOCS for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())]
    assert len(links) > len(DOCS)
    assert [f"{path.name} links to {link}" for path, link in links if not (path.parent / link).exists()] == []
