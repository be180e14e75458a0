"""The job commands and doctor as people and scripts meet them: real processes, what they print, their exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mutirao import Client, keyspace
from mutirao.cli import main
from mutirao.cli.console import Exit
from support import sample_models, waiting
from support.blocking_keys import BlockingKeys
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

COMMAND = str(Path(sys.executable).parent / "mutirao")
ROW = "[[5.1, 3.5, 1.4, 0.2]]"
UNKNOWN = keyspace.new_id()


class Shell:
    """Runs `mutirao` in a folder, with a broker of its own."""

    def __init__(self, url, folder):
        self.url = url
        self.folder = folder

    def start(self, *args, **given):
        env = {**os.environ, "MUTIRAO_BROKER_URL": self.url, "MUTIRAO_MODELS": str(self.folder / "none")}
        command = [COMMAND, *map(str, args)]
        return subprocess.Popen(
            command, cwd=self.folder, env=env, text=True, **{"stdin": -1, "stdout": -1, "stderr": -1, **given}
        )

    def run(self, *args, stdin=""):
        """Exit code, stdout, stderr."""
        process = self.start(*args)
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out, err

    def says(self, *args, stdin=""):
        code, out, err = self.run(*args, stdin=stdin)
        assert (code, err) == (0, "")
        return out

    def json(self, *args, stdin=""):
        return json.loads(self.says(*args, "--json", stdin=stdin))

    def refused(self, *args):
        """Exit code, and the one line of the error."""
        code, out, err = self.run(*args)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return code, err


class Inside(Shell):
    """The same without a new interpreter for each command, which is what most of the time goes to."""

    def __init__(self, url, folder, capsys, monkeypatch):
        super().__init__(url, folder)
        self._capsys = capsys
        self._patch = monkeypatch
        monkeypatch.setenv("MUTIRAO_BROKER_URL", url)
        monkeypatch.chdir(folder)

    def run(self, *args, stdin=""):
        assert not stdin
        self._patch.setattr(sys, "argv", ["mutirao", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err


@pytest.fixture
def shell(fleet, tmp_path):
    return Shell(fleet.url, tmp_path)


@pytest.fixture
def inside(fleet, tmp_path, capsys, monkeypatch):
    return Inside(fleet.url, tmp_path, capsys, monkeypatch)


@pytest.fixture
def deserted(redis_server, fleet, tmp_path, capsys, monkeypatch):
    """A Redis that knows the models, but where no worker lives."""
    with fleet.server.client() as source:
        redis_server.client().hset(keyspace.MODELS, mapping=source.hgetall(keyspace.MODELS))
    return Inside(redis_server.url, tmp_path, capsys, monkeypatch)


def test_a_prediction_from_each_kind_of_file(shell):
    """CSV with and without a header, .npy, JSON in a file and on standard input: all give the model's own answer."""
    sample, houses = sample_models.get("iris"), sample_models.get("houses")
    rows = sample.data[:5]
    np.save(shell.folder / "rows.npy", rows)
    np.savetxt(shell.folder / "bare.csv", rows, delimiter=",")
    (shell.folder / "rows.json").write_text(
        json.dumps({"inputs": [{"name": "X", "datatype": "FP64", "shape": [5, 4], "data": rows.tolist()}]})
    )
    houses.data[:5].to_csv(shell.folder / "houses.csv", index=False)
    for data in ("rows.npy", "bare.csv", "@rows.json"):
        outputs = shell.json("predict", "iris", data)["outputs"]
        assert outputs["predict"] == sample.expected()[:5].tolist()
        assert np.allclose(outputs["predict_proba"], sample.expected("predict_proba")[:5], rtol=1e-12)
    assert shell.json("predict", "houses", "houses.csv")["outputs"]["predict"] == houses.expected()[:5].tolist()
    assert shell.json("predict", "iris", "-", "--output", "predict", stdin=ROW)["outputs"] == {"predict": [0]}


def test_the_life_of_a_job(shell):
    """submit prints an id and nothing else; status and result know it, as text and as one flat JSON document a line."""
    id = shell.says("submit", "iris", ROW, "--id", "mine-1").strip()
    assert id == "mine-1"
    found = shell.json("result", id, "--wait")
    assert (found["id"], found["model"], found["version"], found["outputs"]["predict"]) == (id, "iris", "1", [0])
    facts = shell.json("status", id)
    assert (facts["id"], facts["model"], facts["state"], facts["rows"], facts["attempts"]) == (
        id,
        "iris",
        "succeeded",
        1,
        1,
    )
    assert facts["worker"]
    assert facts["queued_at"] <= facts["started_at"] <= facts["finished_at"]
    assert all(not isinstance(value, dict | list) for value in facts.values())
    said = shell.says("status", id)
    assert ("state     succeeded" in said, facts["worker"] in said) == (True, True)
    assert shell.says("submit", "iris", ROW, "--id", id).strip() == id
    assert shell.refused("submit", "iris", "[[1, 2, 3, 4]]", "--id", id)[0] == Exit.FAILED


