"""units/monitoring: each alert comes when it must and only then, and says what to do next; rules and dashboard use nothing that is
not really exported, by gateways with volumes of both backends."""
import json
import re

import pytest
import yaml

from support.exporter import Exporter
from support.node import ROOT, TOOLS, needs, run
from support.rule_cases import COMES, STAYS_AWAY
from support.volume import MIB

MONITORING = ROOT / "units" / "monitoring"
RULES = MONITORING / "tb4.rules.yml"
DASHBOARD = MONITORING / "tb4-dashboard.json"


def rules():
    return {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


def dashboard():
    return json.loads(DASHBOARD.read_text())


def panels():
    """All of them, also those inside rows."""
    found = []
    for panel in dashboard()["panels"]:
        found += [panel, *panel.get("panels", [])]
    return found


def queries():
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


# alerts

def fill_in(text, labels, value):
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", value or "NO VALUE", text)


def unit_test(minutes, series, alert, expected):
    return {"interval": "1m", "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": expected}]}


def case_that_comes(alert, minutes, series, value):
    """The labels of the alert are those of the first series, as far as the rule keeps them."""
    rule = rules()[alert]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', next(iter(series))))
    kept = re.search(r"by \(([\w, ]+)\)", rule["expr"])
    if kept:
        labels = {name: labels[name] for name in kept[1].split(", ") if name in labels and name != "le"}
    labels.update(rule["labels"])
    annotations = {key: fill_in(text, labels, value) for key, text in rule["annotations"].items()}
    return unit_test(minutes, series, alert, [{"exp_labels": labels, "exp_annotations": annotations}])


@needs("promtool")
def test_alerts_come_when_they_must_and_only_then(tmp_path):
    assert {case[0] for case in COMES} == {case[0] for case in STAYS_AWAY} == set(rules())
    tests = [case_that_comes(*case) for case in COMES]
    tests += [unit_test(minutes, series, alert, []) for alert, minutes, series in STAYS_AWAY]
    file = tmp_path / "tests.yml"  # YAML, as JSON is
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    result = run("promtool", "test", "rules", file, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@needs("promtool")
def test_rules_are_valid():
    run("promtool", "check", "rules", RULES)


def test_each_alert_names_the_next_command():
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert re.search(r"(tb4 (status|claim|volume|sled)|systemctl status tb4-exporter|journalctl -u tb4-vm@)",
                         rule["annotations"]["description"]), name
        assert rule["annotations"]["summary"]


# names

def names_in(expression):
    """Metrics and the labels that go with them in selectors and by (...): {name}, {label}."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"\"", plain))
    for group in re.findall(r"(?:by|on|without|ignoring) ?\(([\w, ]*)\)", plain):
        labels |= set(group.replace(" ", "").split(",")) - {""}
    return set(re.findall(r"\b(tb4_\w+|up)\b", plain)), labels


@pytest.fixture
def exported(node, make_volume):
    """{name: labels} of what a node with a volume of each backend exports, after a scrub and some requests."""
    volume = make_volume("own", extents=2)
    targets = [word for sled in volume.sleds for word in ("--target", f"127.0.0.1:{sled.port}")]
    node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *targets)
    node.create(201, "1M")
    exporter = Exporter(node)
    try:
        for vmid in (200, 201):
            node.start(vmid)
        run(TOOLS / "nbd-history", "--seconds", "1", "--region", str(MIB), node.gateways[0].socket, "vm-200-disk-0")
        samples, _ = exporter.scrape()
    finally:
        exporter.close()
    found = {"up": {"job", "instance"}}
    for name, labels in samples:
        found.setdefault(name, {"job", "instance"}).update(label for label, _ in labels)
    return found


def test_rules_and_dashboard_use_only_what_is_exported(exported):
    expressions = [rule["expr"] for rule in rules().values()] + queries()
    expressions += [variable["query"]["query"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"]
    used = set()
    for expression in expressions:
        names, labels = names_in(expression)
        used |= names
        assert names and names <= set(exported), expression
        assert labels <= set().union(*(exported[name] for name in names)) | {"le"}, expression
    assert len(used) > 20
    legends = [target.get("legendFormat", "") for panel in panels() for target in panel.get("targets", [])]
    for label in re.findall(r"\{\{(\w+)\}\}", " ".join(legends)):
        assert any(label in labels for labels in exported.values()), label


def test_states_in_rules_and_dashboard_are_those_that_are_documented():
    documented = {"starting", "serving", "failed", "fenced", "absent", "connecting", "replay", "repair", "active"}
    for expression in [rule["expr"] for rule in rules().values()] + queries():
        for states in re.findall(r'state=~?"([^"]*)"', expression):
            assert set(states.split("|")) <= documented, expression


# the dashboard

@needs("promtool")
def test_queries_of_the_dashboard_are_valid(tmp_path):
    """Grafana puts the variables in; so does this, and has promtool read each as a rule."""
    filled = [query.replace("$__rate_interval", "5m").replace("$__range", "1h") for query in queries()]
    filled = [re.sub(r"\$\{?\w+\}?", ".*", query) for query in filled]
    groups = [{"name": "g", "rules": [{"record": f"r{i}", "expr": query} for i, query in enumerate(filled)]}]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": groups}))
    run("promtool", "check", "rules", file)


def test_dashboard_is_what_grafana_takes():
    """Structure, variables and layout; a real Grafana is in no Debian."""
    board = dashboard()
    assert board["uid"] == "tb4" and board["title"] and board["schemaVersion"] >= 36 and board["id"] is None
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert set(variables) == {"datasource", "node", "vmid", "volume"} and variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in panels():
        grid = panel["gridPos"]
        assert 0 <= grid["x"] and grid["x"] + grid["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["description"] and panel["targets"], panel
        for target in panel["targets"]:
            assert target["refId"] and target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for name in re.findall(r"\$\{?(\w+)", target["expr"]):
                assert name in variables or name in ("__rate_interval", "__range"), target["expr"]
