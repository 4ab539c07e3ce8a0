"""Control is killed at each step of a publish that can be seen from outside.

Each step is made long enough to be met: the build and the start of the app take their time, and
a slow visitor keeps the old version draining. A test kills control only once it has seen the
step, and looks again after the kill: the step must still have been going on.
"""

import json
import os
import threading

import pytest

from helpers import wait_for, wait_state
from platform_process import alive
from web import load_while

#: Listens 2 s after its start; `/linger` takes 8 s.
SERVER = """
import {{ createServer }} from 'node:http'
const server = createServer((request, response) => {{
  const wait = request.url === '/linger' ? 8000 : 0
  setTimeout(() => response.end(JSON.stringify({{ marker: '{marker}' }})), wait)
}})
setTimeout(() => server.listen(Number(process.env.PORT), '0.0.0.0'), 2000)
"""
BUILD = "setTimeout(() => {}, 3000)\n"


class App:
    """A deployment whose versions are told apart by the name of their server's file."""

    def __init__(self, tenant, web, platform, name: str):
        self.client, self.web, self.platform, self.name = tenant.client, web, platform, name
        self.sandbox = tenant.sandbox()
        self.deployment = self.url = None

    def publish(self, marker: str):
        self.sandbox.write_file(f"/workspace/{self.file(marker)}", SERVER.format(marker=marker))
        self.sandbox.write_file(f"/workspace/{self.name}-build.mjs", BUILD)
        deployed = self.sandbox.deploy(
            name=self.name, run_command=f"node {self.file(marker)}", port=3000,
            build_command=f"node {self.name}-build.mjs",
        )
        self.deployment, self.url = deployed["deployment_id"], deployed["url"]

    def file(self, marker: str) -> str:
        return f"{self.name}-{marker}.mjs"

    def marker(self, path="/"):
        status, _, body = self.web.get(self.url + path)
        return json.loads(body)["marker"] if status == 200 else status

    def process(self, file: str):
        """The process that runs a file in some workload, or None."""
        try:
            return self.platform.app_process(file)
        except LookupError:
            return None

    def server(self, marker: str):
        return self.process(self.file(marker))

    def state(self):
        """State of the newest version."""
        versions = self.client.deployments.versions(self.deployment).list()
        return max(versions, key=lambda version: version.version_number).state

    def is_only(self, marker: str) -> bool:
        """One healthy instance, no other process, nothing left to do."""
        instances = self.client.deployments.runtime_instances(self.deployment).list()
        healthy = [instance for instance in instances if instance.state == "healthy"]
        others = [m for m in ("old", "new", "next") if m != marker and self.server(m)]
        return len(healthy) == 1 and not others and self.state() == "ready" and self.marker() == marker


def saved(app: App):
    """`deploy` has returned, so the source is saved."""
    assert app.state() == "building"
    return lambda: app.marker() == "old"


def building(app: App):
    """The build command runs."""
    build = wait_for(lambda: app.process(f"{app.name}-build.mjs"), 60, "the build runs")
    return lambda: alive(build) and app.marker() == "old"


def rolling(app: App):
    """The new version is built and starts, the old one serves."""
    server = wait_for(lambda: app.server("new"), 60, "the new version starts")
    assert app.state() == "ready"
    return lambda: alive(server) and app.marker() == "old"


def switching(app: App):
    """The new version serves, the old one still answers a slow visitor."""
    old, lingering = app.server("old"), []
    wait_for(lambda: app.server("new"), 60, "the new version starts")
    visitor = threading.Thread(target=lambda: lingering.append(app.marker("/linger")))
    visitor.start()
    wait_for(lambda: app.marker() == "new", 60, "the switch")

    def goes_on():
        still = alive(old) and not lingering
        visitor.join(30)
        return still and lingering == ["old"]

    return goes_on


@pytest.mark.parametrize("step", [saved, building, rolling, switching])
def test_control_dies_during_a_publish(tenant, web, platform, step):
    app = App(tenant, web, platform, f"torn-{step.__name__}")
    app.publish("old")
    wait_state(tenant.client, app.deployment, "running")

    def publish_and_kill(_load):
        app.publish("new")
        goes_on = step(app)
        os.kill(platform.child("control"), 9)
        assert goes_on(), f"control died after the step: {step.__doc__}"
        wait_for(lambda: app.is_only("new"), 120, "the new version alone")

    _, load = load_while(web, app.url, b'"marker":"', publish_and_kill, clients=4, before_s=0.1, after_s=0.2)
    assert load.failed == 0, load.failures
    assert load.done > 50, "visitors were there all the time"
    app.publish("next")
    wait_for(lambda: app.is_only("next"), 120, "a publish after it")
    app.sandbox.destroy()
