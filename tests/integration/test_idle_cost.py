"""What a worker costs that has nothing to do: counted in commands, which no busy machine falsifies."""

import time
from collections import Counter

import psutil

from support import sample_models, waiting
from support.redis_monitor import Monitor
from support.redis_servers import RedisServer
from support.stock_client import StockClient
from support.worker_process import WorkerProcess

SECONDS = 5


def test_idle_worker(tmp_path):
    """An idle worker sends fewer than 15 commands a second, however many models it serves and whoever has just asked it something."""
    root = sample_models.repository(tmp_path / "models", "iris", "forest", "houses", "slow", "raises").root
    with RedisServer() as server, WorkerProcess(server.url, root) as worker:
        worker.wait_logged("ready.")
        redis, process = server.client(), psutil.Process(worker.pid)
        with StockClient(server.url) as stock:
            stock.run("answer = [ask([[1, 2, 3, 4]]).get(timeout=20) for _ in range(5)]")
        waiting.until(lambda: not redis.keys("mutirao:poller:*"))  # so is what it does once, at its start
        before, cpu = redis.info("stats")["total_commands_processed"], sum(process.cpu_times()[:2])
        with Monitor(server.url) as monitor:
            time.sleep(SECONDS)
        used = sum(process.cpu_times()[:2]) - cpu
        inside = redis.info("stats")["total_commands_processed"] - before
    sent = Counter(name for name in monitor.names() if name not in {"MONITOR", "ECHO", "INFO"})
    cost = f"{sent.total() / SECONDS:.1f} sent and {inside / SECONDS:.1f} run a second, {100 * used / SECONDS:.2f} % of a core"
    print(cost)  # noqa: T201
    assert 0 < sent.total() / SECONDS < 15, sent
    assert inside / SECONDS < 30
