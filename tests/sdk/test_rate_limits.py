"""What an SDK makes of a rate limit: its own error, and a retry after the time it was told."""

import time

import pytest
from miosa import Miosa
from miosa.errors import RateLimitError

#: One request each 2 s once the first 30 are used.
RPM = 30


def test_the_sdk_sees_the_limit_and_honours_retry_after(tenant, platform):
    body = {"name": "slow", "rate_limit_rpm": RPM}
    key = tenant.client._transport.request("POST", "/api-keys", json_body=body)["data"]["key"]

    def client(retries):
        return Miosa(api_key=key, base_url=platform.ready["api_url"], max_retries=retries)

    hasty, patient = client(0), client(3)
    with pytest.raises(RateLimitError) as refused:
        for _ in range(RPM * 2):
            hasty._transport.request("GET", "/whoami")
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.status_code == 429
    assert 1 <= refused.value.retry_after <= 60 / RPM

    # With a single retry it only gets through if it waits as long as it was told.
    start = time.monotonic()
    assert client(1)._transport.request("GET", "/whoami")["data"]
    assert time.monotonic() - start > 0.5, "it was let through at once"
    assert patient._transport.request("GET", "/whoami")["data"]
    # Nobody else is held up.
    assert tenant.client._transport.request("GET", "/whoami")["data"]
