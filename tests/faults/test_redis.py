"""A Redis that stops, dies, is away, forgets its last second or sits behind a bad network: accepted requests end, once."""

import random
import time

import psutil
import pytest

from mutirao import BrokerUnavailable, Client, JobNotFound
from support import execution_log, waiting
from support.fault_trial import SEED, Trial
from support.redis_sentinel import MASTER, Sentinel
from support.redis_servers import RedisServer
from support.tcp_proxy import TcpProxy
from support.trial_systems import MutiraoSystem
from support.worker_process import WorkerProcess

REPRODUCE = f"MUTIRAO_FAULT_SEED={SEED}"


def _check(verdict, *, once=True):
    assert verdict.accepted > 50
    assert not verdict.lost, f"{REPRODUCE}\n{verdict}"
    assert not verdict.failed, f"{REPRODUCE}\n{verdict}"
    assert not verdict.wrong, f"{REPRODUCE}\n{verdict}"
    assert not verdict.leftovers, f"{REPRODUCE}\n{verdict}"
    assert not once or not verdict.doubles, f"{REPRODUCE}\n{verdict}"


def _alive(trial, pids):
    assert [member.worker.pid for member in trial.crew.members if member.alive] == pids, trial.crew.logs()


def _pids(trial):
    return [member.worker.pid for member in trial.crew.members]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("fsync", "kill"), [("everysec", False), ("always", True)], ids=["stopped", "killed"])
def test_restart_under_load(tmp_path, fsync, kill):
    """Redis stopped in order, or killed while it writes all down, and started again, twice: nothing accepted is lost."""
    with (
        RedisServer(options={"appendfsync": fsync}) as server,
        Trial(MutiraoSystem, tmp_path, server.url, seed=SEED, workers=1) as trial,
    ):
        pids = _pids(trial)
        for _ in range(2):
            trial.last(2)
            server.restart(kill=kill)
        trial.last(2)
        _alive(trial, pids)
        verdict = trial.verdict()
    _check(verdict)


@pytest.mark.timeout(240)
def test_last_second_forgotten(tmp_path):
    """A machine that goes down with appendfsync everysec may take the last second: no more is missing, and nothing hangs."""
    with (
        RedisServer() as server,
        Client(server.url) as client,
        # Some are lost for good, which ends the wait: leases last 10 s.
        Trial(MutiraoSystem, tmp_path, server.url, seed=SEED, workers=2, patience_s=25) as trial,
    ):
        pids = _pids(trial)
        trial.last(3)
        # Redis 6 has one log, Redis 7 a folder of them.
        (log,) = [*(server.folder / "appendonlydir").glob("*.incr.aof"), *server.folder.glob("appendonly.aof")]
        since = time.time()
        kept = log.stat().st_size
        trial.last(1)
        server.kill()
        with log.open("r+b") as file:
            file.truncate(kept)
        server.start()
        trial.last(2)
        _alive(trial, pids)
        verdict = trial.verdict()
        gone = [id for id in verdict.lost if not trial.system.redis.exists(f"celery-task-meta-{id}")]
        for id in gone:
            with pytest.raises(JobNotFound):
                client.job(id).result(5)
        early = [id for id in verdict.lost if trial.load.asked[id].accepted_at < since]
    assert not early, f"{REPRODUCE}\n{verdict}"
    _check(verdict._replace(lost=sorted({*verdict.lost} - {*gone})), once=False)


def _away(folder, away_s):
    """Redis is away for a while, and comes back with its data."""
    long = {"long": 0.5}
    with (
        RedisServer() as server,
        Client(server.url, timeout_s=2) as client,
        Trial(MutiraoSystem, folder, server.url, seed=SEED, workers=1, models=long) as trial,
    ):
        pids = _pids(trial)
        (worker,) = (member.worker for member in trial.crew.members)
        trial.last(2)
        trial.load.pause()
        waiting.until(lambda: not trial.unfinished())
        running = client.submit("long", [[0.0, 10.0, place] for place in range(4)])
        waiting.until(lambda: running.status == "running")
        trial.load.proceed()
        server.stop()
        before, refused = _cpu_s(worker), []
        trial.last(away_s, lambda: refused.append(_refused_after_s(client)))
        spent_s = _cpu_s(worker) - before
        server.start()
        assert running.result(30)["predict"].tolist() == [30.0 + place for place in range(4)]
        trial.last(2)
        _alive(trial, pids)
        verdict = trial.verdict()
    assert max(refused) < 10
    assert trial.load.refused
    assert spent_s < 0.5 * away_s + 1, f"a worker whose Redis is away used {spent_s:.1f} s of {away_s} s"
    _check(verdict)


