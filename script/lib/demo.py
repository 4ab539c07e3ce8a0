"""The mission on real apps, with a proof table. Run by script/demo.

Each check is a function that returns (expected, seen, ok). A check that raises is a row that is
not ok; the checks after it run all the same, as far as they can.
With --json the last line is the result, whatever happens: it is printed at exit.
"""

import atexit
import json
import sys

RESULT = {"ok": False, "checks": [], "error": "it did not come to its first check"}


@atexit.register
def last_line():
    if "--json" in sys.argv:
        print(json.dumps(RESULT, ensure_ascii=False), flush=True)


# What fails from here on, imports included, has its last line.
import os  # noqa: E402
import pathlib  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from urllib.request import urlopen  # noqa: E402

from miosa import Miosa  # noqa: E402
from miosa.errors import MiosaError  # noqa: E402

from platform_process import Platform, alive  # noqa: E402
from web import Web, load_while  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PLATFORM_WORD = "miosa"


class Demo:
    """State shared by the checks."""

    def __init__(self, platform: Platform):
        self.platform = platform
        self.rows = []
        self.notes = {}

    # --- the table -------------------------------------------------------------------------

    def check(self, name: str, step):
        print(f"  … {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            expected, seen, ok = step()
        except Exception as error:
            expected, ok = (step.__doc__ or name).strip().splitlines()[0], False
            seen = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=sys.stderr)
        row = {"check": name, "expected": expected, "seen": seen, "ok": bool(ok)}
        self.rows.append(row)
        mark = "\033[32m✓\033[0m" if ok else "\033[31m✗\033[0m"
        took = time.monotonic() - start
        print(f"  {mark} {name} — {seen} ({took:.1f} s)", file=sys.stderr, flush=True)

    # --- the steps -------------------------------------------------------------------------

    def start(self):
        """the platform starts"""
        seconds = self.platform.up(seconds=900)
        ready = self.platform.ready
        self.web = Web(ready["https"], ready["ca_cert"])
        self.operator = Miosa(api_key=ready["admin_key"], base_url=ready["api_url"])
        return "ready.json", f"ready after {seconds:.1f} s", True

    def health(self):
        """/health answers with version and commit"""
        with urlopen(self.platform.ready["api_url"] + "/health", timeout=10) as answer:
            body = json.load(answer)
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        ok = body["status"] == "ok" and body["service"] == "miosa-compute" and body["version"]
        ok = ok and body["commit"] and commit.startswith(body["commit"].removesuffix("-dirty"))
        return f"status ok, commit {commit[:9]}", f"{body['status']}, {body['commit'][:15]}", ok

    def tenant(self):
        """tenant ClinicIQ with its brand and domain"""
        answer = self.operator._transport.request(
            "POST",
            "/admin/tenants",
            json_body={
                "name": "ClinicIQ",
                "deployment_domain": "cliniciq.localhost",
                "preview_domain": "cliniciq.localhost",
            },
        )["data"]
        self.client = Miosa(api_key=answer["api_key"], base_url=self.platform.ready["api_url"])
        brand = {
            "name": "ClinicIQ",
            "primary_color": "#0f766e",
            "support_url": "https://cliniciq.example/help",
        }
        self.client.tenant.branding.set(brand)
        seen = self.client.tenant.branding.get()
        status, _, page = self.web.get("https://nothing-here.cliniciq.localhost" + self.port())
        ok = seen["name"] == "ClinicIQ" and status == 404 and b"ClinicIQ" in page
        return "brand set; its 404 page carries it", f"{seen['name']}; 404 page branded: {b'ClinicIQ' in page}", ok

    def sandbox(self):
        """a sandbox from the warm pool is ready at once"""
        start = time.monotonic()
        self.front = self.client.sandboxes.create(name="front-desk", size="small", timeout_sec=3600)
        assert self.front.wait_until_ready(60), "not ready within 60 s"
        took = (time.monotonic() - start) * 1000
        seen = f"{self.front.state}, {self.front.boot_path}, boot_ms {self.front.boot_ms}, {took:.0f} ms for the SDK"
        return "running, warm", seen, self.front.state == "running" and self.front.boot_path == "warm"

    def exec(self):
        """a command runs as an ordinary user in /workspace, streamed output arrives in order"""
        result = self.front.run("id -un; pwd; python3 --version; node --version; git --version")
        lines = result.stdout.split("\n")
        events = list(self.front.exec.stream("for n in 1 2 3; do echo line $n; done; exit 4"))
        text = "".join(str(event.data) for event in events)
        ok = lines[:2] == ["user", "/workspace"] and result.exit_code == 0
        ok = ok and text.index("line 1") < text.index("line 3") and "4" in str(events[-1].data)
        return "user in /workspace, exit code of a stream", f"{', '.join(lines[:5])}; {len(events)} events", ok

    def preview(self):
        """Vite over HTTPS with a hot-reload WebSocket, in a real Chromium"""
        self.write(self.front, "front-desk")
        install = self.front.run("npm ci --no-audit --no-fund 2>&1 | tail -n 3", {"timeout": 55})
        assert install.exit_code == 0, install.stdout + install.stderr
        self.front.processes.start("npm run dev -- --port 5173 --strictPort", name="vite")
        self.preview_url = self.front.expose(5173)
        answer = self.web.wait_for(
            self.preview_url, lambda status, _, body: status == 200 and b"/src/main.jsx" in body, seconds=60
        )
        assert answer, "the dev server was not reached within 60 s"
        headline = (EXAMPLES / "front-desk/src/headline.js").read_text()
        spec = {
            "url": self.preview_url,
            "address": self.platform.ready["https"],
            "before": "Good morning",
            "after": "Good afternoon",
            "screenshot": str(self.platform.data_dir.parent / "preview.png"),
        }
        browser = subprocess.Popen(
            ["node", ROOT / "script/lib/hotreload.mjs"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        browser.stdin.write(json.dumps(spec))
        browser.stdin.close()
        assert browser.stdout.readline().strip() == "ready", "Chromium did not see the page"
        self.front.write_file("/workspace/src/headline.js", headline.replace("Good morning", "Good afternoon"))
        seen = json.loads(browser.stdout.readline() or "{}")
        browser.wait(timeout=30)
        ok = seen.get("sameDocument") and seen.get("reloads") == 0 and seen.get("frames", 0) > 0
        return "changed without a reload", f"changed after {seen.get('ms')} ms, {seen.get('reloads')} reloads, {seen.get('frames')} WebSocket frames", ok

    def static(self):
        """the Vite app, built and published as files"""
        start = time.monotonic()
        deployed = self.front.deploy(name="front-desk")
        accepted = time.monotonic() - start
        self.front_id, self.front_url = deployed["deployment_id"], deployed["url"]
        self.wait_running(self.client, self.front_id)
        live = time.monotonic() - start
        status, headers, body = self.web.get(self.front_url)
        about = self.web.get(self.front_url + "/about")
        route = self.web.get(self.front_url + "/patients/7")
        missing = self.web.get(self.front_url + "/assets/none.js")
        again = self.web.get(self.front_url, headers={"if-none-match": headers.get("etag", "")})
        part = self.web.get(self.front_url + "/about", headers={"range": "bytes=0-14"})
        packed = self.web.get(self.front_url, headers={"accept-encoding": "br"})
        seen = [status, about[0], route[0], missing[0], again[0], part[0]]
        ok = seen == [200, 200, 200, 404, 304, 206] and b'id="root"' in body and b"of its own" in about[2]
        ok = ok and part[2] == b"<!doctype html>" and b'id="root"' in route[2]
        version = self.client.deployments.versions(self.front_id).list()[0]
        ok = ok and version.kind == "static"
        return (
            "page, clean URL, SPA fallback 200; unknown file 404; 304; 206",
            f"{seen}, {packed[1].get('content-encoding', 'identity')}; accepted in {accepted:.1f} s, live after {live:.1f} s",
            ok,
        )

    def full_stack(self):
        """the Express app with a real API and state"""
        self.desk = self.client.sandboxes.create(name="appointments", size="small", timeout_sec=3600)
        assert self.desk.wait_until_ready(60), "not ready within 60 s"
        self.write(self.desk, "appointments")
        start = time.monotonic()
        deployed = self.desk.deploy(name="appointments")
        self.app_id, self.app_url = deployed["deployment_id"], deployed["url"]
        self.wait_running(self.client, self.app_id)
        live = time.monotonic() - start
        made = self.web.get(
            self.app_url + "/api/appointments", method="POST", body={"patient": "R. Okafor", "at": "09:00"}
        )
        listed = json.loads(self.web.get(self.app_url + "/api/appointments")[2])
        page = self.web.get(self.app_url)
        ok = made[0] == 201 and [item["patient"] for item in listed["items"]] == ["R. Okafor"]
        ok = ok and page[0] == 200 and b"<h1>Appointments</h1>" in page[2]
        instances = self.client.deployments.runtime_instances(self.app_id).list()
        ok = ok and any(instance.state == "healthy" for instance in instances)
        return "page, API keeps what it is given", f"{made[0]}, {len(listed['items'])} item, live after {live:.1f} s", ok

    def sources_destroyed(self):
        """both source sandboxes are destroyed, both apps still answer"""
        self.front.destroy()
        self.desk.destroy()
        states = [self.client.sandboxes.get(s.id).state for s in (self.front, self.desk)]
        gone = self.web.wait_for(
            self.preview_url, lambda status, _, body: status in (404, 503) and b"/src/main.jsx" not in body, seconds=20
        )
        codes = self.both()
        return "apps 200, 200; preview gone", f"apps {codes}; sandboxes {states}; preview {gone and gone[0]}", codes == [200, 200] and bool(gone)

    def app_killed(self):
        """0 failed GETs while the app's process is killed under load"""
        before = self.healthy()

        def kill(load):
            pid = self.platform.app_process("server.js")
            deadline = time.monotonic() + 10
            while load.in_flight < 10 and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(pid, 9)
            moment = time.monotonic()
            end = moment + 60
            while time.monotonic() < end:
                now = self.healthy()
                if now and now != before:
                    return moment, now
                time.sleep(0.05)
            return moment, None

        (moment, after), load = load_while(self.web, self.app_url + "/api/report", b'"app":"appointments"', kill)
        in_flight = load.in_flight_at(moment)
        held = [took for start, took in load.answers if start <= moment + 0.001 < start + took]
        recovery = max(held, default=0)
        ok = load.failed == 0 and after and after != before and in_flight >= 10 and load.done > 100
        seen = (
            f"{load.failed} failed of {load.done + load.failed}, {in_flight} in flight at the kill, slowest answer "
            f"{recovery * 1000:.0f} ms, instance {(before or '?')[:13]} → {(after or '?')[:13]}"
        )
        if load.failures:
            seen += f"; first failures: {load.failures[:3]}"
        return "0 failed, ≥ 10 in flight, new instance", seen, ok

    def control_killed(self):
        """0 failed requests while control is killed, and the API answers again through the edge"""
        ready = self.platform.ready
        assert ready["api_url"] == f"http://{ready['http']}", "the API is not asked through the edge"
        api = Miosa(api_key=ready["admin_key"], base_url=ready["api_url"], max_retries=0)
        old = self.platform.child("control")

        def kill(_load):
            os.kill(old, 9)
            start = time.monotonic()
            self.wait_for(lambda: not alive(old), 5)
            refused = []

            def answers():
                try:
                    api.tenant.branding.get()
                    return True
                except MiosaError as error:
                    refused.append(str(error))

            back = time.monotonic() - start if self.wait_for(answers, 30) else None
            is_new = self.platform.child("control") != old
            return back, is_new, refused, self.client.deployments.get(self.app_id).state

        (back, is_new, refused, state), load = load_while(
            self.web, self.app_url + "/api/report", b'"app":"appointments"', kill
        )
        static = self.web.get(self.front_url)[0]
        ok = load.failed == 0 and is_new and back is not None and back < 5 and not refused
        ok = ok and state == "running" and static == 200
        seen = f"{load.failed} failed of {load.done}, API answers " + (
            f"{back * 1000:.0f} ms after the kill" if back is not None else "no more"
        )
        if refused:
            seen += f"; {len(refused)} calls failed, first: {refused[0]}"
        return "0 failed; API answers through the edge within 5 s, no call failed", seen, ok

    def everything_killed(self):
        """platform and workloads killed and started again: both apps answer"""
        count = self.platform.kill_everything()
        start = time.monotonic()
        ready = self.platform.up(seconds=60)
        static = self.web.wait_for(self.front_url, lambda s, _, b: s == 200 and b'id="root"' in b, seconds=60)
        static_s = time.monotonic() - start
        dynamic = self.web.wait_for(
            self.app_url + "/api/report", lambda s, _, b: s == 200 and b'"app":"appointments"' in b, seconds=60
        )
        dynamic_s = time.monotonic() - start
        seen = f"{count} processes killed; ready {ready:.1f} s, static {static_s:.1f} s, full-stack {dynamic_s:.1f} s"
        return "both apps answer again", seen, bool(static and dynamic)

    def rollback(self):
        """a second version goes live under load, and the first comes back"""
        source = self.client.sandboxes.create(name="appointments-2", size="small", timeout_sec=3600)
        assert source.wait_until_ready(60), "not ready within 60 s"
        self.write(source, "appointments")
        server = (EXAMPLES / "appointments/server.js").read_text()
        source.write_file("/workspace/server.js", server.replace("release = '1'", "release = '2'"))
        old = self.client.deployments.get(self.app_id).active_version_id

        def release():
            return json.loads(self.web.get(self.app_url + "/api/health")[2])["release"]

        def publish_and_roll_back(_load):
            source.deploy(deployment_id=self.app_id)
            second = self.wait_for(lambda: release() == "2", 120)
            self.client.deployments.rollback(self.app_id)
            first = self.wait_for(lambda: release() == "1", 60)
            return second, first

        (second, first), load = load_while(
            self.web, self.app_url + "/api/report", b'"app":"appointments"', publish_and_roll_back, clients=8
        )
        source.destroy()
        back = self.client.deployments.get(self.app_id).active_version_id
        ok = second and first and back == old and load.failed == 0
        return "release 2, then 1 again, 0 failed", f"release 2: {second}, back to 1: {first}, {load.failed} failed of {load.done}", ok

    def unbranded(self):
        """no platform word in headers, cookies or pages of the tenant's hosts"""
        port, found, looked = self.port(), [], 0
        urls = [
            self.front_url, self.front_url + "/about", self.front_url + "/assets/none.js", self.app_url,
            self.app_url + "/api/health", self.app_url + "/none", self.preview_url,
            f"https://none.cliniciq.localhost{port}", f"https://3000-none.sandbox.cliniciq.localhost{port}",
        ]
        for url in urls:
            for accept in ("text/html", "application/json", "*/*"):
                status, headers, body = self.web.get(url, headers={"accept": accept})
                looked += 1
                text = json.dumps(headers).lower() + body.decode("utf-8", "replace").lower()
                if PLATFORM_WORD in text:
                    found.append(f"{url} ({status}, {accept})")
        names = json.dumps(self.certificate("front-desk.cliniciq.localhost")).lower()
        looked += 1
        if PLATFORM_WORD in names or "cliniciq.localhost" not in names:
            found.append(f"certificate: {names}")
        return "nowhere", f"{looked} answers looked at, found in: {found or 'none'}", not found

    # --- helpers ---------------------------------------------------------------------------

    def port(self):
        port = self.platform.ready["https"].rsplit(":", 1)[1]
        return "" if port == "443" else f":{port}"

    def certificate(self, host: str) -> dict:
        """Subject, issuer and names of the certificate that a host is served with."""
        with socket.create_connection(self.web.address, timeout=10) as plain:
            with self.web.tls.wrap_socket(plain, server_hostname=host) as tls:
                return tls.getpeercert()

    def write(self, sandbox, example: str):
        """Writes an example app into /workspace through the API."""
        folder = EXAMPLES / example
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.split()
        items = [{"path": f"/workspace/{name}", "content": (folder / name).read_text()} for name in listed]
        sandbox.files.write_many(items)

    def wait_running(self, client, deployment: str):
        def running():
            now = client.deployments.get(deployment)
            if now.state == "failed":
                logs = client.deployments.get_logs(deployment)
                raise RuntimeError(f"the deployment failed: {now.metadata} {logs}")
            return now.state == "running"

        assert self.wait_for(running, 180), "not running within 180 s"

    @staticmethod
    def wait_for(wanted, seconds: float):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if wanted():
                return True
            time.sleep(0.05)
        return False

    def both(self):
        return [self.web.get(self.front_url)[0], self.web.get(self.app_url + "/api/health")[0]]

    def healthy(self):
        """Id of the healthy runtime instance."""
        for instance in self.client.deployments.runtime_instances(self.app_id).list():
            if instance.state == "healthy":
                return instance.id
        return None


def main():
    once = "--once" in sys.argv
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    home = pathlib.Path(os.environ.get("MIOSA_DEMO_DIR", "/var/lib/miosa-demo"))
    platform = Platform(os.environ["MIOSA"], home / "data", os.environ["MIOSA_CACHE_DIR"])
    demo = Demo(platform)
    try:
        if platform.data_dir.exists():
            platform.down()
            shutil.rmtree(home)
        platform.data_dir.mkdir(parents=True)
        del RESULT["error"]
        run(demo)
    except BaseException as error:
        RESULT["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        RESULT["checks"] = demo.rows
        is_clean = not once or clean_up(platform)
    RESULT["ok"] = is_clean and all(row["ok"] for row in demo.rows)
    if not once:
        stay(demo)
    sys.exit(0 if RESULT["ok"] else 1)


def clean_up(platform) -> bool:
    """Stops the platform and removes every trace; says whether that worked."""
    try:
        if platform.process and platform.process.poll() is None:
            platform.stop()
        result = platform.down()
        left = result.stderr if result.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        left = str(error)
    if left:
        RESULT["error"] = f"the clean-up failed: {left}"
        print(RESULT["error"], file=sys.stderr)
    return not left


def run(demo):
    print("the mission, on real apps", file=sys.stderr)
    for name, step in [
        ("platform starts", demo.start),
        ("health with commit", demo.health),
        ("tenant and branding", demo.tenant),
        ("sandbox ready, warm", demo.sandbox),
        ("exec", demo.exec),
        ("live preview with hot reload", demo.preview),
        ("static app live", demo.static),
        ("full-stack app live", demo.full_stack),
        ("source sandboxes destroyed", demo.sources_destroyed),
        ("app killed under load", demo.app_killed),
        ("control killed under load", demo.control_killed),
        ("platform and workloads killed", demo.everything_killed),
        ("publish and rollback under load", demo.rollback),
        ("nothing names the platform", demo.unbranded),
    ]:
        demo.check(name, step)
    show(demo.rows)


def show(rows):
    width = max(len(row["check"]) for row in rows)
    print(file=sys.stderr)
    for row in rows:
        mark = "\033[32m✓\033[0m" if row["ok"] else "\033[31m✗\033[0m"
        print(f"{mark} {row['check']:<{width}}  expected: {row['expected']}", file=sys.stderr)
        print(f"  {'':<{width}}  seen:     {row['seen']}", file=sys.stderr)
    good = sum(row["ok"] for row in rows)
    print(f"\n{good} of {len(rows)} rows are ok", file=sys.stderr)


def stay(demo):
    """Keeps the platform running and says where everything is."""
    ready = demo.platform.ready
    if not ready:
        return
    print(
        f"""
The platform keeps running (process {ready['pid']}).
  API        {ready['api_url']}/api/v1
  CA         {ready['ca_cert']}   (import it into the browser)
  front desk {getattr(demo, 'front_url', '–')}
  full stack {getattr(demo, 'app_url', '–')}
Names below .localhost lead to this machine in most browsers.
What runs, what fails, how full the pool is:
  {demo.platform.miosa} status --data-dir {demo.platform.data_dir}
Stop it and remove everything with:
  {demo.platform.miosa} down --data-dir {demo.platform.data_dir}
""",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
