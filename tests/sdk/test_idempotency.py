"""A keyed request makes one object, even when the process behind it is killed in the middle."""

import concurrent.futures
import os
import signal
import uuid

from miosa.errors import MiosaError

from helpers import wait_for


def test_control_killed_in_the_middle_of_keyed_creates(tenant, platform):
    keys = [str(uuid.uuid4()) for _ in range(16)]
    post = tenant.client._transport.request

    def create(key):
        body = {"size": "xs", "name": key, "timeout_sec": 600}
        for _ in range(20):
            try:
                headers = {"Idempotency-Key": key}
                return post("POST", "/sandboxes", json_body=body, headers=headers)["data"]["id"]
            except MiosaError as error:  # what an SDK with retries would try again
                assert getattr(error, "status_code", None) in (None, 409, 429, 503), error
        raise AssertionError(f"no answer for {key}")

    def named():
        try:
            listed = post("GET", "/sandboxes?limit=100")["data"]
            return [one["id"] for one in listed if one["name"] in keys]
        except MiosaError:
            return []

    hits = 0
    with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
        made = [pool.submit(create, key) for key in keys]
        for _ in range(3):
            before = len(named())
            wait_for(lambda: len(named()) > before or all(m.done() for m in made), 30, "a new row")
            os.kill(platform.child("control"), signal.SIGKILL)
            hits += not all(one.done() for one in made)
        ids = [one.result(timeout=120) for one in made]

    assert hits, "no kill met a create under way, so this proved nothing"
    found = named()
    assert sorted(found) == sorted(ids), f"{len(found)} sandboxes for {len(keys)} keys"
    for id in ids:
        tenant.client.sandboxes.delete(id)
