"""What scripts/test-monitoring.sh asks of deploy/monitoring.

    monitoring.py prepare WORK ADDRESS     writes the configuration of a Prometheus, with a Pod at that address
    monitoring.py check WORK URL           asks that Prometheus, and promtool; prints `N passed, M failed`
"""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import yaml

MONITORING = "deploy/monitoring"
# Generous: the machine may be compiling.
DEADLINE_SECONDS = 60
SIDECAR = "ghcr.io/fluid-sidecar-policy/fluid-fuse:v0.1.0"


def load(path):
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def snake(name):
    return re.sub("([A-Z])", lambda letter: "_" + letter.group(1).lower(), name)


def pod(name, container, image, injected=True, **labels):
    """A target, as the service discovery of Prometheus describes a container of a Pod."""
    meta = {"namespace": "training", "pod_name": name, "pod_container_name": container, "pod_container_image": image,
            **({"pod_annotationpresent_fluid_sidecar_policy_injected": "true"} if injected else {}), **labels}
    return {f"__meta_kubernetes_{key}": value for key, value in meta.items()}


def prepare(work, address):
    monitor = load(f"{MONITORING}/podmonitor.yaml")["spec"]["podMetricsEndpoints"][0]
    # What the Prometheus operator writes before the PodMonitor's own.
    relabelings = [{"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target} for source, target in (
        ("namespace", "namespace"), ("pod_container_name", "container"), ("pod_name", "pod"))]
    relabelings += [{snake(key): value for key, value in it.items()} for it in monitor["relabelings"]]
    here = {"pod_ip": address}
    containers = [
        pod("train-0", "fluid-fuse", SIDECAR, **here),
        # A declared port is one more target; it must not be scraped twice.
        pod("train-0", "fluid-fuse", SIDECAR, pod_container_port_number="9400", **here),
        pod("train-0", "train", "registry.example/train:1", **here),
        pod("juicefs-0", "fluid-fuse", "docker.io/juicedata/juicefs-fuse:v1.2.0", **here),
        pod("forged-0", "fluid-fuse", SIDECAR, injected=False, **here),
        pod("train-6", "fluid-fuse-1", SIDECAR.replace(":v", "@sha256:"), pod_ip="fd00::1"),
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "podMonitor/monitoring/fluid-fuse/0", "metrics_path": monitor["path"],
                            "relabel_configs": relabelings,
                            "static_configs": [{"targets": ["unused"], "labels": it} for it in containers]}],
    }
    for name, content in (("prometheus.yaml", config), ("rules.yaml", load(f"{MONITORING}/rules.yaml")["spec"])):
        with open(f"{work}/{name}", "w", encoding="utf-8") as file:
            yaml.safe_dump(content, file)
    shutil.copy("tests/monitoring/rules.yaml", f"{work}/rules-test.yaml")


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def that(self, true, what):
        if true:
            self.passed += 1
        else:
            self.failed += 1
            print(f"failed: {what}")


def ask(url, path, **query):
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        return {"error": json.load(error).get("error"), "result": []}


def wait_for(what, found):
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        try:
            if result := found():
                return result
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"failed: {what} within {DEADLINE_SECONDS} s")


def selectors(expression):
    """The metrics of a query, with the labels that are asked about. A metric is followed by a selector or a range."""
    for name, labels in re.findall(r"\b([a-z_]\w*)(?:\{([^}]*)\}|(?=\[))", expression):
        yield name, re.findall(r"(\w+)\s*[=!]~?", labels)
    # One that stands alone would be overlooked.
    for name in re.findall(r"\b(?:fluid_fuse|kubewarden|apiserver)_\w+", expression):
        yield name, []