def _refused_after_s(client):
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="is unavailable"):
        client.submit("quick", [[0.0, 1.0, 1.0]])
    return time.monotonic() - began


def _cpu_s(worker):
    found = psutil.Process(worker.pid).cpu_times()
    return found.user + found.system


@pytest.mark.timeout(240)
def test_away_for_a_moment(tmp_path):
    """Redis away for four seconds: submit is refused in seconds; the worker lives, keeps quiet, and commits later what it had."""
    _away(tmp_path, 4)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_away_for_long(tmp_path):
    """Redis away for thirty seconds, which is five leases: likewise."""
    _away(tmp_path, 30)


def _bad_network(folder, faults, lasts_s):
    """Faults between workers and Redis, at random moments; the submitting side has a good network."""
    chance = random.Random(SEED)
    kinds = ["blackhole", "delay", "reset", "cut"]
    with (
        RedisServer() as server,
        TcpProxy(server.port) as proxy,
        Trial(MutiraoSystem, folder, server.url, seed=SEED, workers=2, worker_url=proxy.url) as trial,
    ):
        pids = _pids(trial)
        for number in range(faults):
            trial.last(chance.uniform(0.3, 1.5))
            kind = kinds[number] if number < len(kinds) else chance.choice(kinds)
            if kind == "cut":
                proxy.cut(chance.randint(1, 3))
            else:
                getattr(proxy, kind)()
            if kind in ("blackhole", "delay"):
                trial.last(chance.uniform(0.2, 1.0) * lasts_s)
                proxy.heal()
                if chance.random() < 0.5:
                    proxy.reset()
        trial.last(1)
        proxy.heal()
        _alive(trial, pids)
        verdict = trial.verdict()
        assert proxy.cuts
    return verdict


@pytest.mark.timeout(240)
def test_bad_network(tmp_path):
    """A network that keeps data back, slows it down, resets connections and cuts replies in half: all end, nothing twice."""
    _check(_bad_network(tmp_path, 8, 4))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_bad_network_for_long(tmp_path):
    """Likewise sixty times, with holes that are longer than a lease."""
    _check(_bad_network(tmp_path, 60, 12))


@pytest.mark.timeout(240)
def test_failover(tmp_path, monkeypatch):
    """The master is killed: clients and workers follow the sentinels to the new one, and what it had been told of is answered."""
    root = execution_log.repository(tmp_path / "models")
    monkeypatch.setenv("MUTIRAO_SENTINEL_MASTER", MASTER)
    with (
        Sentinel() as sentinel,
        Client(sentinel.url, timeout_s=2) as client,
        WorkerProcess(sentinel.url, root, concurrency=2, wait=False) as worker,
    ):
        worker.wait_ready()
        rows = [[0.0, place, 1.0] for place in range(200)]
        assert client.predict("quick", [rows[3]], timeout=20)["predict"].tolist() == [10.0]
        jobs = client.submit_many("dear", rows)
        assert sentinel.client().wait(1, 5000) == 1  # the replica has them
        sentinel.kill_master()
        late = waiting.until(lambda: _submitted(client, rows[4]))
        for place, job in enumerate(jobs):
            assert job.result(60)["predict"].tolist() == [3.0 * place + 1]
        assert late.result(30)["predict"].tolist() == [13.0]
        assert worker.process.poll() is None


def _submitted(client, row):
    try:
        return client.submit("quick", [row])
    except BrokerUnavailable:
        return None
