"""Two tenants beside each other: each visitor meets one brand, and nobody meets the platform."""

import json
import socket

import pytest
from helpers import deploy_server, wait_for, wait_state

PLATFORM = "miosa"
#: Where a program that is curious about its machine looks.
CURIOUS = """
hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf /etc/machine-id /etc/os-release 2>/dev/null
env; sudo env
for pid in /proc/[0-9]*; do
  cat $pid/comm $pid/cgroup $pid/mountinfo; tr '\\0' ' ' <$pid/cmdline; sudo tr '\\0' ' ' <$pid/environ
done 2>/dev/null
cat /proc/mounts /proc/self/mountinfo /proc/1/cgroup /proc/self/cgroup /proc/cmdline /proc/version
sudo ls -la / /root /run /run/* /var/run /etc /opt /home/* /tmp /srv /mnt 2>/dev/null
ip addr 2>/dev/null; ip route 2>/dev/null; id; getent passwd; getent group
"""

BRANDS = {
    "clinic": {
        "name": "Harbour Clinic Cloud",
        "primary_color": "#0f766e",
        "support_url": "https://help.harbour.example",
        "logo_url": "https://cdn.harbour.example/logo.svg",
    },
    "rival": {
        "name": "Rivalry Studio",
        "primary_color": "#9d174d",
        "support_url": "https://support.rivalry.example",
        "logo_url": "https://cdn.rivalry.example/mark.svg",
    },
}


def port_of(platform):
    port = platform.ready["https"].rsplit(":", 1)[1]
    return "" if port == "443" else f":{port}"


class House:
    """A tenant with a brand, an app, a stopped app, and previews in every state."""

    def __init__(self, tenant, platform):
        self.brand = BRANDS["clinic" if tenant.name.startswith("clinic") else "rival"]
        tenant.client.tenant.branding.set(self.brand)
        name = f"desk-{tenant.name}"
        self.app, self.url = deploy_server(tenant, name, f"of {tenant.name}")
        stopped, self.stopped = deploy_server(tenant, f"off-{tenant.name}", "off")
        for one in (self.app, stopped):
            wait_state(tenant.client, one, "running")
        tenant.client._transport.request("POST", f"/deployments/{stopped}/stop", json_body={})
        self.sandbox = tenant.sandbox(name="curious")
        self.preview = self.sandbox.expose(4321)
        private = self.sandbox.previews.create(port=5000, visibility="private")
        self.private = private["url"]
        gone = tenant.sandbox()
        self.ended = gone.expose(80)
        gone.destroy()
        self.nowhere = f"https://nobody.{tenant.domain}{port_of(platform)}"

    def pages(self):
        """(URL, status) of every page that the platform itself shows."""
        return [
            (self.nowhere, 404),
            (self.stopped, 503),
            (self.preview, 503),
            (self.private, 403),
            (self.private + "?preview_token=pv_0000000000000000", 403),
            (self.ended, 404),
        ]


@pytest.fixture(scope="module")
def houses(tenant, other_tenant, platform):
    houses = [House(tenant, platform), House(other_tenant, platform)]
    yield houses
    for house in houses:
        house.sandbox.destroy()


def test_every_page_wears_its_own_brand_and_only_that(houses, web):
    wait_for(lambda: all(web.get(h.stopped)[0] == 503 for h in houses), 20, "stopped apps")
    for house, other in (houses, houses[::-1]):
        foreign = json.dumps(list(other.brand.values())).strip("[]").lower().split(", ")
        for url, status in house.pages():
            for accept in ("text/html", "application/json", "*/*"):
                seen, headers, body = web.get(url, headers={"accept": accept})
                text = (json.dumps(headers) + body.decode()).lower()
                assert seen == status, (url, accept, seen, text)
                assert PLATFORM not in text, (url, accept, text)
                assert not [word for word in foreign if word.strip('"') in text], (url, text)
            page = web.get(url, headers={"accept": "text/html"})[2].decode()
            for wanted in ("name", "logo_url", "support_url"):
                assert house.brand[wanted] in page, (url, wanted)


def test_a_workspace_wears_a_brand_of_its_own_over_its_tenants(houses, web, tenant):
    house = houses[0]
    request = tenant.client._transport.request
    workspace = request("POST", "/workspaces", json_body={"name": "Smile Dental"})["data"]["id"]
    body = {"name": "dental desk", "workspace_id": workspace}
    made = request("POST", "/deployments", json_body=body)["data"]
    request("POST", f"/deployments/{made['id']}/stop")

    def page():
        return web.get(made["public_url"], headers={"accept": "text/html"})[2].decode()

    wait_for(lambda: house.brand["name"] in page(), 20, "the tenant's brand")
    path = f"/workspaces/{workspace}/branding"
    request("PUT", path, json_body={"branding": {"name": "Smile Dental"}})
    wait_for(lambda: "Smile Dental" in page(), 20, "its own brand")
    assert house.brand["name"] not in page() and house.brand["logo_url"] in page()
    others = web.get(house.stopped, headers={"accept": "text/html"})[2].decode()
    assert house.brand["name"] in others and "Smile Dental" not in others
    request("DELETE", path)
    wait_for(lambda: house.brand["name"] in page(), 20, "the tenant's brand again")


def test_apps_and_their_certificates_name_nobody_else(houses, web, tenant, other_tenant):
    for house, owner, other in zip(houses, (tenant, other_tenant), (other_tenant, tenant), strict=True):
        status, headers, body = web.get(house.url)
        text = (json.dumps(headers) + body.decode()).lower()
        assert status == 200 and f"of {owner.name}" in text
        assert PLATFORM not in text and other.name not in text
        for host in (f"desk-{owner.name}.{owner.domain}", f"4321-x.sandbox.{owner.domain}"):
            with socket.create_connection(web.address, timeout=10) as plain:
                with web.tls.wrap_socket(plain, server_hostname=host) as tls:
                    names = json.dumps(tls.getpeercert()).lower()
            assert owner.domain in names, names
            assert PLATFORM not in names and other.name not in names, names


def test_a_sandbox_knows_neither_the_platform_nor_a_neighbour(houses, tenant, other_tenant):
    for house, other in zip(houses, (other_tenant, tenant), strict=True):
        seen = house.sandbox.run(CURIOUS, {"timeout": 40}).stdout.lower()
        assert len(seen) > 5_000, "the curious program looked around"
        for word in (PLATFORM, other.name):
            lines = [line for line in seen.splitlines() if word in line]
            assert not lines, lines[:10]
