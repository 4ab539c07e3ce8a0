"""The peer of script/bench: `crun run` of /bin/true, in a mount namespace of its own.

Takes the configuration of a running sandbox: its user namespace, seccomp filter, limits and
mounts. Left out is what only the platform can make: the idmapped root (the same template is an
overlay here), the wired network namespace (an empty one here), files bound into the sandbox.
One run for each line of input; prints the milliseconds of each.
"""

import json
import pathlib
import subprocess
import sys
import time


def configuration(of: str, root: pathlib.Path) -> dict:
    config = json.loads(pathlib.Path(of).read_text())
    config["process"]["args"] = ["/bin/true"]
    config["root"] = {"path": str(root), "readonly": False}
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "bind"]
    config["linux"]["cgroupsPath"] = "/workload-bench"
    for namespace in config["linux"]["namespaces"]:
        namespace.pop("path", None)
    return config


def hide_second_hierarchy():
    """crun refuses a machine with both versions of cgroups mounted; so the platform hides one."""
    kinds = [line.split()[1:3] for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    second = [place for place, kind in kinds if kind == "cgroup2"]
    if any(kind == "cgroup" for _, kind in kinds):
        for place in second:
            subprocess.run(["umount", "--lazy", place], check=True)


def main():
    of, template, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    hide_second_hierarchy()
    root, upper = folder / "rootfs", folder / "rw"
    for path in (root, upper):
        path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", upper], check=True)
    for path in (upper / "up", upper / "work"):
        path.mkdir()
    layers = f"lowerdir={template},upperdir={upper}/up,workdir={upper}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", root], check=True)
    (folder / "config.json").write_text(json.dumps(configuration(of, root)))
    for number, _ in enumerate(sys.stdin):
        command = ["crun", "--root", folder / "state", "run", "--bundle", folder, f"bench-{number}"]
        start = time.monotonic()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        print((time.monotonic() - start) * 1000, flush=True)


if __name__ == "__main__":
    main()
