"""Domains that a tenant brings for a deployment, with the real SDK and a real name server."""

import http.client
import ssl

import pytest
from helpers import deploy_server, wait_for
from miosa import MiosaError


@pytest.fixture(scope="module")
def shop(tenant):
    return deploy_server(tenant, "shop", "of-the-owner")


@pytest.fixture(autouse=True)
def records(names):
    yield
    names.clear()


def wait_active(domains, added):
    def is_active():
        now = domains.verify(added["id"])
        return now if now["status"] == "active" else None

    return wait_for(is_active, 30, "an active domain")


def url_of(web, domain: str) -> str:
    return f"https://{domain}:{web.address[1]}/"


def assert_nobody(platform, web, domain: str):
    """No certificate, and a page that says nothing but that nobody is here."""
    with pytest.raises(ssl.SSLError):
        web.get(url_of(web, domain))
    connection = http.client.HTTPConnection(platform.ready["http"], timeout=20)
    connection.request("GET", "/", headers={"host": domain})
    answer = connection.getresponse()
    text = (str(answer.getheaders()) + answer.read().decode()).lower()
    connection.close()
    assert answer.status == 404 and "<html" in text
    assert "miosa" not in text and "clinic" not in text


def test_a_cname_brings_visitors_over_a_certificate_of_its_own(tenant, names, shop, platform, web):
    domains = tenant.client.deployments.domains(shop[0])
    added = domains.add("www.smile.test")
    assert (added["status"], added["verification_target"]) == ("pending", f"shop.{tenant.domain}")
    unproved = domains.verify(added["id"])
    assert unproved["status"] == "pending" and "CNAME" in unproved["error"]
    assert_nobody(platform, web, "www.smile.test")

    names.set("www.smile.test", "CNAME", added["verification_target"])
    active = wait_active(domains, added)
    assert active["verified_at"] and active["tls_issued_at"] and active["error"] is None
    assert active["tls_status"] == "issued"
    # The client checks the certificate's name.
    status, headers, body = web.get(url_of(web, "www.smile.test"))
    assert status == 200 and b"of-the-owner" in body
    assert "miosa" not in str(headers).lower()
    assert [row["id"] for row in domains.list()] == [added["id"]]

    domains.delete(added["id"])
    assert domains.list() == []
    assert_nobody(platform, web, "www.smile.test")


def test_a_text_record_and_an_address_do_as_well(tenant, names, shop, web):
    domains = tenant.client.deployments.domains(shop[0])
    added = domains.add("smile.test")
    records = {record["type"]: record for record in added["dns_records"]}
    names.set("smile.test", "A", records["A"]["value"])
    assert domains.verify(added["id"])["status"] == "pending", "an address proves nothing"
    names.set(records["TXT"]["name"], "TXT", records["TXT"]["value"])
    wait_active(domains, added)
    assert b"of-the-owner" in web.get(url_of(web, "smile.test"))[2]
    domains.delete(added["id"])


def test_who_proves_a_name_gets_it_whoever_asked_first(tenant, other_tenant, names, shop):
    squat, _ = deploy_server(other_tenant, "squat", "of-the-rival")
    theirs = other_tenant.client.deployments.domains(squat)
    ours = tenant.client.deployments.domains(shop[0])
    first, added = theirs.add("only.smile.test"), ours.add("only.smile.test")
    names.set("only.smile.test", "CNAME", added["verification_target"])
    wait_active(ours, added)
    assert theirs.verify(first["id"])["status"] == "pending"
    theirs.delete(first["id"])
    with pytest.raises(MiosaError) as refused:
        theirs.add("only.smile.test")
    assert refused.value.status_code == 409
    with pytest.raises(MiosaError) as refused:
        theirs.add(f"shop.{tenant.domain}")
    assert (refused.value.status_code, refused.value.code) == (422, "DOMAIN_RESERVED")
    ours.delete(added["id"])


def test_the_apex_leads_to_www_and_back(tenant, names, shop, web):
    domains = tenant.client.deployments.domains(shop[0])
    apex = domains.add("pair.test", redirect_policy="apex_to_www")
    www = domains.add("www.pair.test", idempotency_key="www-of-the-pair")
    assert domains.add("www.pair.test", idempotency_key="www-of-the-pair") == www
    for added in (apex, www):
        names.set(added["domain"], "CNAME", added["verification_target"])
        wait_active(domains, added)

    def leads(start, to):
        def seen(status, headers, _):
            return status == 308 and headers["location"] == url_of(web, to) + "book?day=1"

        assert web.wait_for(url_of(web, start) + "book?day=1", seen, seconds=20), (start, to)
        assert b"of-the-owner" in web.get(url_of(web, to))[2]

    leads("pair.test", "www.pair.test")
    path = f"/deployments/{shop[0]}/domains/{apex['id']}"
    change = {"redirect_policy": "www_to_apex"}
    changed = tenant.client._transport.request("PATCH", path, json_body=change)["data"]
    assert changed["redirect_policy"] == "www_to_apex"
    leads("www.pair.test", "pair.test")
    domains.delete(apex["id"])
    assert web.wait_for(url_of(web, "www.pair.test"), lambda status, *_: status == 200, seconds=20)
    domains.delete(www["id"])


def test_every_domain_of_a_tenant_is_in_one_list(tenant, shop):
    flat = tenant.client.custom_domains
    made = flat.create(domain="flat.smile.test", target_type="deployment", target_id=shop[0])
    assert [row["id"] for row in flat.list(status="pending")] == [made["id"]]
    read = tenant.client._transport.request("GET", "/domains/flat.smile.test")["data"]
    assert (read["id"], read["deployment_id"]) == (made["id"], shop[0])
    flat.delete(made["id"])
    assert flat.list() == []