def headings(path):
    with open(path, encoding="utf-8") as file:
        lines = re.findall(r"^#+ (.*)$", file.read(), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def check(work, url):
    checks = Checks()
    for command in (["check", "config", f"{work}/prometheus.yaml"], ["test", "rules", f"{work}/rules-test.yaml"]):
        run = subprocess.run(["promtool", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        checks.that(run.returncode == 0, f"promtool {' '.join(command)}:\n{run.stdout}")

    # A rate needs two scrapes.
    wait_for("Prometheus scrapes the sidecar", lambda: ask(
        url, "query", query="count_over_time(fluid_fuse_reads_total[1m]) > 2")["result"])
    targets = ask(url, "targets", state="active")["activeTargets"]
    seen = sorted((it["labels"]["pod"], it["labels"]["container"], it["health"], it["scrapeUrl"]) for it in targets)
    checks.that([it[:2] for it in seen] == [("train-0", "fluid-fuse"), ("train-6", "fluid-fuse-1")]
                and seen[0][2] == "up" and seen[1][3] == "http://[fd00::1]:9400/metrics", f"the PodMonitor selects {seen}")

    served = {it["metric"]: it["type"] for it in ask(url, "targets/metadata", match_target='{job="fluid-fuse"}')}
    served = {f"{name}_bucket" if kind == "histogram" else name for name, kind in served.items()}
    checks.that(len(served) > 10, f"the sidecar serves {served}")
    # Labels of its own, and those of the PodMonitor's targets.
    own = {"namespace", "pod", "container", "job", "le", "errno", "dataset", "source", "path"}
    others = {name: set(labels) for name, labels in load("tests/monitoring/metrics.yaml").items()}

    rules = wait_for("Prometheus evaluates the rules", lambda: [
        it for group in ask(url, "rules")["groups"] for it in group["rules"] if it["lastEvaluation"][:4] != "0001"])
    written = [it for group in load(f"{MONITORING}/rules.yaml")["spec"]["groups"] for it in group["rules"]]
    checks.that(len(rules) == len(written), f"{len(rules)} of {len(written)} rules are evaluated")
    for rule in rules:
        checks.that(rule["health"] == "ok", f"{rule['name']}: {rule.get('lastError')}")
    tested = json.dumps(load("tests/monitoring/rules.yaml"))
    for rule in written:
        notes = rule["annotations"]
        checks.that(notes["summary"] and notes["description"], f"{rule['alert']} says nothing")
        page, _, heading = notes["runbook_url"].partition("/blob/main/")[2].partition("#")
        checks.that(heading in headings(page), f"{rule['alert']}: {page} has no heading #{heading}")
        checks.that(rule["alert"] in tested, f"{rule['alert']} has no test")

    dashboard = json.load(open(f"{MONITORING}/dashboard.json", encoding="utf-8"))
    panels = [it for it in dashboard["panels"] if it["type"] != "row"]
    checks.that(len({it["id"] for it in dashboard["panels"]}) == len(dashboard["panels"]), "panels share an id")
    queries = [(it["alert"], it["expr"]) for it in written]
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"]
            queries.append((panel["title"], expression))
            for variable, value in (("$namespace", ".*"), ("$pod", ".*"), ("$__rate_interval", "1m")):
                expression = expression.replace(variable, value)
            answer = ask(url, "query", query=expression)
            checks.that("error" not in answer, f"{panel['title']}: {answer.get('error')}")
            # Nothing failed, and the metrics of others are not here.
            empty = re.search("kubewarden_|apiserver_|errno", expression)
            checks.that(answer["result"] or empty, f"{panel['title']} shows nothing: {expression}")
    for where, expression in queries:
        for name, labels in selectors(expression):
            known = others.get(name) or (own if name in served else None)
            checks.that(known is not None, f"{where}: nobody serves {name}")
            checks.that(known is None or known.issuperset(labels), f"{where}: {name} has no label of {labels}")

    print(f"{checks.passed} passed, {checks.failed} failed")
    return checks.failed == 0


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(*sys.argv[2:])
    else:
        sys.exit(0 if check(*sys.argv[2:]) else 1)
