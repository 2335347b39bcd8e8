"""The gauges appear on Ray's metrics endpoint, and the dashboard asks for those that exist."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from cluster import gauges

DASHBOARD = Path(gauges.__file__).parent / "grafana" / "pinisi.json"


def test_dashboard_shows_every_gauge_and_no_other():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = re.findall(
        r"ray_(pinisi_\w+)", " ".join(t["expr"] for p in dashboard["panels"] for t in p.get("targets", ()))
    )
    assert set(asked) == set(gauges.GAUGES)
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            known = {tag for name in re.findall(r"ray_(pinisi_\w+)", target["expr"]) for tag in gauges.GAUGES[name][1]}
            if known:  # else one of Ray's own metrics
                assert labels <= known, panel["title"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_nothing_happens_without_ray(monkeypatch):
    monkeypatch.setitem(gauges.sys.modules, "ray", None)
    monkeypatch.setattr(gauges, "_made", {})
    gauges.training("pretrain/stage1", {"step": 1, "loss": 2.0, "loss_by_language": {"lo": 3.0}})
    assert gauges._made == {}


@pytest.mark.slow
def test_gauges_are_on_the_metrics_endpoint(monkeypatch):
    """An embedded Ray, as `pinisi run` starts it; a worker process and this one both report."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    from cluster.engines import embedded

    embedded.start(cpus=1)
    import ray

    @ray.remote
    def train():
        from cluster import gauges

        for step in range(1, 200):  # a gauge is sent by the process that sets it, while it lives
            record = {"step": step, "loss": 2.5, "lr": 1e-4, "grad_norm": 0.7, "tokens": 900, "tokens_per_second": 30.0}
            languages = {"loss_by_language": {"lo": 3.25}, "bits_per_byte": {"en": 1.5}}
            gauges.training("pretrain-stage1", record | languages | {"mfu": 0.41})
            time.sleep(0.5)

    try:
        running = train.remote()
        manifest = {"docs_in": 10, "docs_out": 7, "seconds": 3.5, "rules": {"words": 3}, "tokens_per_lang": {"lo": 500}}
        gauges.stage("filter/policy", manifest)
        gauges.put("pinisi_bits_per_byte", 1.25, model="pretrain/stage1", language="lo")
        node = ray.nodes()[0]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        wanted = {
            "pinisi_loss": ('stage="pretrain-stage1"', 2.5),
            "pinisi_mfu": ('stage="pretrain-stage1"', 0.41),
            "pinisi_language_loss": ('language="lo"', 3.25),
            "pinisi_validation_bits_per_byte": ('language="en"', 1.5),
            "pinisi_tokens_per_second": ('stage="pretrain-stage1"', 30.0),
            "pinisi_dropped": ('rule="words"', 3.0),
            "pinisi_documents": ('flow="out"', 7.0),
            "pinisi_tokens": ('language="lo"', 500.0),
            "pinisi_bits_per_byte": ('language="lo"', 1.25),
        }
        until, missing = time.monotonic() + 240, wanted
        while missing and time.monotonic() < until:
            time.sleep(1)
            lines = urllib.request.urlopen(url, timeout=5).read().decode().splitlines()
            missing = {
                name: (tag, value)
                for name, (tag, value) in wanted.items()
                if not any(
                    line.startswith(f"ray_{name}{{") and tag in line and float(line.split()[-1]) == value
                    for line in lines
                )
            }
        assert missing == {}
        ray.cancel(running, force=True)
    finally:
        embedded.stop()
        gauges._made.clear()
