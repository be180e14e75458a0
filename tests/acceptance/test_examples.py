"""The examples from life run as their READMEs print them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from mutirao import Client, InvalidInput
from mutirao.cli import main
from support import brokers, waiting
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.webhook_process import SECRET, WebhookProcess
from support.worker_process import WorkerProcess

pytestmark = brokers.redis_only

ROOT = Path(__file__).parents[2]
PRINTED_GATEWAY, PRINTED_PORT = "http://127.0.0.1:8000", "9000"
DIGITS_LACKS = [name for name in ("onnxruntime", "skl2onnx", "PIL") if util.find_spec(name) is None]
VOICE_LACKS = [name for name in ("pocketsphinx",) if util.find_spec(name) is None]
VOICE_LACKS += [name for name in ("espeak-ng",) if shutil.which(name) is None]
with_digits = pytest.mark.skipif(bool(DIGITS_LACKS), reason=f"not installed: {', '.join(DIGITS_LACKS)}")
with_voice = pytest.mark.skipif(bool(VOICE_LACKS), reason=f"not installed: {', '.join(VOICE_LACKS)}")


class Place(NamedTuple):
    """The folder where the examples were added, and the processes that serve them."""

    folder: Path
    broker_url: str
    gateway_url: str
    hook_port: int
    api_key: str

    def type(self, lines: str) -> str:
        """Type lines of a README; return what is printed. The gateway has a key, so that curl needs it."""
        keyed = (
            lines
            if "Authorization" in lines
            else lines.replace("curl ", 'curl -H "Authorization: Bearer $MUTIRAO_API_KEY" ')
        )
        return run(["bash", "-euo", "pipefail", "-c", self.here(keyed)], **self.env)

    def here(self, text: str) -> str:
        """Return what a README prints, with the addresses of these processes."""
        return text.replace(PRINTED_GATEWAY, self.gateway_url).replace(PRINTED_PORT, str(self.hook_port))

    @property
    def env(self) -> dict[str, str]:
        return {
            "cwd": str(self.folder),
            "MUTIRAO_BROKER_URL": self.broker_url,
            "MUTIRAO_API_KEY": self.api_key,
            "MUTIRAO_WEBHOOK_SECRET": SECRET,
        }


def blocks(example: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    page = (ROOT / "examples" / example / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(command: list[str], *, cwd: str, **env: str) -> str:
    place = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env}
    done = subprocess.run(command, cwd=cwd, env=place, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def type_here(words: list[str], folder: Path) -> None:
    """Type a line; mutirao and Python run in this process, which has most of what they import."""
    if words[0] not in ("mutirao", "python"):
        run(words, cwd=str(folder))
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", words)
        if words[0] == "mutirao":
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
            return
        patch.setattr(sys, "path", [str((folder / words[1]).parent), *sys.path])
        patch.delitem(sys.modules, "clean", raising=False)
        runpy.run_path(words[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """What the READMEs print up to `mutirao up`, and in its place a worker, a gateway and webhooks."""
    folder = tmp_path_factory.mktemp("life")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    lacks = {"clean_text": [], "digits": DIGITS_LACKS, "voice_notes": VOICE_LACKS}
    for example in (name for name, lacking in lacks.items() if not lacking):
        for line in blocks(example, "bash")[0].splitlines():
            type_here(shlex.split(line, comments=True), folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        hook_port = free.getsockname()[1]
    hosts = f"http://127.0.0.1:{hook_port}"
    with RedisServer() as server, contextlib.ExitStack() as processes:
        prints_key = blocks("voice_notes", "bash")[1] + "echo $MUTIRAO_API_KEY"
        key = run(["bash", "-ec", prints_key], cwd=str(folder), MUTIRAO_BROKER_URL=server.url).strip()
        processes.enter_context(WorkerProcess(server.url, folder / "models"))
        processes.enter_context(WebhookProcess(server.url, hosts))
        gateway = processes.enter_context(GatewayProcess(server.url, webhook_hosts=hosts))
        yield Place(folder, server.url, gateway.url, hook_port, key)


@pytest.fixture
def voice() -> ModuleType:
    """The module model.py of the voice notes."""
    spec = util.spec_from_file_location("voice_notes_model", ROOT / "examples" / "voice_notes" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_text_is_cleaned_and_answered_with_names(place: Place) -> None:
    """A cleaning function, two pickles and the labels' names are one model, which names the subjects of messages."""
    assert re.findall("delivery|invoice|account", place.type(blocks("clean_text", "bash")[1])) == [
        "delivery",
        "invoice",
    ]


