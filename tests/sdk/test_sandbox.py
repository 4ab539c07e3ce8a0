"""Sandboxes through the real SDK: lifecycle, exec, files, packages, previews."""

import asyncio
import time

import pytest
from miosa import AsyncMiosa
from miosa.errors import MiosaError

from helpers import wait_for


def test_create_get_list_destroy(tenant):
    sandbox = tenant.sandbox(name="lifecycle")
    assert sandbox.state == "running" and sandbox.ready
    assert tenant.client.sandboxes.get(sandbox.id).slug == sandbox.slug
    assert tenant.client.sandboxes.get_by_name("lifecycle").id == sandbox.id
    assert sandbox.id in [row.id for row in tenant.client.sandboxes.list()]
    sandbox.destroy()
    assert tenant.client.sandboxes.get(sandbox.id).state == "destroyed"
    with pytest.raises(MiosaError):
        tenant.client.sandboxes.get(sandbox.id).run("true")


def test_exec_reports_what_happened(sandbox):
    result = sandbox.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert sandbox.run("echo $WORD; pwd", {"env": {"WORD": "ü"}, "cwd": "/tmp"}).stdout == "ü\n/tmp\n"
    assert sandbox.run("no-such-program").exit_code == 127
    started = time.monotonic()
    late = sandbox.run("sleep 30", {"timeout": 1})
    assert late.exit_code != 0 and time.monotonic() - started < 10


def test_exec_returns_although_a_background_child_keeps_the_pipe(sandbox):
    started = time.monotonic()
    result = sandbox.run("sleep 20 & echo done")
    assert result.stdout == "done\n" and result.exit_code == 0
    assert time.monotonic() - started < 5


def test_exec_streams_in_order(sandbox):
    events = list(sandbox.exec.stream("for n in $(seq 1 50); do echo line $n; done; exit 5"))
    text = "\n".join(str(event.data) for event in events)
    places = [text.index(f"line {n}") for n in (1, 2, 49, 50)]
    assert places == sorted(places)
    assert "5" in str(events[-1].data)


def test_files_go_in_and_come_out(sandbox):
    body = bytes(range(256)) * 5000
    sandbox.upload("/workspace/deep/er/blob.bin", body)
    assert sandbox.download("/workspace/deep/er/blob.bin") == body
    sandbox.write_file("/workspace/text.txt", "grüße\n")
    assert sandbox.read_file("/workspace/text.txt") == "grüße\n"
    assert sandbox.stat_file("/workspace/text.txt")["size"] == 8
    names = [entry["name"] for entry in sandbox.list_files("/workspace")["entries"]]
    assert {"deep", "text.txt"} <= set(names)
    assert sandbox.run("stat -c %U text.txt deep deep/er/blob.bin").stdout.split() == ["user"] * 3
    with pytest.raises(MiosaError) as missing:
        sandbox.download("/workspace/none")
    assert "none" in str(missing.value)


def test_root_is_root_inside_only(sandbox):
    assert sandbox.run("sudo -n id -u").stdout == "0\n"
    assert sandbox.run("sudo -n mount -t tmpfs none /mnt").exit_code != 0
    assert sandbox.run("unshare -U true").exit_code != 0
    assert sandbox.run("ls /sys/class/net 2>/dev/null | wc -l").stdout == "0\n"


def test_packages_install_from_the_registries(sandbox):
    npm = sandbox.run("mkdir -p n && cd n && npm init -y >/dev/null && npm install is-number 2>&1", {"timeout": 55})
    assert npm.exit_code == 0, npm.stdout + npm.stderr
    pip = sandbox.run("pip install --quiet six 2>&1 && python3 -c 'import six; print(six.__version__)'", {"timeout": 55})
    assert pip.exit_code == 0, pip.stdout + pip.stderr


def test_host_and_neighbour_are_out_of_reach(tenant, sandbox, platform):
    neighbour = tenant.sandbox()
    neighbour.processes.start("python3 -m http.server 8000 --bind 0.0.0.0")
    address = neighbour.run("hostname -I || ip -4 -o addr show eth0").stdout.split()[0]
    reach = "timeout 3 bash -c 'echo > /dev/tcp/{}/{}' 2>&1"
    gateway = sandbox.run("ip route show default | cut -d' ' -f3").stdout.strip()
    assert gateway, "the sandbox has no default route"
    port = platform.ready["http"].rsplit(":", 1)[1]
    for host, number in ((address, 8000), (gateway, port), (gateway, 22), ("169.254.169.254", 80)):
        assert sandbox.run(reach.format(host, number)).exit_code != 0, f"{host}:{number} was reached"
    neighbour.destroy()


@pytest.mark.parametrize("bind", ["0.0.0.0", "127.0.0.1"])
def test_a_preview_reaches_a_server(sandbox, web, bind):
    sandbox.write_file("/workspace/index.html", f"<h1>hello from {bind}</h1>")
    url = sandbox.expose(8123)
    status, headers, page = web.get(url, headers={"accept": "text/html"})
    assert status == 503 and headers["retry-after"], "a port that is not up has its own page"
    assert b"http-equiv" in page or b"location.reload" in page, "the page reloads itself"
    sandbox.processes.start(f"python3 -m http.server 8123 --bind {bind}")
    answer = web.wait_for(url, lambda status, _, body: status == 200 and bind.encode() in body, seconds=20)
    assert answer, f"a server on {bind} was not reached"


