"""`mutirao dead` and `mutirao explain`, as an operator meets them: real workers, what is printed, the exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest

from mutirao import Client, MutiraoError, keyspace
from mutirao.cli.console import Exit
from support import bad_models, dead_lettering, sample_models, waiting
from support.command_line import CommandLine
from support.worker_process import WorkerProcess

ROLES = Path(__file__).parents[2] / "deploy/redis/acl"
ROW = [5.1, 3.5, 1.4, 0.2]
BAD = [[bad_models.MARKER, 1.0, 2.0]]
SECRET = 7391.25  # nothing but --payload may show it


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys, monkeypatch)


@pytest.fixture
def given_up(redis_server, shell):
    """Three letters of iris and one of houses, of requests whose worker was lost; and a message that was none."""
    shell.at(redis_server.url)
    with Client(redis_server.url, check=False) as client:
        client.submit_many("iris", np.full((3, 4), SECRET))
        client.submit("houses", [[SECRET]])
        ids = dead_lettering.dead_letters(redis_server.url, "iris", 3) + dead_lettering.dead_letters(
            redis_server.url, "houses", 1
        )
    noise = {"id": "x-1", "task_id": "", "model": "iris", "queue": "mutirao.iris", "reason": "not decodable", "at": 1.0,
             "message": "InvalidRequest(reason='not decodable')", "worker": "w@host", "attempts": 1, "envelope": f"noise {SECRET}"}  # fmt: skip
    redis_server.client().hset(keyspace.DEAD, "x-1", json.dumps(noise))
    redis_server.client().zadd(keyspace.DEAD_INDEX, {"x-1": 1.0})
    return ids


def test_letters_are_listed_and_shown_without_their_values(given_up, shell):
    """list has the newest first and filters; show says why, when, where and the shape; only --payload prints values."""
    lines = [line.split() for line in shell.says("dead", "list").splitlines() if "@host" in line]
    assert [line[0] for line in lines] == [*given_up[::-1], "x-1"]
    assert lines[0][1:6] == ["houses", "worker", "lost", "1", "dying@host"]
    assert [
        each["id"] for each in shell.json("dead", "list", "--model", "iris", "--reason", "worker lost")
    ] == given_up[2::-1]
    code, out, err = shell.run("dead", "list", "--limit", 2)
    assert (code, out.count("@host"), err) == (0, 2, "the newest 2 of 5: --limit N shows more\n")
    assert shell.run("dead", "list", "--model", "nobody") == (0, "", "no dead letters match\n")
    shown = shell.says("dead", "show", given_up[0])
    assert "shape     iris: 1x4 FP64\n" in shown
    assert f"replay    mutirao dead replay {given_up[0]}\n" in shown
    everything = shown + shell.says("dead", "list") + shell.says("dead", "show", "x-1")
    everything += str(shell.json("dead", "list")) + str(shell.json("dead", "show", given_up[0]))
    assert str(SECRET) not in everything
    assert shell.says("dead", "show", given_up[0], "--payload").count(str(SECRET)) == 4
    (document,) = shell.json("dead", "show", given_up[0], "--payload")
    assert list(document["inputs"].values()) == [[[SECRET] * 4]]
    assert str(SECRET) in shell.says("dead", "show", "x-1", "--payload")


def test_replay_sends_what_it_can_and_names_the_rest(given_up, shell, redis_server):
    """Of all letters the requests are sent, each is named, what is none says why and stays, and the exit code is 1."""
    assert shell.says("dead", "replay", "--all", "--model", "houses") == f"replayed {given_up[3]}\n"
    code, out, err = shell.run("dead", "replay", given_up[0], "nobody", "x-1")
    assert (code, out) == (Exit.NOT_FOUND, f"replayed {given_up[0]}\n")
    assert "error: there is no dead letter 'nobody'" in err
    assert "dead letter 'x-1' is no request (not decodable)" in err
    code, out, err = shell.run("dead", "replay", "--all")
    assert (code, out.splitlines(), err.count("\n")) == (Exit.FAILED, [f"replayed {id}" for id in given_up[1:3]], 1)
    assert [each["id"] for each in shell.json("dead", "list")] == ["x-1"]
    assert redis_server.client().llen(keyspace.queue_key("iris", 3)) == 3
    assert shell.run("dead", "replay", "--all", "--model", "houses") == (0, "", "no dead letters to replay\n")


def test_purge_asks_before_it_removes_all(given_up, shell):
    """Named letters go at once; --all asks first, and goes without asking by --yes; a letter that is not there gives 3."""
    assert shell.says("dead", "purge", given_up[0]) == f"purged {given_up[0]}\n"
    code, out, err = shell.run("dead", "purge", "--all")  # nobody is there to answer
    assert (code, out, err.startswith("Remove 4 dead letters for good?")) == (Exit.INTERRUPTED, "", True)
    assert "nothing was removed: standard input holds no answer; --yes" in err
    assert [each["purged"] for each in shell.json("dead", "purge", "--all", "--model", "iris", "--yes")] == [True] * 3
    assert [each["id"] for each in shell.json("dead", "list")] == [given_up[3]]
    assert shell.run("dead", "purge", given_up[0])[0] == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["replay"], "Name dead letters by their ids, or take --all"),
        (["purge", "x", "--all"], "Name dead letters by their ids, or take --all"),
        (["replay", "x", "--model", "iris"], "--model and --reason choose among all"),
        (["replay", "--all", "--to-version", "2"], "--to-version is a version of one model: name it with --model."),
        (["list", "--reason", "bored"], "'bored' is not one of 'worker lost', 'process died', 'time limit'"),
    ],
)  # fmt: skip
def test_misuse(shell, redis_server, args, says):
    """A selection that could mean two things is refused before anything is touched."""
    code, out, err = shell.at(redis_server.url).run("dead", *args)
    assert (code, out, err.count("\n")) == (Exit.USAGE, "", 1)
    assert says in err


def test_a_mended_model_answers_what_the_first_one_died_of(shell, redis_server, tmp_path):
    """A request that killed each process becomes a letter; replayed to the mended version it succeeds, and explain tells all of it."""
    repository = sample_models.repository(tmp_path / "models", "aborts", max_attempts=2)
    shell.at(redis_server.url)
    with Client(redis_server.url) as client:
        with WorkerProcess(redis_server.url, repository.root) as worker:
            job = client.submit("aborts", BAD)
            large = client.submit("aborts", np.repeat(BAD, 4000, axis=0))
            for each in (job, large):
                with pytest.raises(MutiraoError, match="gave up after 2 attempts"):
                    each.result(60)
            told = shell.says("explain", job.id)
            assert f"on {worker.name}, version 1, attempt 2" in told
            assert f"now a dead letter, process died: mutirao dead show {job.id}\n" in told
            assert shell.steps(job.id) == ["submitted", "tried", "reserved", "batched", "run", "committed"]
            assert "attempts  2\n" in shell.says("dead", "show", job.id)
            refused = shell.run("dead", "replay", job.id, "--to-version", "2")
            assert refused == (Exit.FAILED, "", "error: nothing was replayed to version 2 of model 'aborts': workers serve version 1; run mutirao models activate aborts 2, and restart the workers\n")  # fmt: skip
            worker.stop()  # it says goodbye, so that nobody counts on it
        repository.add("aborts", sample_models.saved("prints"))
        with WorkerProcess(redis_server.url, repository.root) as worker:
            said = shell.says("dead", "replay", "--all", "--model", "aborts", "--to-version", "2")
            assert sorted(said.split()[1::2]) == sorted([job.id, large.id])
            waiting.until(
                lambda: client.job(job.id).status == "succeeded" and client.job(large.id).status == "succeeded"
            )
            assert client.job(job.id).result()["predict"].tolist() == [2.0]
            assert client.job(large.id).result()["predict"].shape == (4000,)
            steps = shell.steps(job.id)
            assert steps == ["submitted", "tried", "given up", "replayed", "reserved", "batched", "run", "committed"]
            assert f"on {worker.name}, version 2\n" in shell.says("explain", job.id)
    assert redis_server.client().keys("mutirao:dead*") + redis_server.client().keys("mutirao:payload:*:in") == []


def test_explain_tells_where_a_job_is(shell, redis_server, fleet):
    """A job that waits says how many are before it, and that nobody serves it; one that a lost worker holds, that it will be taken over."""
    shell.at(redis_server.url)
    redis = redis_server.client()
    with Client(redis_server.url, check=False) as client:
        jobs = client.submit_many("iris", [ROW] * 1200)
        client.submit("iris", [ROW], priority="high")
        told = shell.says("explain", jobs[700].id)
        assert f"job {jobs[700].id}, queued\n" in told
        assert "  now waiting in mutirao.iris, priority normal: 700 before it, and 1 more urgent\n" in told
        assert "no live worker serves 'iris': start one with mutirao worker" in told
        (document,) = shell.json("explain", jobs[0].id)
        assert document["waiting"] == {
            "queue": "mutirao.iris",
            "priority": "normal",
            "before": 0,
            "urgent": 1,
            "searched": 1200,
        }
        redis.hset(keyspace.reserved_key("w1@host#1.abc"), "7", keyspace.queue_key("iris", 3).encode() + b"\n" + redis.rpop(keyspace.queue_key("iris", 3)))  # fmt: skip
        redis.zadd(keyspace.LEASES, {"w1@host#1.abc": 1.0})
        assert "now held by w1@host, whose lease has lapsed: another worker takes it over" in shell.says(
            "explain", jobs[0].id
        )
        jobs[1].cancel()
        assert shell.steps(jobs[1].id) == ["submitted", "cancelled"]
        late = client.submit("iris", [ROW], expires_s=0.01)
        waiting.until(lambda: late.status == "expired")
        assert shell.steps(late.id) == ["submitted", "expired"]
        redis.delete(keyspace.queue_key("iris", 3))
        assert f"submit it again under its id, or mutirao cancel {jobs[700].id}\n" in shell.says(
            "explain", jobs[700].id
        )
    code, out, err = shell.run("explain", "nobody", late.id)
    assert (code, out.count("job "), err) == (
        Exit.NOT_FOUND,
        1,
        "error: job 'nobody' is not known: no such id was submitted\n",
    )


def test_explain_tells_of_a_batch_and_of_a_failure(shell, fleet):
    """Requests that ran together say with how many and in which order; one whose model raised says what it said."""
    shell.at(fleet.url)
    with fleet.client() as client:
        jobs = client.submit_many("iris", [ROW] * 64)
        jobs[-1].result(20)
        told = [shell.json("explain", job.id)[0] for job in jobs]
        assert any(each["batch"] > 1 for each in told)
        together = next(each for each in told if each["batch"] > 1)
        assert [step["what"] for step in together["steps"]] == ["submitted", "reserved", "batched", "run", "committed"]
        assert together["steps"][2]["says"].startswith(f"with {together['batch'] - 1} other")
        failed = client.submit("raises", BAD)
        with pytest.raises(MutiraoError):
            failed.result(20)
        assert "failed: model 'raises' version 1 raised ValueError: the sky is falling\n" in shell.says(
            "explain", failed.id
        )


def test_explain_tells_of_a_lost_worker(shell, redis_server, tmp_path):
    """A request whose worker is killed says who lost it, and who ran it in the end."""
    root = sample_models.repository(tmp_path / "models", "slow").root
    shell.at(redis_server.url)
    with (
        Client(redis_server.url) as client,
        WorkerProcess(redis_server.url, root, env={"MUTIRAO_LEASE_S": "2"}) as first,
    ):
        job = client.submit("slow", [[2.0, 0, 0]])
        waiting.until(lambda: job.status == "running")
        told = shell.says("explain", job.id)
        assert f"since then on {first.name}\n" in told
        assert f"now held by {first.name}, whose lease runs for " in told
        first.kill()
        with WorkerProcess(redis_server.url, root) as second:
            assert job.result(60)["predict"].tolist() == [2.0]
            told = shell.says("explain", job.id)
            assert f"lost       with its worker {first.name}; back to the head of its queue\n" in told
            assert f"on {second.name}, version 1, attempt 2\n" in told


def test_a_producer_sees_what_it_may(shell, redis_server):
    """With the producer's rights explain tells a job's steps and that it may not look further; dead letters are not shown."""
    url = _as_role(redis_server, "producer")
    with Client(url, check=False) as client:
        job = client.submit("iris", [ROW])
    told = shell.at(url).says("explain", job.id)
    assert "this user of Redis may not look" in told
    code, out, err = shell.run("dead", "list")
    assert (code, out) == (Exit.UNAVAILABLE, "")
    assert "give the user of MUTIRAO_BROKER_URL the rights of its role" in err


def test_a_worker_s_rights_are_enough(given_up, shell, redis_server):
    """Whoever has a worker's rights lists, replays and purges dead letters, and sees where jobs are."""
    shell.at(_as_role(redis_server, "worker"))
    assert len(shell.json("dead", "list")) == 5
    assert shell.says("dead", "replay", given_up[0]) == f"replayed {given_up[0]}\n"
    assert shell.says("dead", "purge", "x-1") == "purged x-1\n"
    redis_server.client().zadd(keyspace.LEASES, {"w1@host#1.abc": 1.0})
    assert "now waiting in mutirao.iris, priority normal: none before it\n" in shell.says("explain", given_up[0])


def _as_role(server, role):
    """Make a user with the rights that are deployed for a role; return the URL that uses it."""
    if role == "producer" and server.program.version < (7,):
        pytest.skip("this redis-server knows no rights to read alone (%R), which came with Redis 7")
    rules = [line for line in (ROLES / role).read_text().splitlines() if line and not line.startswith("#")]
    server.client().execute_command("ACL", "SETUSER", role, "on", ">secret", *rules)
    return server.url.replace("redis://", f"redis://{role}:secret@")
