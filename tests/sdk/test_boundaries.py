"""Bad input gets a clear error and loses nothing; tenants never see each other."""

import json
import urllib.error
import urllib.request
import uuid

import pytest
from miosa import Miosa
from miosa.errors import AuthenticationError, MiosaError, NotFoundError, ValidationError

from helpers import deploy_server, wait_state


def call(platform, method, path, *, key=None, body=None, headers=None):
    """A bare request to the API: (status, headers, JSON or text)."""
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    request = urllib.request.Request(platform.ready["api_url"] + path, data=data, method=method)
    if data is not None:
        request.add_header("content-type", "application/json")
    if key:
        request.add_header("authorization", f"Bearer {key}")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, fields, text = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, fields, text = error.code, error.headers, error.read()
    try:
        return status, fields, json.loads(text)
    except ValueError:
        return status, fields, text.decode()


def test_a_wrong_key_is_refused(platform):
    with pytest.raises(AuthenticationError) as refused:
        Miosa(api_key="msk_wrong", base_url=platform.ready["api_url"]).sandboxes.list()
    assert "key" in str(refused.value).lower()
    status, headers, body = call(platform, "GET", "/api/v1/sandboxes")
    assert status == 401 and body["error"]["code"] == "invalid_token" and headers["x-request-id"]


def test_an_id_that_is_no_uuid_is_named(tenant, platform):
    for path in ("/api/v1/sandboxes/sbx_1", "/api/v1/sandboxes/%2e%2e/exec"):
        status, _, body = call(platform, "GET", path, key=tenant.key)
        assert status in (400, 404, 405), body
    status, _, body = call(platform, "GET", "/api/v1/sandboxes/sbx_1", key=tenant.key)
    assert (status, body["error"]["code"]) == (400, "INVALID_ID") and "sbx_1" in body["error"]["message"]
    assert body["error"]["request_id"]


def test_unknown_things_are_404_in_the_envelope(tenant, platform):
    status, _, body = call(platform, "GET", f"/api/v1/sandboxes/{uuid.uuid4()}", key=tenant.key)
    assert (status, body["error"]["code"]) == (404, "NOT_FOUND")
    status, _, body = call(platform, "GET", "/api/v1/no-such-thing", key=tenant.key)
    assert status == 404 and body["error"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"template_id": 7}', b'{"size": "huge"}'])
def test_a_body_that_cannot_be_read_is_refused(tenant, platform, body):
    status, _, answer = call(platform, "POST", "/api/v1/sandboxes", key=tenant.key, body=body)
    assert status in (400, 422), answer
    assert answer["error"]["message"] and answer["error"]["code"]


def test_a_command_that_cannot_be_run_is_the_caller_s_mistake(sandbox, tenant, platform):
    assert sandbox.exec("true " + "x" * 100_000).exit_code == 0
    for body, field, words in (
        ({"command": "echo " + "x" * 1_000_000}, "command", "131071"),
        ({"command": "true", "env": {"BIG": "x" * 200_000}}, "env", "131071"),
        ({"command": "pwd", "cwd": "/no/such/folder"}, "cwd", "/no/such/folder"),
        ({"command": "id", "user": "nobody-here"}, "user", "nobody-here"),
    ):
        for call_ in ("exec", "commands", "processes"):
            path = f"/api/v1/sandboxes/{sandbox.id}/{call_}"
            status, _, answer = call(platform, "POST", path, key=tenant.key, body=body)
            error = answer["error"]
            assert (status, error["retryable"]) == (422, False), answer
            assert error["details"]["field"] == field and words in error["message"], (call_, answer)
    with pytest.raises(ValidationError) as refused:
        sandbox.run("pwd", {"cwd": "/no/such/folder"})
    assert "/no/such/folder" in str(refused.value)


def test_a_path_that_cannot_be_used_is_named(sandbox, tenant, platform):
    base = f"/api/v1/sandboxes/{sandbox.id}"
    status, _, body = call(platform, "GET", f"{base}/fs/download?path=/no/file", key=tenant.key)
    assert (status, body["error"]["code"]) == (404, "NOT_FOUND")
    assert body["error"]["message"] == "path `/no/file` does not exist"
    for path in ("../../etc/passwd", "/etc", "/etc/passwd/x"):
        write = {"path": path, "content": "x"}
        status, _, body = call(platform, "POST", f"{base}/fs/write", key=tenant.key, body=write)
        assert (status, body["error"]["code"]) == (400, "INVALID_PATH"), (path, body)
        assert "os error" not in body["error"]["message"]


def test_what_is_not_offered_is_refused(tenant):
    with pytest.raises(NotFoundError) as unknown:
        tenant.client.sandboxes.create("cobol-77")
    assert unknown.value.code == "TEMPLATE_NOT_FOUND", unknown.value.__dict__
    with pytest.raises(ValidationError) as refused:
        tenant.client.sandboxes.create(size="xs", github_repo_url="https://example.com/a.git")
    assert refused.value.code == "NOT_SUPPORTED" and "github_repo_url" in str(refused.value)