@with_digits
def test_a_png_is_answered_with_the_digits_name(place: Place) -> None:
    """The line of curl sends an image as it is, and gets the digit's name and a probability."""
    outputs = {
        output["name"]: output["data"] for output in json.loads(place.type(blocks("digits", "bash")[1]))["outputs"]
    }
    assert outputs["digit"] == ["three"]
    assert 0.5 < outputs["probability"][0] <= 1
    (program,) = blocks("digits", "python")
    assert run([sys.executable, "-W", "error", "-c", program], **place.env).count("three") == 2


@with_digits
def test_images_that_were_not_learned_are_named_and_what_is_no_image_is_refused(place: Place) -> None:
    """Nine of ten of the digits that were not fitted are named right, on paper or on a blackboard; bytes that are no PNG are refused."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = []
    for at, image in enumerate(digits.images[1_500:]):
        ink = (image * (255 / 16)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(255 - ink if at % 2 else ink).resize((40, 40)).save(file, "PNG")
        images.append(file.getvalue())
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    with Client(place.broker_url) as client:
        answer = client.predict("digits", images, outputs=["digit"], timeout=30)
        assert (answer["digit"] == names[digits.target[1_500:]]).mean() >= 0.9
        with pytest.raises(InvalidInput, match="the image is no PNG: convert it"):
            client.predict("digits", [b"GIF89a"], timeout=30)


@with_voice
def test_a_crm_sends_a_note_and_its_webhook_leads_to_the_text(place: Place) -> None:
    """The CRM's program gets one event, verified, for the note that curl sent with its key, and prints a line for each phrase."""
    program, *_ = blocks("voice_notes", "python")
    command, env = [sys.executable, "-u", "-c", place.here(program)], {**os.environ, **place.env}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as crm:
        waiting.until(lambda: any(each.status == "LISTEN" for each in psutil.Process(crm.pid).net_connections()))
        job = json.loads(place.type(blocks("voice_notes", "bash")[2]))
        printed, _ = crm.communicate(timeout=60)
    event, end = json.JSONDecoder().raw_decode(printed)
    assert (event["type"], event["data"]["id"]) == ("job.succeeded", job["id"]), printed
    (text,) = blocks("voice_notes", "text")
    assert printed[end:].strip() == text.strip()


@with_voice
def test_a_note_that_is_no_wav_is_refused_with_its_reason(place: Place) -> None:
    """The client of a bad note gets the sentence of model.py, as its own error."""
    with (
        Client(place.broker_url) as client,
        pytest.raises(InvalidInput, match=r"the note is no WAV of plain samples \(.*\): convert it"),
    ):
        client.predict("voice_notes", [b"ID3 of an MP3"], timeout=30)


@with_voice
@pytest.mark.parametrize(
    ("seconds", "rate", "width", "says"),
    [
        (1, 16_000, 1, "samples of 8 bits"),
        (1, 4_000, 2, "4,000 samples a second"),
        (121, 8_000, 2, "longer than 120 s"),
    ],
)
def test_notes_of_other_forms_are_refused(voice: ModuleType, seconds: int, rate: int, width: int, says: str) -> None:
    """What the acoustic model was not made for is refused by its form, before anything is decoded."""
    with pytest.raises(InvalidInput, match=says):
        voice.samples(wav(bytes(seconds * rate * width), rate=rate, width=width))


@with_voice
def test_notes_are_cut_at_pauses(voice: ModuleType) -> None:
    """Two tones with a second between them are two phrases, two with a fifth of one are one; silence is none."""
    rate = 44_100
    tone = (8_000 * np.sin(np.arange(rate // 2) / 10)).astype("<i2")

    def pause(seconds: float) -> np.ndarray:
        return np.zeros(int(rate * seconds), "<i2")

    for between, phrases in ((1.0, 2), (0.2, 1)):
        note = np.concatenate([pause(0.5), tone, pause(between), tone, pause(0.5)])
        assert len(voice.phrases(voice.samples(wav(note.tobytes(), rate=rate)))) == phrases
    assert voice.phrases(voice.samples(wav(pause(3).tobytes(), rate=rate))) == []


def wav(content: bytes, *, rate: int, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(content)
    return file.getvalue()
