"""What a tenant is told of its apps: failures, recoveries, versions that go live."""

import http.client
import json
import os
import signal
import threading
from urllib.parse import urlsplit

import pytest
from helpers import deploy_server, wait_for, wait_state


@pytest.fixture(scope="module")
def app(tenant):
    deployment, _ = deploy_server(tenant, "watched", "watched")
    wait_state(tenant.client, deployment, "running")
    return deployment


def listed(tenant, **query):
    return tenant.client._transport.request("GET", "/events", params=query)


def frames(tenant, platform, query: str, wanted: int, headers=None):
    """The first `wanted` events of the stream."""
    parts = urlsplit(platform.ready["api_url"])
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    sent = {"authorization": f"Bearer {tenant.key}", "accept": "text/event-stream", **(headers or {})}
    connection.request("GET", f"/api/v1/events/stream{query}", headers=sent)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("content-type") == "text/event-stream"
    found = []
    while len(found) < wanted:
        line = answer.readline().decode().strip()
        if line.startswith("data:"):
            found.append(json.loads(line.removeprefix("data:")))
    connection.close()
    return found


def test_a_killed_app_is_told_with_its_recovery_time(app, tenant, other_tenant, platform):
    deployment = app
    wait_for(lambda: listed(tenant, types="deployment.live")["data"], 20, "that it went live")
    before = listed(tenant)["data"][-1]["id"]
    instances = tenant.client.deployments.runtime_instances(deployment)
    healthy = lambda: next((one.id for one in instances.list() if one.state == "healthy"), None)  # noqa: E731
    old = wait_for(healthy, 20, "a healthy instance")
    os.kill(platform.app_process("watched.mjs"), signal.SIGKILL)

    told = frames(tenant, platform, f"?types=runtime.*&after={before}", 2)
    unhealthy, replaced = told
    assert [one["type"] for one in told] == ["runtime.unhealthy", "runtime.replaced"]
    assert unhealthy["data"]["instance_id"] == replaced["data"]["replaced_instance_id"] == old
    assert unhealthy["data"]["deployment_id"] == deployment
    assert "signal 9" in unhealthy["data"]["reason"]
    assert replaced["data"]["instance_id"] != old
    assert 0 <= replaced["data"]["recovery_ms"] < 30_000

    again = frames(tenant, platform, "?types=runtime.*", 1, {"last-event-id": unhealthy["id"]})
    assert again == [replaced], "a reader that comes back misses nothing"
    assert listed(tenant, deployment_id=deployment, types="runtime.*", after=before)["data"] == told
    page = listed(tenant, limit=1, after=before)
    assert page["data"] == [unhealthy] and page["next_cursor"] == unhealthy["id"]
    assert listed(other_tenant)["data"] == [], "another tenant's events do not exist"


def test_the_sdk_follows_them(app, tenant, platform):
    instances = tenant.client.deployments.runtime_instances(app)
    seen = []

    def follow():
        for event in tenant.client.events.stream(types=["runtime.replaced"]):
            seen.append(event)
            return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()

    def killed():
        # Nobody can tell when the stream began, so the app dies until one death is told.
        if not seen and any(one.state == "healthy" for one in instances.list()):
            os.kill(platform.app_process("watched.mjs"), signal.SIGKILL)
        reader.join(2)
        return seen

    wait_for(killed, 40, "an event")
    assert seen[0]["type"] == "runtime.replaced"
    assert seen[0]["data"]["deployment_id"] == app
