"""Publishing and surviving through the real SDK."""

import json
import os

import pytest
from miosa.errors import MiosaError, ValidationError

from helpers import SERVER, deploy_server, wait_for, wait_state
from web import load_while


def marker_of(web, url):
    status, _, body = web.get(url)
    return json.loads(body)["marker"] if status == 200 else status


def test_plain_html_is_served_as_files(tenant, web):
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/index.html", "<h1>home</h1>" + "x" * 4000)
    sandbox.write_file("/workspace/about.html", "<h1>about</h1>")
    sandbox.write_file("/workspace/.env", "SECRET=1")
    deployed = sandbox.deploy(name="plain")
    sandbox.destroy()
    wait_state(tenant.client, deployed["deployment_id"], "running")
    url = deployed["url"]
    assert url.startswith(f"https://plain.{tenant.domain}")
    assert web.get(url + "/about")[0] == 200
    assert web.get(url + "/about.html")[0] in (307, 308)
    assert web.get(url + "/any/route")[0] == 200, "a single-page fallback"
    assert web.get(url + "/none.js")[0] == 404, "no fallback for a file"
    assert web.get(url + "/.env")[0] == 404
    assert b"root:" not in web.get(url + "/..%2f..%2f..%2fetc/passwd")[2], "a path leads out"
    assert web.get(url, method="POST")[0] == 405
    assert web.get(url, headers={"accept-encoding": "gzip"})[1]["content-encoding"] == "gzip"
    etag = web.get(url)[1]["etag"]
    assert web.get(url, headers={"if-none-match": etag})[0] == 304
    status, headers, body = web.get(url, headers={"range": "bytes=0-3"})
    assert (status, body) == (206, b"<h1>") and headers["content-range"].startswith("bytes 0-3/")
    assert web.get(url, headers={"range": "bytes=999999-"})[0] == 416


def test_fastapi_is_found_by_detection(tenant, web):
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/requirements.txt", "fastapi\nuvicorn\n")
    sandbox.write_file(
        "/workspace/app.py",
        "from fastapi import FastAPI\nservice = FastAPI()\n"
        "@service.get('/')\ndef home():\n    return {'marker': 'fastapi'}\n",
    )
    deployed = sandbox.deploy(name="fast")
    sandbox.destroy()
    wait_state(tenant.client, deployed["deployment_id"], "running", 240)
    assert marker_of(web, deployed["url"]) == "fastapi"
    version = tenant.client.deployments.versions(deployed["deployment_id"]).list()[0]
    assert version.kind == "dynamic"


def test_versions_promote_and_rollback(tenant, web):
    deployment, url = deploy_server(tenant, "versions", "one")
    wait_state(tenant.client, deployment, "running")
    again, _ = deploy_server(tenant, "versions", "two")
    assert again == deployment, "the same name in the same project is a new version"
    wait_for(lambda: marker_of(web, url) == "two", 120, "version 2 serves")
    versions = sorted(tenant.client.deployments.versions(deployment).list(), key=lambda v: v.version_number)
    assert [v.version_number for v in versions] == [1, 2]
    rolled = tenant.client.deployments.rollback(deployment)
    assert rolled.active_version_id == versions[0].id
    wait_for(lambda: marker_of(web, url) == "one", 60, "version 1 serves again")
    tenant.client.deployments.versions(deployment).promote(versions[1].id)
    wait_for(lambda: marker_of(web, url) == "two", 60, "version 2 serves again")
    instances = tenant.client.deployments.runtime_instances(deployment).list()
    assert any(instance.state == "healthy" for instance in instances)
    assert tenant.client.deployments.get(deployment).metadata["runtime"]["port"] == 3000


def test_an_app_that_never_listens_fails_with_a_reason(tenant, web):
    deployment, url = deploy_server(tenant, "silent", "good")
    wait_state(tenant.client, deployment, "running")
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/crash.mjs", "console.log('cannot find my database'); process.exit(1)")
    sandbox.deploy(deployment_id=deployment, run_command="node crash.mjs", port=3000)
    sandbox.destroy()

    def failed():
        versions = tenant.client.deployments.versions(deployment).list()
        return next((v for v in versions if v.version_number == 2 and v.state == "failed"), None)

    version = wait_for(failed, 150, "the second version fails")
    assert "cannot find my database" in json.dumps(version.model_dump(mode="json"))
    assert marker_of(web, url) == "good", "the old version keeps serving"
    assert tenant.client.deployments.get(deployment).state == "running"


