"""What stands in several files of deploy/ fits together: alerts and runbooks, metrics and programs, pods and hostfile."""

import functools
import json
import os
import re
import subprocess
import tempfile
import unittest
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# Functions, keywords and labels of PromQL, and Prometheus's own series.
NOT_OURS = {"up", "time", "ALERTS"}


def alerts():
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@functools.cache
def metrics_of_the_redirect():
    """Every series that the running program exports, with its labels: it needs no broker for that."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "debug/clickline-redirect"
    # tests/run has built it, with the whole workspace's features.
    if not os.environ.get("CLICKLINE_BUILT"):
        subprocess.run(["cargo", "build", "--quiet", "-p", "clickline-redirect"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder) / "links.yaml"
        links.write_text((DEPLOY / "compose/links.yaml").read_text())
        arguments = ["--listen", "127.0.0.1:0", "--workers", "1", "--metrics", "0", "--links", str(links)]
        with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True) as process:
            try:
                lines = iter(process.stdout.readline, "")
                address = next(line for line in lines if line.startswith("metrics on ")).removeprefix("metrics on ").strip()
                with urllib.request.urlopen(address, timeout=10) as answer:
                    text = answer.read().decode()
            finally:
                process.terminate()
                process.communicate(timeout=30)
    return re.findall(r"^([a-z_]+)(?:\{([^}]*)\})? ", text, re.M)


def metrics_of_the_code():
    """Every name that the job registers, and as Prometheus has it: counters end in `_total`."""
    names = set()
    places = ["src/metrics.rs", "src/metrics", "src/sinks/hubspot/exposed.rs", "src/sinks/clickhouse"]
    for place in map(ROOT.joinpath, places):
        files = place.rglob("*.rs") if place.is_dir() else [place] if place.exists() else []
        for file in files:
            text = file.read_text().split("#[cfg(test)]")[0]
            names |= set(re.findall(r'(?:register\(|\()\s*"([a-z][a-z0-9]*(?:_[a-z0-9]+)+)",\s*"', text))
    histograms = {name + "_bucket" for name in {"click_to_hubspot_seconds"} & names}
    return names | {name + "_total" for name in names} | histograms


def series(expression):
    """The names of series in a PromQL expression."""
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\'[^\']*\'', " ", expression)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()", bare)
    return set(names) - {"and", "or", "unless", "bool", "offset"} - NOT_OURS


class Names(unittest.TestCase):
    def test_every_alert_has_a_runbook_and_every_runbook_an_alert(self):
        headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), re.M)
        for alert in alerts():
            self.assertEqual(alert["annotations"]["runbook"], "docs/runbooks.md#" + alert["alert"].lower())
            self.assertIn(alert["labels"]["severity"], ("page", "ticket"))
            self.assertIn(alert["alert"], headings)
        self.assertEqual(sorted(headings), sorted(alert["alert"] for alert in alerts()))

    def test_every_alert_is_tested(self):
        tests = "".join(path.read_text() for path in (DEPLOY / "prometheus").glob("*_test.yml"))
        for alert in alerts():
            self.assertIn(alert["alert"], tests)

    def expressions(self):
        dashboard = json.loads((DEPLOY / "grafana/clickline.json").read_text())
        panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        return panels + [alert["expr"] for alert in alerts()]

    def test_every_metric_is_one_of_the_programs(self):
        known = metrics_of_the_code() | {name for name, _ in metrics_of_the_redirect()}
        self.assertIn("hubspot_refresh_attempts_total", known)
        self.assertIn("hubspot_lag", known)
        used = set().union(*map(series, self.expressions()))
        self.assertGreater(len(used), 20)
        self.assertEqual(used - known, set())

    def test_promtool_reads_every_expression(self):
        rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(self.expressions())]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
            file.flush()
            subprocess.run(["promtool", "check", "rules", file.name], check=True, stdout=subprocess.DEVNULL)

    def test_every_part_is_on_the_dashboard(self):
        dashboard = json.loads((DEPLOY / "grafana/clickline.json").read_text())
        shown = set().union(*(series(target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])))
        for metric in (
            "clickline_partition_lag", "clickline_event_time_seconds", "clickline_frontier_delay_seconds", "clickline_held_clicks",
            "clickline_live_keys", "clickline_state_bytes", "clickline_rule_hot", "clickline_rule_fired_total", "click_to_hubspot_seconds_bucket",
            "hubspot_window_left", "hubspot_oldest_delta_waits_seconds", "hubspot_refresh_attempts_total", "hubspot_dead_letters_open",
            "clickhouse_lag_records", "redirect_spool_bytes", "clickline_dead_letters_total", "clickline_ready", "clickline_snapshot_age_seconds",
        ):
            self.assertIn(metric, shown)

    def test_every_label_of_the_redirect_that_is_asked_for_is_there(self):
        exported = {(name, label) for name, labels in metrics_of_the_redirect() for label in labels.split(",")}
        asked = re.findall(r'(redirect_[a-z_]+)\{([^}]*)\}', " ".join(self.expressions()))
        self.assertTrue(asked)
        for name, labels in asked:
            # `label=~"one|other"` asks for each of them.
            label, values = re.fullmatch(r'(\w+)=~?"([^"]*)"', labels).groups()
            for value in values.split("|"):
                self.assertIn((name, f'{label}="{value}"'), exported)
        outcomes = {label for name, label in exported if name == "redirect_clicks_total"}
        self.assertEqual(outcomes, {f'outcome="{outcome}"' for outcome in ("spooled", "produced", "replayed", "parked", "dropped")})

    def test_the_redirect_has_a_spool_wherever_it_is_deployed(self):
        for file in ("compose/compose.yaml", "systemd/clickline-redirect.service", "kubernetes/redirect.yaml"):
            text = (DEPLOY / file).read_text()
            self.assertRegex(text, r"--spool[ =,]", file)
            self.assertIn("--metrics", text, file)

    def test_the_reader_of_expressions_sees_names_and_nothing_else(self):
        found = series('sum by (portal) (rate(a_total{result!~"x|y"}[1h])) / b_c > 0.01 and time() - d_e > 7 * 86400')
        self.assertEqual(found, {"a_total", "b_c", "d_e"})

    def test_the_dashboard_is_laid_out(self):
        dashboard = json.loads((DEPLOY / "grafana/clickline.json").read_text())
        variables = {variable["name"] for variable in dashboard["templating"]["list"]}
        self.assertEqual(variables, {"datasource"})
        ids, taken = set(), set()
        for panel in dashboard["panels"]:
            ids.add(panel["id"])
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells
            if panel["type"] != "row":
                self.assertTrue(panel["title"] and panel["description"] and panel["targets"])
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
        self.assertEqual(len(ids), len(dashboard["panels"]))

    def test_there_is_a_pod_for_each_line_of_the_hostfile(self):
        folder = DEPLOY / "kubernetes"
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        objects = [item for name in kustomization["resources"] for item in yaml.safe_load_all((folder / name).read_text())]
        job = next(item for item in objects if item["kind"] == "StatefulSet" and item["metadata"]["name"] == "clickline")
        service, name = job["spec"]["serviceName"], job["metadata"]["name"]
        space = kustomization["namespace"]
        hosts = (folder / "hosts").read_text().split()
        expected = [f"{name}-{pod}.{service}.{space}.svc.cluster.local:2101" for pod in range(job["spec"]["replicas"])]
        self.assertEqual(hosts, expected)
        # Each process is asked for its health, and can be asked for its metrics, where it listens; the configuration says it for process 0.
        container = job["spec"]["template"]["spec"]["containers"][0]
        listen = yaml.safe_load((folder / "clickline.yaml").read_text())["http"]["listen"]
        self.assertIn(f"--metrics {listen}", container["args"][0])
        self.assertEqual(str(next(port for port in container["ports"] if port["name"] == "http")["containerPort"]), listen.split(":")[1])
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            self.assertEqual(container[probe]["httpGet"], {"path": path, "port": "http"})
        peers = next(item for item in objects if item["kind"] == "Service" and item["metadata"]["name"] == service)
        self.assertIn({"name": "metrics", "port": 8090, "targetPort": "http"}, peers["spec"]["ports"])
        for files in kustomization["configMapGenerator"]:
            for file in files["files"]:
                self.assertTrue((folder / file).exists(), file)
        for item in objects:
            if item["kind"] in ("StatefulSet", "Deployment"):
                pod = item["spec"]["template"]
                self.assertTrue(item["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items())
                self.assertTrue(pod["spec"]["securityContext"]["runAsNonRoot"])
                for container in pod["spec"]["containers"]:
                    self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})
                    self.assertIn("memory", container["resources"]["limits"])

    def test_each_pod_is_scraped_once(self):
        """By Services, since of those with one label only one has a port of that name; by pods, since one port of each has it."""
        folder = DEPLOY / "kubernetes"
        objects = [item for file in ("job.yaml", "redirect.yaml") for item in yaml.safe_load_all((folder / file).read_text())]
        names = [
            (item["metadata"]["labels"]["app.kubernetes.io/name"], port["name"])
            for item in objects if item["kind"] == "Service" for port in item["spec"]["ports"]
        ]
        self.assertEqual(len(names), len(set(names)), names)
        pods = {item["metadata"]["labels"]["app.kubernetes.io/name"]: item["spec"]["template"] for item in objects if item["kind"] == "StatefulSet"}
        space = yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"]
        scraped = yaml.safe_load((DEPLOY / "prometheus/kubernetes.yml").read_text())["scrape_configs"]
        self.assertEqual({of["job_name"] for of in scraped}, set(pods))
        here = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
        self.assertEqual([of["job_name"] for of in scraped], [of["job_name"] for of in here])
        for of, other in zip(scraped, here):
            self.assertEqual(of.get("authorization"), other.get("authorization"))
            self.assertEqual(of["kubernetes_sd_configs"], [{"role": "pod", "namespaces": {"names": [space]}}])
            kept = {rule["source_labels"][0]: rule["regex"] for rule in of["relabel_configs"] if rule.get("action") == "keep"}
            pod = pods[kept["__meta_kubernetes_pod_label_app_kubernetes_io_name"]]
            self.assertEqual(pod["metadata"]["labels"]["app.kubernetes.io/name"], of["job_name"])
            name = kept["__meta_kubernetes_pod_container_port_name"]
            ports = [port["containerPort"] for container in pod["spec"]["containers"] for port in container["ports"] if port["name"] == name]
            self.assertEqual(len(ports), 1)
            self.assertRegex(str(pod["spec"]["containers"][0]["args"]), f"--metrics[ =]0.0.0.0:{ports[0]}")

    def test_a_configuration_that_moves_deals_knows_deals(self):
        moving = 0
        for file in ("deploy/compose/clickline.yaml", "deploy/kubernetes/clickline.yaml", "docs/example.yaml"):
            config = yaml.safe_load((ROOT / file).read_text())
            rules = [rule for workspace in config["workspaces"].values() for rule in workspace.get("rules", [])]
            if any(rule["action"]["type"] == "advance_deal_stage" for rule in rules):
                moving += 1
                self.assertIn("crm", config, file)
        self.assertEqual(moving, 3)

    def test_compose_is_told_nothing_before_it_has_what_it_asks_for(self):
        """It reads all variables whatever it is told to do."""
        text = (DEPLOY / "compose/compose.yaml").read_text()
        wanted = set(re.findall(r"\$\{(\w+):\?", text))
        self.assertIn("CLICKHOUSE_PASSWORD", wanted)
        header = [line.removeprefix("#   ") for line in text.split("\nname:")[0].splitlines() if line.startswith("#   ")]
        told = 0
        for line in header:
            if line.startswith("export "):
                wanted -= set(re.findall(r"(\w+)=", line))
            elif line.startswith("docker compose "):
                told += 1
                self.assertEqual(wanted, set(), line)
        self.assertGreater(told, 1)

    def test_what_the_configuration_asks_compose_for_is_there(self):
        """Variables, names of services and their ports, the ClickHouse block that is commented out among them."""
        services = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
        text = (DEPLOY / "compose/clickline.yaml").read_text().replace("# clickhouse:", "clickhouse:")
        config, job = yaml.safe_load(text), services["job"]
        variables = set(re.findall(r"\w+_env: (\w+)", text))
        self.assertEqual(variables, {"HUBSPOT_CLIENT_SECRET", "CLICKLINE_HTTP_TOKEN", "CLICKHOUSE_PASSWORD"})
        # The key that seals tokens has a name of its own accord.
        self.assertEqual(set(job["environment"]), variables | {"CLICKLINE_TOKEN_KEYS"})
        kafka = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].removeprefix("CLIENTS://").split(",")[0]
        self.assertEqual(config["kafka"]["brokers"], kafka)
        self.assertIn(kafka, services["redirect"]["command"])
        clickhouse = services["clickhouse"]
        self.assertEqual(config["clickhouse"]["url"], "http://clickhouse:8123")
        self.assertEqual(config["clickhouse"]["user"], clickhouse["environment"]["CLICKHOUSE_USER"])
        self.assertEqual(job["environment"]["CLICKHOUSE_PASSWORD"], clickhouse["environment"]["CLICKHOUSE_PASSWORD"])
        port = config["http"]["listen"].split(":")[1]
        self.assertEqual(job["ports"], [f"127.0.0.1:{port}:{port}"])
        targets = [of["static_configs"][0]["targets"] for of in yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]]
        metrics = services["redirect"]["command"][services["redirect"]["command"].index("--metrics") + 1].split(":")[1]
        self.assertEqual(targets, [[f"job:{port}"], [f"redirect:{metrics}"]])

    def test_what_compose_mounts_is_there(self):
        compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
        for service in compose["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                # Made where it is deployed.
                if source.startswith(".") and source != "./http.token":
                    self.assertTrue((DEPLOY / "compose" / source).exists(), source)
                elif not source.startswith("."):
                    self.assertIn(source, compose["volumes"])


if __name__ == "__main__":
    unittest.main()
