"""A real redis-server on loopback, which keeps nothing when it is killed."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests.plugins.servers import free_port


class RedisServer:
    """One that can be killed and started again, at the same address."""

    def __init__(self):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        own = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(["redis-server", *own], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            assert self._process.poll() is None, "redis-server ended at once."
            time.sleep(0.05)
        raise AssertionError("redis-server did not start.")

    def client(self):
        from redis import Redis

        return Redis.from_url(self.url)

    def hang(self, hangs=True):
        self._process.send_signal(signal.SIGSTOP if hangs else signal.SIGCONT)

    def kill(self):
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def serve_redis():
    """Run a `RedisServer` for as long as the block; the test is skipped where that cannot be."""
    pytest.importorskip("redis", reason="Redis needs its client: pip install redis.")
    if shutil.which("redis-server") is None:
        pytest.skip("There is no redis-server here: apt-get install redis-server.")
    server = RedisServer().start()
    try:
        yield server
    finally:
        server.kill()
