"""What the operator's guide says of backup and restore is so."""

import os
import pathlib
import shutil
import sqlite3
import tempfile

from conftest import Tenant
from helpers import deploy_server, wait_state
from platform_process import Platform
from web import Web


def back_up(data: pathlib.Path, to: pathlib.Path):
    """As docs/guides/operator.md does it, while the platform runs."""
    to.mkdir(mode=0o700)
    (to / "db").mkdir()
    with sqlite3.connect(data / "db" / "platform.db") as live, sqlite3.connect(to / "db" / "platform.db") as copy:
        live.backup(copy)
    for name in ("artifacts", "ca"):
        shutil.copytree(data / name, to / name)
    shutil.copy2(data / "operator.key", to / "operator.key")


def test_a_backup_brings_every_app_back_on_an_empty_machine():
    home = pathlib.Path(tempfile.mkdtemp(prefix="platform-backup-", dir="/var/tmp"))
    (home / "data").mkdir()
    first = Platform(os.environ["MIOSA"], home / "data", os.environ["MIOSA_CACHE_DIR"])
    second = None
    try:
        first.up(seconds=900)
        tenant = Tenant(first, "kept")
        sandbox = tenant.sandbox()
        sandbox.write_file("/workspace/index.html", "<h1>kept</h1>")
        site = sandbox.deploy(name="site")
        app, app_url = deploy_server(tenant, "desk", "kept-desk")
        wait_state(tenant.client, site["deployment_id"], "running")
        wait_state(tenant.client, app, "running")
        back_up(home / "data", home / "restored")
        first.stop()
        assert first.down().returncode == 0

        second = Platform(os.environ["MIOSA"], home / "restored", os.environ["MIOSA_CACHE_DIR"])
        second.ports = first.ports
        second.up(seconds=60)
        assert second.ready["admin_key"] == first.ready["admin_key"]
        web = Web(second.ready["https"], second.ready["ca_cert"])
        for url, marker in ((site["url"], b"kept"), (app_url, b"kept-desk")):
            assert web.wait_for(url, lambda status, _, body: status == 200 and marker in body, seconds=60), url
    finally:
        for platform in (second, first):
            if platform and platform.process:
                if platform.process.poll() is None:
                    platform.stop()
                platform.down()
        shutil.rmtree(home, ignore_errors=True)
