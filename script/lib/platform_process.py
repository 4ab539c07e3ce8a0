"""Starts, finds and kills a platform, from outside: through its command line and `/proc` only."""

import json
import os
import pathlib
import signal
import subprocess
import time


class Platform:
    """One installation in `data_dir`."""

    def __init__(self, miosa: str, data_dir: pathlib.Path, cache_dir: str, config: pathlib.Path | None = None):
        self.miosa, self.data_dir, self.cache_dir, self.config = miosa, data_dir, cache_dir, config
        self.process = None
        self.ready = {}
        self.ports = {"http": "127.0.0.1:0", "https": "127.0.0.1:0", "admin": "127.0.0.1:0"}

    def up(self, *, seconds: float) -> float:
        """Starts it; returns after how many seconds it was ready."""
        ready_file = self.data_dir / "ready.json"
        ready_file.unlink(missing_ok=True)
        command = [self.miosa, "up", "--data-dir", self.data_dir, "--cache-dir", self.cache_dir]
        if self.config:
            command += ["--config", self.config]
        for name, address in self.ports.items():
            command += [f"--{name}", address]
        start = time.monotonic()
        log = open(self.data_dir.parent / "platform.log", "ab")
        # A session of its own: Ctrl-C in the terminal ends the script, not the platform.
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        while time.monotonic() - start < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"`miosa up` ended with {self.process.returncode}")
            if ready_file.exists():
                self.ready = json.loads(ready_file.read_text())
                # A restart keeps the addresses, so that URLs stay true.
                self.ports = {name: self.ready[name] for name in self.ports}
                return time.monotonic() - start
            time.sleep(0.02)
        raise RuntimeError(f"the platform was not ready within {seconds:.0f} s")

    def stop(self):
        """SIGTERM and wait: a clean drain; workloads stay."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def down(self):
        """Removes everything of the installation."""
        command = [self.miosa, "down", "--data-dir", self.data_dir]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def child(self, role: str) -> int:
        """Process id of `miosa edge` or `miosa control` below the supervisor."""
        for process in processes():
            if process.parent == self.ready["pid"] and role in process.argv[1:2]:
                return process.pid
        raise LookupError(f"no {role} process below {self.ready['pid']}")

    def workloads(self) -> list:
        """Process ids of every PID 1 of a workload of this installation."""
        run = self.data_dir / "oci" / "run"
        listing = subprocess.run(
            ["crun", "--root", run, "list", "-q"], capture_output=True, text=True, timeout=30
        )
        found = []
        for name in listing.stdout.split():
            try:
                status = json.loads((run / name / "status").read_text())
            except FileNotFoundError:  # it ended since it was listed
                continue
            found.append(status["pid"])
        return [pid for pid in found if pathlib.Path(f"/proc/{pid}").exists()]

    def app_process(self, marker: str) -> int:
        """The process below some workload whose command line holds `marker`: the innermost, as
        shells and package managers that started it hold it as well."""
        inits = set(self.workloads())
        table = {process.pid: process for process in processes()}
        matching = {pid for pid, process in table.items() if marker in " ".join(process.argv)}
        for pid in matching:
            if any(table[other].parent == pid for other in matching):
                continue
            ancestor = table[pid]
            while ancestor and ancestor.pid not in inits:
                ancestor = table.get(ancestor.parent)
            if ancestor:
                return pid
        raise LookupError(f"no process of a workload runs `{marker}`")

    def kill_everything(self):
        """kill -9 of supervisor, edge, control and every workload."""
        victims = [self.ready["pid"], self.child("edge"), self.child("control"), *self.workloads()]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        end = time.monotonic() + 10
        while any(alive(pid) for pid in victims):
            if time.monotonic() > end:
                raise RuntimeError("killed processes are still there")
            time.sleep(0.01)
        return len(victims)


class Process:
    def __init__(self, pid: int, parent: int, argv: list):
        self.pid, self.parent, self.argv = pid, parent, argv


def processes():
    """All processes that can be read now."""
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        yield Process(int(folder.name), parent, argv)


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
