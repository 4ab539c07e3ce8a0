"""What is too large, too many, or made to unfold: refused in words, and nothing grows by it."""

import http.client
import pathlib
import select
import time
import urllib.parse

import pytest
from miosa.errors import MiosaError

from helpers import wait_for, wait_state

MIB = 1 << 20


def memory(pid: int) -> int:
    """Of a process, in MiB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024


def upload(platform, tenant, sandbox, path: str, mebibytes: int):
    """Sends so many zeros; returns the status and the most memory that control and edge had."""
    at = urllib.parse.urlsplit(platform.ready["api_url"])
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=120)
    target = f"/api/v1/sandboxes/{sandbox.id}/fs/upload?path={urllib.parse.quote(path)}"
    connection.putrequest("PUT", target)
    connection.putheader("authorization", f"Bearer {tenant.key}")
    connection.putheader("content-length", str(mebibytes * MIB))
    connection.endheaders()
    piece, most = bytes(MIB), 0
    for number in range(mebibytes):
        connection.send(piece)
        if number % 64 == 0:
            most = max(most, memory(platform.child("control")), memory(platform.child("edge")))
    status = connection.getresponse().status
    connection.close()
    return status, most


def test_two_gigabytes_are_uploaded_and_nothing_grows(platform, tenant):
    sandbox = tenant.sandbox()
    before = max(memory(platform.child("control")), memory(platform.child("edge")))
    status, most = upload(platform, tenant, sandbox, "/workspace/large.bin", 2048)
    assert status == 201
    assert most < before + 64, f"from {before} to {most} MiB"
    size = sandbox.run("stat -c %s /workspace/large.bin").stdout
    assert int(size) == 2048 * MIB
    sandbox.destroy()


def test_stalled_bodies_of_one_tenant_are_bounded_and_disturb_no_other(platform, tenant, other_tenant):
    sandbox, other = tenant.sandbox(), other_tenant.sandbox()
    at = urllib.parse.urlsplit(platform.ready["api_url"])
    before, stalled = memory(platform.child("control")), []
    try:
        for _ in range(12):
            connection = http.client.HTTPConnection(at.hostname, at.port, timeout=20)
            connection.putrequest("POST", f"/api/v1/sandboxes/{sandbox.id}/fs/write")
            connection.putheader("authorization", f"Bearer {tenant.key}")
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", str(60 * MIB))
            connection.endheaders()
            stalled.append(connection)
            for _ in range(50):
                connection.send(b" " * MIB)

        def refused():
            # Answered before it was sent; the others wait for the rest of their bodies.
            ready = select.select([one.sock for one in stalled], [], [], 0)[0]
            return len(ready) == 10 and [one for one in stalled if one.sock in ready]

        answered = wait_for(refused, 20, "all but the two that fit into a tenant's share are refused")
        assert {one.getresponse().status for one in answered} == {503}
        grown = memory(platform.child("control")) - before
        assert grown < 300, f"by {grown} MiB"
        begun = time.monotonic()
        other.write_file("/workspace/large.txt", "x" * (4 * MIB))
        assert time.monotonic() - begun < 10
        sandbox.write_file("/workspace/small.txt", "x" * 1000)
    finally:
        for connection in stalled:
            connection.close()
    def is_whole():
        try:
            return sandbox.write_file("/workspace/large.txt", "x" * (40 * MIB)) or True
        except MiosaError as error:
            assert error.code == "BUSY", error
            return False

    wait_for(is_whole, 30, "room, once the others are gone")


def refusal(tenant, sandbox, name: str) -> str:
    """Why a publish was refused, at once or by its build."""
    try:
        deployed = sandbox.deploy(name=name, build_command="", output_path=".")
    except MiosaError as error:
        return str(error)
    wait_state(tenant.client, deployed["deployment_id"], "failed", 120)
    version = tenant.client.deployments.versions(deployed["deployment_id"]).list()[0]
    return version.error_message or tenant.client.deployments.get(deployed["deployment_id"]).error_message


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("count", "mkdir many && cd many && seq 120000 | xargs -n 1000 touch"),
        ("size", "truncate -s 40G hole"),
    ],
)
def test_a_source_that_is_too_much_is_refused(platform, tenant, what, command):
    sandbox = tenant.sandbox()
    sandbox.write_file("/workspace/index.html", "<h1>bomb</h1>")
    made = sandbox.run(f"cd /workspace && {command}", {"timeout": 50})
    assert made.exit_code == 0, made
    before = memory(platform.child("control"))
    why = refusal(tenant, sandbox, f"bomb-{what}")
    assert any(word in why for word in ("too many", "too large", "at most", "larger than", "more than")), why
    assert memory(platform.child("control")) < before + 100
    sandbox.destroy()