def test_many_rows_become_many_jobs(shell):
    """--rows prints an id a line, which status and result take all at once, in order."""
    (shell.folder / "rows.csv").write_text(
        "\n".join(",".join(map(str, row)) for row in sample_models.get("iris").data[:3])
    )
    ids = shell.says("submit", "iris", "rows.csv", "--rows").split()
    assert len(set(ids)) == 3
    answers = [json.loads(line) for line in shell.says("result", *ids, "--wait", "--json").splitlines()]
    assert [answer["id"] for answer in answers] == ids
    assert [answer["outputs"]["predict"][0] for answer in answers] == sample_models.get("iris").expected()[:3].tolist()
    assert shell.says("status", *ids).count("succeeded") == 3


def test_one_bad_id_does_not_hide_the_others(inside):
    """Of several ids the unknown one is named on stderr and gives the code; the others are shown."""
    id = inside.says("submit", "iris", ROW).strip()
    code, out, err = inside.run("result", UNKNOWN, id, "--wait", "--json")
    assert (code, json.loads(out)["id"], err.count("\n")) == (Exit.NOT_FOUND, id, 1)
    assert UNKNOWN in err


def test_a_failed_job_says_why(inside):
    """The model's own words, on stderr in one line, exit code 1; status has them too."""
    id = inside.says("submit", "raises", "[[-1, 2, 3]]").strip()
    assert inside.refused("result", id, "--wait") == (
        1,
        "error: model 'raises' version 1 raised ValueError: the sky is falling\n",
    )
    facts = inside.json("status", id)
    assert (facts["state"], facts["reason"]) == (
        "failed",
        "model 'raises' version 1 raised ValueError: the sky is falling",
    )


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("status", UNKNOWN), Exit.NOT_FOUND, "is not known"),
        (("result", UNKNOWN, "--wait"), Exit.NOT_FOUND, "is not known"),
        (("cancel", UNKNOWN), Exit.NOT_FOUND, "is not known"),
        (("status", "a b"), Exit.USAGE, "is not allowed"),
        (("submit", "nobody", ROW), Exit.NOT_FOUND, "models served: "),
        (("submit", "iris", "[[1, 2]]"), Exit.USAGE, "takes X FP64[-1, 4], got shape [1, 2]"),
        (("predict", "iris", ROW, "--output", "nothing"), Exit.USAGE, "'nothing' is not one of predict"),
        (("status", "x", "--broker-url", "redis://:pw@127.0.0.1:1"), Exit.UNAVAILABLE, "redis://:***@127.0.0.1:1 is unavailable"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_has_its_code(inside, args, code, says):
    """Each refusal is one line on stderr with its named exit code; no password is shown."""
    found = inside.refused(*args)
    assert found[0] == code
    assert says in found[1]


def test_where_no_worker_lives_requests_wait(deserted):
    """The request is queued with a warning; it can be seen, waited for in vain, cancelled, and not cancelled twice over."""
    code, out, err = deserted.run("submit", "iris", ROW)
    assert (code, err) == (0, "queued; no live worker serves 'iris' now: start one with mutirao worker\n")
    id = out.strip()
    assert deserted.json("status", id)["state"] == "queued"
    code, line = deserted.refused("result", id)
    assert code == Exit.TIMEOUT
    assert f"is queued: wait for it with mutirao result {id} --wait" in line
    code, line = deserted.refused("result", id, "--timeout", "0.2")
    assert code == Exit.TIMEOUT
    assert "no live worker serves 'iris'" in line
    assert deserted.json("cancel", id) == {"id": id, "state": "cancelled"}
    assert deserted.refused("result", id)[0] == Exit.FAILED
    assert "was cancelled" in deserted.json("status", id)["reason"]


def test_what_runs_or_has_ended_is_not_cancelled(inside, fleet):
    """cancel says why it did nothing, and fails."""
    with Client(fleet.url) as client:
        job = client.submit("slow", [[1.5, 0, 0]])
        waiting.until(lambda: job.status == "running")
        code, line = inside.refused("cancel", job.id)
        assert (code, "is running; only a job that waits can be cancelled" in line) == (1, True)
        job.result(timeout=30)
    assert "has already succeeded" in inside.refused("cancel", job.id)[1]


def test_ctrl_c_is_quiet(shell, fleet):
    """Interrupting predict prints how to ask for the answer later, no traceback, and exits with 130; the job goes on."""
    with fleet.worker.still(), fleet.server.client() as redis:
        others = redis.pubsub_channels(keyspace.reply_channel("*"))
        process = shell.start("predict", "slow", "[[0.5, 0, 0]]", "--id", "slow-1")
        waiting.until(lambda: len(redis.pubsub_channels(keyspace.reply_channel("*"))) > len(others))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (Exit.INTERRUPTED, "")
    assert err.strip() == "job slow-1 goes on; for its answer: mutirao result slow-1 --wait"
    with Client(fleet.url) as client:
        assert client.job("slow-1").result(timeout=30)["predict"].tolist() == [0.5]


def test_model_names_complete(shell):
    """TAB after `mutirao predict` offers the models that workers have announced, and nothing where Redis is away."""
    asked = {**os.environ, "_MUTIRAO_COMPLETE": "bash_complete", "COMP_WORDS": "mutirao predict ho", "COMP_CWORD": "2"}
    for url, words in ((shell.url, "plain,houses"), ("redis://127.0.0.1:1", "")):
        done = subprocess.run(
            [COMMAND], env={**asked, "MUTIRAO_BROKER_URL": url}, capture_output=True, text=True, check=False
        )
        assert (done.stdout.strip(), done.stderr) == (words, "")


def test_doctor_finds_nothing_wrong_with_a_healthy_system(tmp_path):
    """On a good Redis with a live worker doctor has no problem and exits with 0."""
    root = sample_models.repository(tmp_path / "models", "iris").root
    (tmp_path / "none").mkdir()
    with RedisServer() as server, WorkerProcess(server.url, root):
        shell = Shell(server.url, tmp_path)
        code, out, err = shell.run("doctor", "--json")
        assert {finding["level"] for finding in json.loads(out)["findings"]} == {"ok"}, out
        assert (code, err) == (0, "")
        assert shell.says("doctor").endswith("no problems, no warnings\n")


def test_doctor_names_what_is_wrong_and_the_remedy(tmp_path):
    """A Redis that evicts, keeps nothing on disk and has no workers: three findings with their remedies, exit code 1."""
    with RedisServer(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru", "appendonly": "no"}) as server:
        code, out, _ = Shell(server.url, tmp_path).run("doctor", "--json")
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert code == Exit.FAILED
    assert (found["eviction"]["level"], found["persistence"]["level"], found["workers"]["level"]) == (
        "problem",
        "warning",
        "problem",
    )
    assert "CONFIG SET maxmemory-policy noeviction" in found["eviction"]["remedy"]


def test_doctor_without_a_broker_says_so(tmp_path):
    """Where Redis does not answer, doctor says where it looked and what to do, still checks the settings, and exits with 4."""
    code, out, err = Shell("redis://:pw@127.0.0.1:1/0", tmp_path).run("doctor")
    assert (code, err) == (Exit.UNAVAILABLE, "")
    assert "redis://:***@127.0.0.1:1/0 does not answer" in out
    assert "-> start one with mutirao up" in out
    assert "lifetimes" in out


def test_doctor_checks_a_gateway(fleet, tmp_path):
    """Where the URL is a gateway's, doctor says that it answers, is ready and asks for no key, and exits with 0."""
    with GatewayProcess(fleet.url) as gateway:
        out = Shell(gateway.url, tmp_path).says("doctor")
    assert f"the gateway at {gateway.url} answers in" in out
    assert "every announced model can answer" in out
    assert "none is needed" in out
    assert "no problems" in out


def test_doctor_names_what_is_wrong_with_a_gateway(tmp_path, monkeypatch):
    """A gateway without models is not ready, and one that has keys says whether ours is accepted; then exit code 1."""
    with RedisServer() as server, GatewayProcess(server.url) as gateway:
        with BlockingKeys(server.url) as ring:
            made = ring.add("ana", scopes=("predict:*",))

        def findings(key):
            monkeypatch.setenv("MUTIRAO_API_KEY", key)
            code, out, _ = Shell(gateway.url, tmp_path).run("doctor", "--json")
            assert code == Exit.FAILED
            return {finding["check"]: finding for finding in json.loads(out)["findings"]}

        waiting.until(lambda: findings("mutirao_wrong")["key"]["level"] == "problem")
        wrong, right = findings("mutirao_wrong"), findings(made.token)
    assert wrong["key"]["found"].startswith("the API key is not one of this gateway")
    assert "MUTIRAO_API_KEY" in wrong["key"]["remedy"]
    assert (right["key"]["level"], right["key"]["found"]) == ("ok", "accepted")
    assert (right["ready"]["level"], right["ready"]["found"]) == (
        "problem",
        "no worker has announced any model yet",
    )


def test_doctor_without_a_gateway_says_so(tmp_path):
    """Where no gateway answers, or what answers is none, doctor says so, still checks the settings, and exits with 4."""
    code, out, err = Shell("http://127.0.0.1:1", tmp_path).run("doctor")
    assert (code, err) == (Exit.UNAVAILABLE, "")
    assert "the gateway at http://127.0.0.1:1 is unavailable" in out
    assert "-> start one with mutirao gateway" in out
    assert "lifetimes" in out
