"""The guide for integrators does what it says: its Python is run as it stands."""

import re

from conftest import ROOT


def test_the_integrator_s_guide_runs(tenant, platform):
    text = (ROOT / "docs/guides/integrator.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    world = {"API_KEY": tenant.key, "API_URL": platform.ready["api_url"]}
    for block in blocks:
        exec(compile(block, "docs/guides/integrator.md", "exec"), world)  # noqa: S102
    assert world["iframe_src"].startswith("https://8000-")
    assert tenant.client.deployments.get(world["app"].id).state == "running"