def test_a_killed_app_is_held_and_replaced(tenant, web, platform):
    deployment, url = deploy_server(tenant, "killed", "alive")
    wait_state(tenant.client, deployment, "running")
    instances = tenant.client.deployments.runtime_instances(deployment)
    healthy = lambda: next((i.id for i in instances.list() if i.state == "healthy"), None)  # noqa: E731
    before = wait_for(healthy, 20, "a healthy instance")

    def kill(_load):
        os.kill(platform.app_process("killed.mjs"), 9)
        return wait_for(lambda: (healthy() or before) != before, 30, "another instance")

    _, load = load_while(web, url + "/slow", b'"marker":"alive"', kill, before_s=0.5, after_s=1)
    assert load.failed == 0, load.failures
    assert load.done > 50


def test_destroying_the_source_changes_nothing(tenant, web):
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/server.mjs", SERVER.format(marker="kept"))
    deployed = sandbox.deploy(name="kept", run_command="node server.mjs", port=3000)
    sandbox.destroy()
    wait_state(tenant.client, deployed["deployment_id"], "running")
    assert marker_of(web, deployed["url"]) == "kept"


def test_a_link_out_of_the_workspace_is_refused(tenant):
    sandbox = tenant.sandbox()
    sandbox.run("mkdir public && echo '<h1>hi</h1>' > public/index.html && ln -s /etc/passwd public/leak.txt")
    with pytest.raises(ValidationError) as refused:
        sandbox.deploy(name="leaky", output_path="public")
    assert "leak.txt" in str(refused.value), "the error names the entry"
    assert "leaky" not in [deployment.name for deployment in tenant.client.deployments.list()]
    sandbox.run("rm public/leak.txt")
    deployed = sandbox.deploy(name="leaky", output_path="public")
    sandbox.destroy()
    wait_state(tenant.client, deployed["deployment_id"], "running")


def test_an_output_folder_that_is_not_there_is_named(tenant):
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/index.html", "hi")
    deployed = sandbox.deploy(name="nowhere", output_path="build/out")
    sandbox.destroy()
    wait_state(tenant.client, deployed["deployment_id"], "failed")
    version = tenant.client.deployments.versions(deployed["deployment_id"]).list()[0]
    assert "build/out" in json.dumps(version.model_dump(mode="json"))
    with pytest.raises(MiosaError):
        tenant.client.deployments.versions(deployed["deployment_id"]).promote(version.id)


def test_a_build_is_cancelled(tenant, web):
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/index.html", "<h1>one</h1>")
    deployed = sandbox.deploy(name="cancelled")
    deployment, url = deployed["deployment_id"], deployed["url"]
    wait_state(tenant.client, deployment, "running")
    slow = sandbox.deploy(name="cancelled", build_command="echo begun; sleep 600", output_path=".")
    versions = tenant.client.deployments.versions(deployment)
    path = f"/deployments/{deployment}/versions/{slow['version_id']}"

    def log():
        return str(tenant.client._transport.request("GET", f"{path}/logs"))

    wait_for(lambda: "begun" in log(), 60, "its build begins")
    cancelled = tenant.client._transport.request("POST", f"{path}/cancel")["data"]
    assert (cancelled["state"], cancelled["error_message"]) == ("failed", "The build was cancelled.")
    wait_for(lambda: "ended" in log(), 10, "the log tells of it")
    assert b"one" in web.get(url)[2], "the old version serves"
    with pytest.raises(MiosaError) as refused:
        tenant.client._transport.request("POST", f"{path}/cancel")
    assert refused.value.code == "OPERATION_NOT_CANCELLABLE"
    assert [version.state for version in versions.list()] == ["failed", "ready"]
    # The next publish is not held up by what was cancelled.
    sandbox.write_file("/workspace/index.html", "<h1>three</h1>")
    sandbox.deploy(name="cancelled", build_command="", output_path=".")
    wait_for(lambda: b"three" in web.get(url)[2], 60, "the next version serves")
