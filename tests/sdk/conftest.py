"""One real platform for all tests, and tenants made for each module."""

import itertools
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "script" / "lib"))

from miosa import Miosa  # noqa: E402
from platform_process import Platform  # noqa: E402
from web import Web  # noqa: E402

from name_server import NameServer  # noqa: E402

_numbers = itertools.count(1)


class Tenant:
    """A tenant, its key, and a client that acts for it."""

    def __init__(self, platform: Platform, name: str):
        operator = Miosa(api_key=platform.ready["admin_key"], base_url=platform.ready["api_url"])
        body = {"name": name, "deployment_domain": f"{name}.localhost", "preview_domain": f"{name}.localhost"}
        self.data = operator._transport.request("POST", "/admin/tenants", json_body=body)["data"]
        self.name, self.key = name, self.data["api_key"]
        self.domain = f"{name}.localhost"
        self.client = Miosa(api_key=self.key, base_url=platform.ready["api_url"], max_retries=0)

    def sandbox(self, **options):
        sandbox = self.client.sandboxes.create(**{"size": "xs", "timeout_sec": 1800, **options})
        assert sandbox.wait_until_ready(60), "the sandbox was not ready within 60 s"
        return sandbox


@pytest.fixture(scope="session")
def names():
    """The DNS that the platform asks about names that tenants bring."""
    server = NameServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def platform(names):
    if os.geteuid() != 0:
        pytest.exit("these tests need root: sandboxes need namespaces and mounts", returncode=2)
    home = pathlib.Path(tempfile.mkdtemp(prefix="platform-test-", dir="/var/tmp"))
    (home / "data").mkdir()
    config = home / "config.toml"
    config.write_text(f'[domains]\nresolver = "{names.address}"\naddresses = ["127.0.0.1"]\n')
    platform = Platform(os.environ["MIOSA"], home / "data", os.environ["MIOSA_CACHE_DIR"], config)
    try:
        platform.up(seconds=900)
        yield platform
    finally:
        if platform.process and platform.process.poll() is None:
            platform.stop()
        down = platform.down()
        log = (home / "platform.log").read_text(errors="replace")
        if down.returncode:
            print(down.stdout, down.stderr, log[-4000:], file=sys.stderr)
        if os.environ.get("KEEP_PLATFORM_LOG"):
            shutil.copy(home / "platform.log", os.environ["KEEP_PLATFORM_LOG"])
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def web(platform):
    return Web(platform.ready["https"], platform.ready["ca_cert"])


@pytest.fixture(scope="module")
def tenant(platform):
    return Tenant(platform, f"clinic{next(_numbers)}")


@pytest.fixture(scope="module")
def other_tenant(platform):
    return Tenant(platform, f"rival{next(_numbers)}")


@pytest.fixture
def sandbox(tenant):
    sandbox = tenant.sandbox()
    yield sandbox
    sandbox.destroy()
