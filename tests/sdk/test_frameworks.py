"""What people really publish is found by detection, installed from the registries and served.

Each source is the smallest one that its framework's own guide would have; nothing says what it is.
"""

import json

import pytest
from helpers import wait_state

FLASK = """
from flask import Flask

service = Flask(__name__)


@service.get("/")
def home():
    return {"marker": "flask"}
"""

EXPRESS = """
import express from 'express'
const app = express()
app.get('/', (request, response) => response.json({ marker: 'express' }))
app.listen(process.env.PORT ?? 3000)
"""

HONO = """
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
const app = new Hono()
app.get('/', (context) => context.json({ marker: 'hono' }))
serve({ fetch: app.fetch, port: Number(process.env.PORT ?? 3000) })
"""

PROCFILE = """
import http.server, json, os, sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"marker": sys.argv[1]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


def package(dependencies: dict, **more) -> str:
    return json.dumps({"name": "app", "private": True, "type": "module", "dependencies": dependencies, **more})


def next_app(page: str, config: str) -> dict:
    scripts = {"build": "next build", "start": "next start"}
    return {
        "package.json": package({"next": "15", "react": "19", "react-dom": "19"}, scripts=scripts),
        "next.config.mjs": config,
        "app/layout.js": "export default ({ children }) => <html><body>{children}</body></html>",
        "app/page.js": page,
    }


SERVERS = {
    "express": {"package.json": package({"express": "5"}), "server.js": EXPRESS},
    "hono": {"package.json": package({"hono": "4", "@hono/node-server": "1"}), "src/index.js": HONO},
    "flask": {"requirements.txt": "flask\ngunicorn\n", "app.py": FLASK},
    "procfile": {"Procfile": "worker: false\nweb: python3 boot.py procfile\n", "boot.py": PROCFILE},
}


def publish(tenant, name: str, files: dict, **options):
    sandbox = tenant.sandbox()
    sandbox.files.write_many([{"path": f"/workspace/{path}", "content": text} for path, text in files.items()])
    deployed = sandbox.deploy(name=name, **options)
    sandbox.destroy()
    wait_state(tenant.client, deployed["deployment_id"], "running", 420)
    version = tenant.client.deployments.versions(deployed["deployment_id"]).list()[0]
    return deployed["url"], version.kind


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_found_and_answers(name, tenant, web):
    url, kind = publish(tenant, name, SERVERS[name])
    status, _, body = web.get(url)
    assert (status, json.loads(body)["marker"], kind) == (200, name, "dynamic")


def test_next_as_a_server_renders_each_request(tenant, web):
    page = (
        "export const dynamic = 'force-dynamic'\n"
        "export default () => <h1>rendered {process.hrtime.bigint().toString()}</h1>"
    )
    url, kind = publish(tenant, "next-server", next_app(page, "export default {}"))
    first, second = (web.get(url) for _ in range(2))
    assert first[0] == second[0] == 200 and kind == "dynamic"
    assert b"rendered" in first[2] and first[2] != second[2]


def test_next_as_an_export_is_files(tenant, web):
    page = "export default () => <h1>exported</h1>"
    config = "export default { output: 'export' }"
    url, kind = publish(tenant, "next-export", next_app(page, config))
    status, headers, body = web.get(url)
    assert status == 200 and b"exported" in body and kind == "static"
    assert "etag" in headers and "x-powered-by" not in headers


def test_what_the_build_is_told_is_not_in_what_it_makes(tenant, web):
    secret = "s3cret-of-the-build"
    files = {
        "package.json": package({}, scripts={"build": "node build.mjs"}),
        "build.mjs": (
            "import { mkdirSync, writeFileSync } from 'node:fs'\n"
            "mkdirSync('dist', { recursive: true })\n"
            "writeFileSync('dist/index.html', `<h1>length ${process.env.TOKEN.length}</h1>`)\n"
        ),
    }
    sandbox = tenant.sandbox()
    sandbox.files.write_many([{"path": f"/workspace/{path}", "content": text} for path, text in files.items()])
    body = {"name": "build-env", "env": {"TOKEN": secret}}
    made = tenant.client._transport.request("POST", f"/sandboxes/{sandbox.id}/deploy", json_body=body)
    sandbox.destroy()
    deployment = wait_state(tenant.client, made["deployment_id"], "running", 240)
    assert f"length {len(secret)}".encode() in web.get(made["url"])[2]
    seen = [str(deployment.__dict__)]
    for path in ("", "/versions", "/logs", f"/versions/{made['version_id']}/logs"):
        seen.append(str(tenant.client._transport.request("GET", f"/deployments/{made['deployment_id']}{path}")))
    assert not [text for text in seen if secret in text], "a secret of the build is shown"
