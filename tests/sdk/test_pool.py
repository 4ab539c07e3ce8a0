"""The warm pool as the operator sees and sets it, while tenants use it."""

import json
import os
import subprocess
import urllib.request

from helpers import wait_for


def test_targets_are_set_on_a_running_platform_and_used(platform, tenant):
    def pool(*arguments):
        command = [os.environ["MIOSA"], "pool", *arguments, "--data-dir", str(platform.data_dir)]
        return subprocess.run(command, capture_output=True, text=True)

    def now():
        return json.loads(pool("list", "--json").stdout)

    def is_full():
        return any(one["size"] == "xs" and one["ready"] == 2 for one in now()["targets"])

    try:
        done = pool("set", "miosa-sandbox", "xs", "2")
        assert done.returncode == 0, done.stderr
        wait_for(is_full, 60, "two ready slots")
        before = now()
        tenant.sandbox().destroy()
        after = now()
        assert (after["source"], after["hits"]) == ("operator", before["hits"] + 1)
        assert after["warm"]["count"] == before["warm"]["count"] + 1

        unknown = pool("set", "miosa-sandbox", "huge", "1")
        assert unknown.returncode == 1 and "targets" in unknown.stderr, unknown.stderr

        metrics = urllib.request.urlopen(f"http://{platform.ready['admin']}/metrics").read().decode()
        assert f"\nplatform_pool_hits_total {after['hits']}\n" in metrics
        assert 'platform_sandbox_start_seconds_bucket{boot="warm",le="+Inf"}' in metrics
    finally:
        back = pool("set", "--from-configuration", "--json")
    assert json.loads(back.stdout)["source"] == "configuration"
