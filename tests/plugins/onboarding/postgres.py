"""A real PostgreSQL server for tests, in a temporary folder, on a socket of its own; gone afterwards.

Both fixtures must be imported where they are used. Root may not run PostgreSQL, so for root another user does.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 60  # on a busy machine; on an idle one it takes two


def programs():
    """The folder of `initdb` and `postgres`, or None where they are not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def other_user():
    """Whom root hands the server to, as `subprocess` takes it; nothing for anybody else."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres", users.get("nobody"))
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def server(bin_folder):
    """A running server; gives its URL without a database, with the password of its one user."""
    owner = other_user()
    password = secrets.token_urlsafe(16)
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is at most 107 bytes, pytest's own may be longer
    try:
        (folder / "password").write_text(password)
        if owner:
            for path in (folder, folder / "password"):
                os.chown(path, owner["user"], owner["group"])
        run = {"cwd": folder, "env": {**os.environ, "LC_ALL": "C"}, **owner}
        initdb = [bin_folder / "initdb", "--pgdata=data", "--username=unirouter", "--pwfile=password", "--no-sync"]
        initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, capture_output=True, **run)
        with (folder / "log").open("w") as log:
            settings = [f"-c{setting}" for setting in ("listen_addresses=", "fsync=off", "shared_buffers=16MB")]
            command = [bin_folder / "postgres", "-D", "data", "-k", folder, *settings]
            process = subprocess.Popen(command, stdout=log, stderr=log, **run)
        try:
            _wait(bin_folder, process, folder)
            yield f"postgresql://unirouter:{password}@/{{database}}?host={folder}"
        finally:
            process.send_signal(subprocess.signal.SIGINT)  # PostgreSQL's fast shutdown
            process.wait(START_SECONDS)
    finally:
        shutil.rmtree(folder)


def _wait(bin_folder, process, folder):
    """Return when the server takes connections."""
    for _ in range(START_SECONDS * 10):
        assert process.poll() is None, (folder / "log").read_text()
        if subprocess.run([bin_folder / "pg_isready", "-q", "-h", folder], check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text())


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a server, with ``{database}`` where a database's name goes."""
    pytest.importorskip("psycopg")
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with server(bin_folder) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty database."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server.format(database="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server.format(database=name)
