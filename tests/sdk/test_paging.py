"""Long lists, as the SDK's own helpers and a caller of the documented pages walk them."""

from miosa.pagination import iter_cursor_pages, iter_pages

#: More than one page of the SDK's own size, which is 100.
COUNT = 130


def test_a_long_list_is_walked_to_its_end_in_each_style(tenant):
    request = tenant.client._transport.request
    made = set()
    for number in range(COUNT):
        made.add(request("POST", "/deployments", json_body={"name": f"row {number}"})["data"]["id"])

    def fetch(**params):
        return request("GET", "/deployments", params=params)

    newest_first = [one["id"] for one in iter_pages(fetch)]
    assert len(newest_first) == len(made) == COUNT and set(newest_first) == made
    assert [one["id"] for one in iter_cursor_pages(fetch, page_size=25)] == newest_first

    pages, number = [], 1
    while True:
        answer = fetch(page=number)
        assert answer["page"] == {"page": number, "page_size": 20, "total": COUNT}
        pages += [one["id"] for one in answer["data"]]
        if len(answer["data"]) < 20:
            break
        number += 1
    assert pages == newest_first
    assert len(tenant.client.deployments.list()) == 100, "what the SDK gets that asks for no part"
