"""Benchmarks, each beside its peer. Run by script/bench; docs/benchmarks.md explains the rows."""

import argparse
import http.client
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from platform_process import Platform

#: Rounds that warm up connections and caches.
WARM_UP = 3
PEER = pathlib.Path(__file__).with_name("bench_crun.py")


def quantile(samples: list, part: float) -> float:
    """Nearest rank."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def row(name: str, samples: list, **more) -> dict:
    assert samples, f"{name}: nothing was measured"
    p50, p95, p99 = (round(quantile(samples, part), 2) for part in (0.5, 0.95, 0.99))
    return {"what": name, "count": len(samples), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, **more}


class Api:
    """Our own client: one kept-alive connection, no SDK."""

    def __init__(self, platform: Platform):
        host, port = platform.ready["http"].rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=60)
        self.fields = {
            "authorization": f"Bearer {platform.ready['admin_key']}",
            "content-type": "application/json",
        }

    def call(self, method: str, path: str, body=None) -> dict:
        self.connection.request(method, "/api/v1" + path, body and json.dumps(body), self.fields)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
        return json.loads(text) if text else {}

    def sandbox(self) -> tuple:
        """Create → first command done: (how it booted, milliseconds, id)."""
        start = time.monotonic()
        made = self.call("POST", "/sandboxes", {"size": "small", "timeout_sec": 3600})
        made = made.get("data", made)
        ran = self.call("POST", f"/sandboxes/{made['id']}/exec", {"command": "true"})
        took = (time.monotonic() - start) * 1000
        assert ran.get("data", ran)["exit_code"] == 0, ran
        return made["boot_path"], took, made["id"]


def pool_is_full(platform: Platform, wanted: int) -> bool:
    host, port = platform.ready["admin"].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    mark = 'platform_replicas{owner="pool",phase="healthy"} '
    return any(line.startswith(mark) and int(line[len(mark):]) >= wanted for line in text.splitlines())


class Crun:
    """`crun run` of /bin/true with the configuration of a sandbox that runs."""

    def __init__(self, platform: Platform, home: pathlib.Path, cache: str):
        config = next((platform.data_dir / "oci" / "run").glob("*/config.json"))
        template = next(pathlib.Path(cache, "templates").glob("*/*/rootfs"))
        command = ["unshare", "--mount", sys.executable, PEER, config, template, home / "peer"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sample(self) -> float:
        print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the peer failed")
        return float(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Container:
    """`docker run` or `podman run` of /bin/true."""

    def __init__(self, engine: str):
        limits = ["--memory", "4g", "--cpus", "2", "--pull", "missing"]
        self.command = [engine, "run", "--rm", *limits, "debian:12-slim", "/bin/true"]

    def sample(self) -> float:
        start = time.monotonic()
        subprocess.run(self.command, check=True, capture_output=True)
        return (time.monotonic() - start) * 1000

    @staticmethod
    def missing(engine: str) -> str | None:
        """Why it cannot be measured here."""
        if not shutil.which(engine):
            return "not installed"
        if subprocess.run([engine, "info"], capture_output=True, timeout=30).returncode:
            return "installed, but its service does not answer"
        return None


def measure(platform: Platform, home, cache: str, count: int, path: str, pool: int) -> list:
    """Rows of sandboxes that booted by `path`, one by one, each beside a sample of each peer: so
    that whatever else the machine does meets all of them."""
    api = Api(platform)
    _, _, first = api.sandbox()  # its configuration is the peer's
    peers = {f"crun run, beside {path}": Crun(platform, home, cache)}
    rows, ours = [], f"sandbox, {path}"
    for engine in ("docker", "podman") if path == "cold" else ():
        if why := Container.missing(engine):
            rows.append({"what": f"{engine} run", "not_measured": why})
        else:
            peers[f"{engine} run"] = Container(engine)
    samples = {ours: [], **{name: [] for name in peers}}
    for number in range(count + WARM_UP):
        end = time.monotonic() + 60
        # A refill that still runs would be measured as well.
        while pool and not pool_is_full(platform, pool):
            assert time.monotonic() < end, "the warm pool does not fill"
            time.sleep(0.02)
        booted, took, sandbox = api.sandbox()
        assert booted == path, f"booted {booted}, not {path}"
        api.call("DELETE", f"/sandboxes/{sandbox}")
        seen = {ours: took, **{name: peer.sample() for name, peer in peers.items()}}
        if number >= WARM_UP:
            for name, took in seen.items():
                samples[name].append(took)
    peers[f"crun run, beside {path}"].close()
    api.call("DELETE", f"/sandboxes/{first}")
    base = quantile(samples[f"crun run, beside {path}"], 0.5)
    return rows + [row(name, of, of_crun=round(quantile(of, 0.5) / base, 2)) for name, of in samples.items()]


def with_platform(settings: str, use):
    """Starts a platform, calls use(platform, folder, cache), and removes every trace."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    home.chmod(0o711)  # the peer's user namespace looks for its root below
    (home / "data").mkdir()
    (home / "settings.toml").write_text(settings)
    cache = os.environ["MIOSA_CACHE_DIR"]
    platform = Platform(os.environ["MIOSA"], home / "data", cache, home / "settings.toml")
    try:
        platform.up(seconds=900)
        return use(platform, home, cache)
    except BaseException:
        print((home / "platform.log").read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        if platform.process and platform.process.poll() is None:
            platform.stop()
        platform.down()
        shutil.rmtree(home, ignore_errors=True)


def sandbox(count: int) -> list:
    pool = 3
    target = f'[[pool.targets]]\ntemplate = "miosa-sandbox"\nsize = "small"\ncount = {pool}\n'
    warm = with_platform(target, lambda *where: measure(*where, count, "warm", pool))
    return warm + with_platform("[pool]\ntargets = []\n", lambda *where: measure(*where, count, "cold", 0))


def control(_count: int) -> list:
    """crates/testkit/tests/scale prints one JSON line for each size."""
    command = ["cargo", "test", "--quiet", "--release", "--package", "miosa-testkit", "--test", "scale"]
    output = subprocess.run(
        [*command, "--", "--ignored", "--nocapture"], stdout=subprocess.PIPE, text=True
    )
    lines = [line for line in output.stdout.splitlines() if line.startswith("{")]
    if output.returncode or not lines:
        raise RuntimeError(f"the measurement failed:\n{output.stdout[-2000:]}")
    return [json.loads(line) for line in lines]


def show(rows: list):
    for line in rows:
        values = (f"{key} {value}" for key, value in line.items() if key != "what")
        print(f"  {line['what']:<30} " + ", ".join(values), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(prog="script/bench")
    parser.add_argument("what", nargs="?", choices=["sandbox", "control"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    result = {}
    for name in [arguments.what] if arguments.what else ["sandbox", "control"]:
        print(f"· {name}", file=sys.stderr)
        result[name] = {"sandbox": sandbox, "control": control}[name](arguments.count)
        show(result[name])
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