def test_server_sent_events_are_not_held_back(sandbox, web):
    sandbox.write_file(
        "/workspace/events.mjs",
        "import {createServer} from 'node:http'\n"
        "createServer((q, s) => {s.writeHead(200, {'content-type': 'text/event-stream'});"
        "s.write('data: first\\n\\n')}).listen(9001, '127.0.0.1')",
    )
    sandbox.processes.start("node events.mjs")
    import http.client
    import ssl
    from urllib.parse import urlsplit

    url = urlsplit(sandbox.expose(9001))

    def first_event():
        from web import _Connection

        connection = _Connection(web, url.hostname, 5)
        try:
            connection.request("GET", "/", headers={"host": url.netloc, "accept": "text/event-stream"})
            answer = connection.getresponse()
            return answer.status == 200 and answer.readline() == b"data: first\n"
        except (OSError, http.client.HTTPException, ssl.SSLError):
            return False
        finally:
            connection.close()

    wait_for(first_event, 20, "the first event of a stream that never ends")


def test_the_guest_is_not_a_preview(sandbox, web):
    url = sandbox.expose(8123).replace("8123-", "49983-")
    status, _, body = web.get(url + "/health")
    assert status >= 400 and status != 204, body


def test_previews_are_rows(sandbox):
    preview = sandbox.previews.create(port=8123, name="web")
    assert preview["port"] == 8123 and preview["visibility"] == "public"
    assert [row["id"] for row in sandbox.previews.list()] == [preview["id"]]
    assert sandbox.previews.get(preview["id"])["url"] == preview["url"]
    sandbox.previews.delete(preview["id"])
    assert sandbox.previews.list() == []


def test_a_private_preview_opens_to_its_token_until_it_is_taken_back(sandbox, web):
    sandbox.run("cd /tmp && nohup python3 -m http.server 8124 >/dev/null 2>&1 &")
    preview = sandbox.previews.create(port=8124, visibility="private", name="secret")
    assert preview["visibility"] == "private"
    status, _, body = web.get(preview["url"])
    assert status == 403 and b"private" in body
    shared = sandbox.previews.share(preview["id"], ttl_seconds=600)
    token, url = shared["preview_token"], shared["share_url"]
    assert web.wait_for(url, lambda status, *_: status == 200, seconds=20), "the link does not open it"
    status, headers, _ = web.get(url, headers={"sec-fetch-mode": "navigate", "accept": "text/html"})
    assert status == 303 and token not in headers["location"]
    cookie = headers["set-cookie"].split(";")[0]
    assert web.get(preview["url"], headers={"cookie": cookie})[0] == 200
    seen = sandbox.previews.get(preview["id"])
    assert token.startswith(seen["share_token_prefix"]) and seen["share_token_expires_at"]
    sandbox.previews.revoke_share(preview["id"])
    assert web.get(preview["url"], headers={"cookie": cookie})[0] == 403, "taken back, yet it opens"
    assert web.get(url)[0] == 403


def test_a_preview_token_opens_every_private_port(sandbox, web):
    sandbox.run("cd /tmp && nohup python3 -m http.server 8125 >/dev/null 2>&1 &")
    preview = sandbox.previews.create(port=8125, visibility="private")
    made = sandbox.preview_token(expires_in=60)
    for name in ("mt", "mp", "token"):
        url = f"{preview['url']}/?{name}={made['token']}"
        assert web.wait_for(url, lambda status, *_: status == 200, seconds=20), name
    assert web.get(preview["url"])[0] == 403


def test_a_used_sandbox_never_returns(tenant):
    first = tenant.sandbox(size="small")
    first.write_file("/home/user/secret", "mine")
    first.destroy()
    warm = 0
    for _ in range(4):
        with tenant.sandbox(size="small") as fresh:
            warm += fresh.boot_path == "warm"
            assert fresh.run("test ! -e /home/user/secret && echo clean").stdout.strip() == "clean"
    assert warm, "none came from the pool, so nothing was shown of it"


def test_the_same_key_makes_one_sandbox(tenant):
    options = {"size": "xs", "idempotency_key": "one-and-only"}
    first = tenant.client.sandboxes.create(**options)
    again = tenant.client.sandboxes.create(**options)
    assert first.id == again.id
    with pytest.raises(MiosaError) as mismatch:
        tenant.client.sandboxes.create(**{**options, "size": "small"})
    assert "IDEMPOTENCY_PAYLOAD_MISMATCH" in str(mismatch.value.__dict__)
    first.destroy()


def test_templates_are_listed(tenant):
    listed = tenant.client.sandboxes.list_templates()
    rows = listed["data"] if isinstance(listed, dict) else listed
    assert "miosa-sandbox" in [row["id"] for row in rows]


def test_async_client(tenant, platform):
    async def run():
        async with AsyncMiosa(api_key=tenant.key, base_url=platform.ready["api_url"]) as client:
            sandbox = await client.sandboxes.create(size="xs")
            assert await sandbox.wait_until_ready(60)
            result = await sandbox.run("echo hello")
            await sandbox.destroy()
            return result.stdout

    assert asyncio.run(run()) == "hello\n"