def test_a_body_that_is_too_large_gets_an_answer(tenant, platform):
    body = b'{"name": "' + b"x" * (40 << 20) + b'"}'
    status, _, answer = call(platform, "POST", "/api/v1/workspaces", key=tenant.key, body=body)
    assert (status, answer["error"]["code"]) == (413, "TOO_LARGE")
    status, _, answer = call(platform, "POST", "/api/v1/workspaces", key="msk_wrong", body=body)
    assert (status, answer["error"]["code"]) == (401, "invalid_token")


def test_an_unknown_host_gets_a_neutral_page(web, platform):
    port = platform.ready["https"].rsplit(":", 1)[1]
    import ssl

    with pytest.raises(ssl.SSLError):
        web.get(f"https://nobody.example:{port}")
    import http.client

    connection = http.client.HTTPConnection(*platform.ready["http"].rsplit(":", 1), timeout=10)
    connection.request("GET", "/", headers={"host": "nobody.example"})
    answer = connection.getresponse()
    seen = str(answer.getheaders()).encode() + answer.read()
    assert answer.status in (308, 404) and b"miosa" not in seen.lower()


def test_a_name_that_another_holds_is_a_conflict(tenant, platform):
    first = tenant.sandbox(slug="front-door")
    with pytest.raises(MiosaError) as taken:
        tenant.client.sandboxes.create(size="xs", slug="front-door")
    assert taken.value.status_code == 409 and "NAME_TAKEN" in str(taken.value.__dict__)
    for bad in ("a--b", "-a", "Ä", "sandbox", "x" * 60):
        with pytest.raises(MiosaError) as refused:
            tenant.client.sandboxes.create(size="xs", slug=bad)
        assert refused.value.status_code == 422, bad
    first.destroy()
    status, _, body = call(
        platform, "POST", "/api/v1/admin/tenants", key=platform.ready["admin_key"],
        body={"name": "Thief", "deployment_domain": tenant.domain},
    )
    assert status == 409, body


def test_tenants_never_see_each_other(tenant, other_tenant, web):
    sandbox = tenant.sandbox(name="private")
    sandbox.write_file("/workspace/secret.txt", "ours")
    deployment, url = deploy_server(tenant, "ours", "ours")
    wait_state(tenant.client, deployment, "running")
    rival = other_tenant.client
    assert rival.sandboxes.list() == [] and rival.deployments.list() == []
    for attempt in (
        lambda: rival.sandboxes.get(sandbox.id),
        lambda: rival.sandboxes.get_by_name("private"),
        lambda: rival.sandboxes.delete(sandbox.id),
        lambda: rival.deployments.get(deployment),
        lambda: rival.deployments.rollback(deployment),
        lambda: rival.deployments.versions(deployment).list(),
        lambda: rival.deployments.runtime_instances(deployment).list(),
        lambda: rival._transport.request("POST", f"/sandboxes/{sandbox.id}/exec", json_body={"command": "id"}),
        lambda: rival._transport.request("GET", f"/sandboxes/{sandbox.id}/fs/download?path=/workspace/secret.txt"),
        lambda: rival._transport.request("POST", f"/sandboxes/{sandbox.id}/deploy", json_body={"name": "x"}),
        lambda: rival._transport.request("POST", f"/sandboxes/{sandbox.id}/expose", json_body={"port": 80}),
    ):
        with pytest.raises(NotFoundError):
            attempt()
    assert tenant.client.sandboxes.get(sandbox.id).state == "running"
    assert web.get(url)[0] == 200
    sandbox.destroy()


def test_an_ordinary_key_is_no_operator(tenant, platform):
    status, _, body = call(platform, "POST", "/api/v1/admin/tenants", key=tenant.key, body={"name": "Me Too"})
    assert status == 403, body


def test_branding_that_cannot_be_shown_is_refused(tenant):
    with pytest.raises(ValidationError) as refused:
        tenant.client.tenant.branding.set({"primary_color": "red; }"})
    assert "primary_color" in str(refused.value)
    tenant.client.tenant.branding.set({"name": "Clinic", "primary_color": "#123456"})
    assert tenant.client.tenant.branding.get()["name"] == "Clinic"
    tenant.client.tenant.branding.delete()
    assert tenant.client.tenant.branding.get() is None


def test_a_broken_request_does_not_reach_anyone(platform):
    import socket

    host, port = platform.ready["http"].rsplit(":", 1)
    for raw in (
        b"GET / HTTP/1.1\r\nHost: a.localhost\r\nHost: b.localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw)
            answer = connection.recv(4096)
        assert answer[:10] == b"HTTP/1.1 4", (raw, answer)
