"""What several test files need."""

import time

#: A server without dependencies: answers every GET with its marker, after a pause if asked.
SERVER = """
import {{ createServer }} from 'node:http'
createServer((request, response) => {{
  const wait = request.url.startsWith('/slow') ? 20 : 0
  setTimeout(() => {{
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({{ marker: '{marker}', pid: process.pid }}))
  }}, wait)
}}).listen(Number(process.env.PORT ?? 3000), '0.0.0.0')
"""


def wait_for(wanted, seconds: float, what: str):
    """Repeats `wanted` until it returns something true; fails with `what` when time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = wanted()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def wait_state(client, deployment: str, state: str, seconds: float = 120):
    """Waits for a state of a deployment and returns the deployment."""
    seen = []

    def reached():
        now = client.deployments.get(deployment)
        seen.append(now.state)
        return now if now.state == state else None

    try:
        return wait_for(reached, seconds, state)
    except AssertionError as error:
        raise AssertionError(f"{error}; last state {seen[-1:]}") from None


def deploy_server(tenant, name: str, marker: str, **options):
    """Publishes SERVER from a fresh sandbox; returns (deployment id, url)."""
    sandbox = tenant.sandbox()
    # A file name of its own tells its process apart from others on this machine.
    sandbox.write_file(f"/workspace/{name}.mjs", SERVER.format(marker=marker))
    deployed = sandbox.deploy(name=name, run_command=f"node {name}.mjs", port=3000, **options)
    sandbox.destroy()
    return deployed["deployment_id"], deployed["url"]
