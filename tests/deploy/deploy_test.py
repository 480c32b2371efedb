"""Manifests, rules, dashboard and image against the sources: every flag, metric, label value, port and path they name
exists, and the times and sizes they state fit together."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import yaml
except ImportError:  # Debian: python3-yaml
    yaml = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
LAST_WORDS_SECONDS = 2  # kLastWords in server/server.cc
HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def server_flags() -> set[str]:
    return set(re.findall(r'(?:add_(?:option|flag)\(|AddSwitch\(app,)\s*"(--\w+)"', read("server/flags.cc")))


def client_flags() -> set[str]:
    sources = "".join(read(f"server/cli/{name}.cc") for name in ("main", "options", "tls_options"))
    return set(re.findall(r'add_(?:option|flag)\(\s*"(--\w+)"', sources))


def metric_sources() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "server").glob("metrics*.cc")))


def metric_names() -> tuple[set[str], set[str]]:
    """All families, and those that are histograms."""
    source = metric_sources()
    return (set(re.findall(r'"((?:goldfinch|process)_\w+)"', source)),
            set(re.findall(r'histogram\(\s*"(goldfinch_\w+)"', source)))


def family_of(name: str) -> str | None:
    """The family a series in an expression belongs to, or None when there is none."""
    families, histograms = metric_names()
    for suffix in HISTOGRAM_SUFFIXES:
        if name.removesuffix(suffix) in histograms and name.endswith(suffix):
            return name.removesuffix(suffix)
    return name if name in families - histograms else None


def label_values() -> set[str]:
    """What a server of this version puts into the labels reason, code, kind, event, use and result."""
    names = " ".join(re.findall(r"(?:kGoodEnds|kKinds) = \{([^}]*)\}", read("server/metrics.h"))) + \
        " ".join(re.findall(r'\{\{"(?:reason|kind|use|result)", "(\w+)"\}\}', metric_sources())) + " " + \
        " ".join(re.findall(r'\{"(\w+)", &stats\.', read("server/metrics_sessions.cc")))
    codes = ("CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
             "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
             "UNAUTHENTICATED").split()
    return set(re.findall(r"\w+", names)) | set(codes) | {code.lower() for code in codes}


def flags_in(arguments: list[str]) -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in arguments)


def bytes_of(size: str) -> int:
    """1GiB and 256MiB of a flag, 7Gi of a manifest, 4gb of Redis, which counts in 1024s."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|mb|gb)B?", size).groups()
    return int(number) << {"m": 20, "g": 30}[unit[0].lower()]


class ExpressionsMixin:
    def check_expression(self, expression: str):
        names = re.findall(r"\b(?:goldfinch|process)_\w+", expression)
        for name in names:
            self.assertIsNotNone(family_of(name), f"no metric {name}: {expression}")
        for function in ("rate", "increase"):
            for name in re.findall(rf"\b{function}\((\w+)", expression):
                self.assertTrue(name.endswith(("_total", *HISTOGRAM_SUFFIXES)), f"{function} of a gauge: {expression}")
        for name in re.findall(r"histogram_quantile\([\d.]+, sum by \(([^)]*)\)", expression):
            self.assertIn("le", [label.strip() for label in name.split(",")], expression)
        for value in re.findall(r'\b(?:reason|code|kind|event|use|result)="([^"]*)"', expression):
            self.assertIn(value, label_values(), expression)
        for opening, closing in ("()", "[]", "{}"):
            self.assertEqual(expression.count(opening), expression.count(closing), expression)


class DashboardTest(unittest.TestCase, ExpressionsMixin):
    def setUp(self):
        self.dashboard = json.loads(read("deploy/grafana/goldfinch.json"))

    def test_every_expression_reads_metrics_that_exist(self):
        for panel in self.dashboard["panels"]:
            for target in panel.get("targets", []):
                self.check_expression(target["expr"])

    def test_every_metric_is_on_it(self):
        shown = {family_of(name) for name in re.findall(r"\b(?:goldfinch|process)_\w+", json.dumps(self.dashboard["panels"]))}
        self.assertEqual(metric_names()[0] - shown, set())

    def test_panels_have_ids_of_their_own_and_do_not_overlap(self):
        panels = self.dashboard["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        cells = set()
        for panel in panels:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                self.assertNotIn(cell, cells, panel["title"])
                cells.add(cell)


class ImageTest(unittest.TestCase):
    def setUp(self):
        self.text = read("Dockerfile")

    def test_its_flags_exist(self):
        command = json.loads(re.search(r"^CMD (\[.*\])$", self.text, re.MULTILINE)[1])
        self.assertLessEqual(set(flags_in(command)), server_flags())

    def test_it_exposes_the_ports_it_listens_on(self):
        command = flags_in(json.loads(re.search(r"^CMD (\[.*\])$", self.text, re.MULTILINE)[1]))
        exposed = re.search(r"^EXPOSE (.*)$", self.text, re.MULTILINE)[1].split()
        self.assertEqual(exposed, [command[flag].rpartition(":")[2] for flag in ("--listen", "--metrics")])

    def test_docker_waits_for_a_drain(self):
        drain = int(re.search(r"drain_seconds = (\d+)", read("server/flags.h"))[1])
        for page in ("Dockerfile", "docs/operations.md", "README.md"):
            for line in re.findall(r"\bdocker run (?=-)(?!--health-cmd).*", read(page)):
                timeout = re.match(r"docker run --stop-timeout=(\d+)\b", line)
                self.assertIsNotNone(timeout, line)
                self.assertGreater(int(timeout[1]), drain + LAST_WORDS_SECONDS, line)
        self.assertEqual(len(re.findall("docker run --stop-timeout", self.text)), 2)

    def test_what_it_copies_is_in_the_context(self):
        kept = re.findall(r"^!(\S+)$", read(".dockerignore"), re.MULTILINE)
        for source in re.findall(r"^COPY (\S+)", self.text, re.MULTILINE):
            if source not in (".", "--from=build"):
                self.assertIn(source, kept)
        for path in kept:
            self.assertTrue((ROOT / path).exists(), path)

    def test_the_context_has_every_room_the_build_enters(self):
        kept = re.findall(r"^!(\S+)$", read(".dockerignore"), re.MULTILINE)
        optional = {"tests", "bench"}  # switched off in the Dockerfile
        for room in set(re.findall(r"add_subdirectory\((\w+)\)", read("CMakeLists.txt"))) - optional:
            self.assertIn(room, kept)
        for switch in ("GOLDFINCH_TESTS=OFF", "GOLDFINCH_BENCH=OFF"):
            self.assertIn(switch, self.text)


@unittest.skipIf(yaml is None, "python3-yaml is not installed")
class KubernetesTest(unittest.TestCase):
    def setUp(self):
        self.objects = {}
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
            for item in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                self.objects[(item["kind"], item.get("metadata", {}).get("name"))] = item
        self.pod = self.objects["Deployment", "goldfinch"]["spec"]["template"]
        self.container = self.pod["spec"]["containers"][0]
        self.flags = flags_in(self.container["args"])

    def redis(self) -> dict:
        """The container beside the servers."""
        objects = yaml.safe_load_all(read("deploy/kubernetes-with-sessions/redis.yaml"))
        stateful = next(item for item in objects if item["kind"] == "StatefulSet")
        return stateful["spec"]["template"]["spec"]["containers"][0]

    def test_its_flags_exist(self):
        self.assertLessEqual(set(self.flags), server_flags())

    def test_callers_need_a_key_from_a_file_that_is_mounted(self):
        self.assertNotIn("--insecure_allow_anonymous", self.flags)
        path = pathlib.PurePosixPath(self.flags["--tenants_file"])
        mounts = {mount["mountPath"]: mount for mount in self.container["volumeMounts"]}
        self.assertTrue(mounts[str(path.parent)]["readOnly"])
        volumes = {volume["name"]: volume for volume in self.pod["spec"]["volumes"]}
        secret = volumes[mounts[str(path.parent)]["name"]]["secret"]
        self.assertEqual(secret["defaultMode"] & 0o002, 0)
        # The user is of the group that the files of a volume get.
        self.assertEqual(self.pod["spec"]["securityContext"]["fsGroup"],
                         self.pod["spec"]["securityContext"]["runAsGroup"])
        for document in ("deploy/kubernetes/kustomization.yaml", "docs/operations.md"):
            self.assertIn(f"secret generic {secret['secretName']} --from-file={path.name}", read(document))

    def test_the_example_of_a_secret_has_no_key_that_works(self):
        example = json.loads(read("deploy/kubernetes/tenants.example.json"))
        for tenant in example["tenants"]:
            for key in tenant["key_sha256"]:
                self.assertIsNone(re.fullmatch(r"[0-9a-fA-F]{64}", key))
        # Nothing that is applied carries one either.
        self.assertNotIn("Secret", {kind for kind, _ in self.objects})

    def test_somebody_may_call_the_admin_service(self):
        self.assertIn("--admin_listen", self.flags)
        tenants = json.loads(read("deploy/kubernetes/tenants.example.json"))["tenants"]
        self.assertEqual([tenant["name"] for tenant in tenants if tenant.get("admin")], ["operator"])
        known = set(re.findall(r'(?:Whole|Number|Flag|Find|read)\("(\w+)"', read("server/tenants/tenants_file.cc")))
        for tenant in tenants:
            self.assertLessEqual(set(tenant) | set(tenant.get("limits", {})), known)

    def test_the_list_of_resources_is_complete(self):
        listed = self.objects["Kustomization", None]["resources"]
        files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
        self.assertEqual(set(listed), files)

    def test_a_pod_may_drain_before_it_is_killed(self):
        sleep = int(self.container["lifecycle"]["preStop"]["exec"]["command"][1])
        needed = sleep + int(self.flags["--drain_seconds"]) + LAST_WORDS_SECONDS
        self.assertIn(f"kLastWords = std::chrono::seconds({LAST_WORDS_SECONDS})", read("server/server.cc"))
        self.assertGreater(self.pod["spec"]["terminationGracePeriodSeconds"], needed)

    def test_threads_are_the_cpus_it_may_use(self):
        self.assertEqual(self.flags["--threads"], self.container["resources"]["limits"]["cpu"])

    def test_what_the_flags_allow_fits_its_memory(self):
        flags = (
            "--cache_bytes", "--expanded_bytes", "--aside_bytes", "--prefix_cache_bytes", "--session_bytes",
            "--grpc_memory_bytes")
        allowed = [bytes_of(self.flags[flag]) for flag in flags]
        # Without a flag: snapshots on their way to and from clients, and sessions being copied.
        for name, source in (("kMaxTransferBytes", "server/transfer_room.h"),
                             ("max_image_bytes", "sessions/session_manager.h")):
            match = re.search(rf"{name} = std::int64_t\{{(\d+)\}} << (\d+);", read(source))
            allowed.append(int(match[1]) << int(match[2]))
        model = 256 << 20  # of the image, with states and workspace
        self.assertLessEqual(sum(allowed) + model, bytes_of(self.container["resources"]["limits"]["memory"]))
        self.assertEqual(self.container["resources"]["requests"], self.container["resources"]["limits"])

    def test_the_store_of_with_sessions_is_the_redis_beside_it(self):
        folder = DEPLOY / "kubernetes-with-sessions"
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        patches = {patch["target"]["kind"]: yaml.safe_load(patch["patch"]) for patch in kustomization["patches"]}
        flags = flags_in([patch["value"] for patch in patches["Deployment"] if patch["path"].endswith("/args/-")])
        self.assertLessEqual(set(flags), server_flags())
        redis = {item["kind"]: item for item in
                 yaml.safe_load_all((folder / "redis.yaml").read_text(encoding="utf-8"))}
        host, port = re.fullmatch(r"redis://([\w-]+):(\d+)", flags["--session_store"]).groups()
        self.assertEqual(host, redis["Service"]["metadata"]["name"])
        self.assertEqual(int(port), redis["Service"]["spec"]["ports"][0]["port"])
        labels = redis["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
        self.assertEqual(redis["Service"]["spec"]["selector"], labels)
        self.assertEqual(redis["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"], labels)
        egress = patches["NetworkPolicy"][0]["value"]
        self.assertEqual(egress[0]["to"][0]["podSelector"]["matchLabels"], labels)
        dns = egress[1]
        self.assertEqual([port["port"] for port in dns["ports"]], [53, 53])
        self.assertIn({"ipBlock": {"cidr": "169.254.20.10/32"}}, dns["to"])  # NodeLocal DNSCache
        self.assertEqual(redis["NetworkPolicy"]["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
                         self.pod["metadata"]["labels"])

    def test_a_drain_of_a_node_does_not_take_the_redis_away_from_servers_that_park(self):
        redis = {item["kind"]: item for item in
                 yaml.safe_load_all(read("deploy/kubernetes-with-sessions/redis.yaml"))}
        pod = redis["StatefulSet"]["spec"]["template"]
        self.assertEqual(redis["PodDisruptionBudget"]["spec"],
                         {"maxUnavailable": 0, "selector": {"matchLabels": pod["metadata"]["labels"]}})
        apart = pod["spec"]["affinity"]["podAntiAffinity"]
        # A required one would leave it without a node in a small cluster.
        self.assertEqual(list(apart), ["preferredDuringSchedulingIgnoredDuringExecution"])
        term = apart["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]
        self.assertEqual(term["topologyKey"], "kubernetes.io/hostname")
        self.assertEqual(term["labelSelector"]["matchLabels"], self.pod["metadata"]["labels"])
        self.assertIn(f"kubectl delete pod {redis['StatefulSet']['metadata']['name']}-0", read("docs/operations.md"))

    def test_a_client_comes_back_to_the_replica_that_has_its_sessions(self):
        kustomization = yaml.safe_load(read("deploy/kubernetes-with-sessions/kustomization.yaml"))
        service = next(patch for patch in kustomization["patches"] if patch["target"]["kind"] == "Service")
        self.assertIn(("Service", service["target"]["name"]), self.objects)
        self.assertIsNone(self.objects["Service", service["target"]["name"]]["spec"].get("clusterIP"))
        self.assertEqual(yaml.safe_load(service["patch"]),
                         [{"op": "add", "path": "/spec/sessionAffinity", "value": "ClientIP"}])

    def test_what_tenants_may_park_fits_the_redis(self):
        container = self.redis()
        args = container["args"]
        self.assertEqual(args[args.index("--maxmemory-policy") + 1], "noeviction")
        most = bytes_of(args[args.index("--maxmemory") + 1])
        self.assertLess(most, bytes_of(container["resources"]["limits"]["memory"]))
        default = int(re.search(r"\| `max_parked_bytes` \| (\d+) \|", read("docs/operations.md"))[1])
        tenants = json.loads(read("deploy/kubernetes/tenants.example.json"))["tenants"]
        parked = sum(tenant.get("limits", {}).get("max_parked_bytes", default) for tenant in tenants)
        # The rest is for what is being written, and for drains, which have no limit.
        self.assertLessEqual(2 * parked, most)

    def test_both_sides_take_the_password_of_the_redis_from_one_secret(self):
        kustomization = yaml.safe_load(read("deploy/kubernetes-with-sessions/kustomization.yaml"))
        patches = [patch for item in kustomization["patches"] if item["target"]["kind"] == "Deployment"
                   for patch in yaml.safe_load(item["patch"])]
        self.assertNotIn("env", self.container)  # the patch would replace it
        server = next(patch["value"] for patch in patches if patch["path"].endswith("/containers/0/env"))
        secrets = {}
        for variables in (server, self.redis()["env"]):
            for variable in variables:
                secrets[variable["name"]] = variable["valueFrom"]["secretKeyRef"]
        name = re.search(r'kRedisPasswordVariable = "(\w+)"', read("sessions/open_store.h"))[1]
        self.assertEqual(set(secrets), {name, "REDISCLI_AUTH"})
        self.assertEqual(secrets[name], secrets["REDISCLI_AUTH"])
        secret = secrets[name]
        for document in ("deploy/kubernetes-with-sessions/kustomization.yaml", "docs/operations.md"):
            text = re.sub(r"\\\n#\s*", "", read(document))
            self.assertIn(f"secret generic {secret['name']} --from-literal={secret['key']}=", text)

    def test_a_redis_is_told_its_password_and_its_arguments(self):
        container = self.redis()
        with tempfile.TemporaryDirectory() as folder:
            server = pathlib.Path(folder) / "redis-server"
            server.write_text('#!/bin/sh\necho "$#"\nprintf "%s\\n" "$@"\ncat\n', encoding="utf-8")
            server.chmod(0o755)
            result = subprocess.run([*container["command"], *container["args"]], capture_output=True, text=True,
                                    env={"PATH": f"{folder}:/usr/bin:/bin", "REDISCLI_AUTH": "a/b+c="})
        told = ["-", *container["args"]]
        self.assertEqual(result.stdout.split("\n"), [str(len(told)), *told, "requirepass a/b+c=", ""])

    def test_a_redis_that_answers_otherwise_is_not_ready(self):
        probe = self.redis()["readinessProbe"]
        with tempfile.TemporaryDirectory() as folder:
            client = pathlib.Path(folder) / "redis-cli"
            for answer, ready in (("PONG", True), ("LOADING Redis is loading the dataset in memory", False)):
                client.write_text(f"#!/bin/sh\necho '{answer}'\n", encoding="utf-8")
                client.chmod(0o755)
                result = subprocess.run(probe["exec"]["command"], env={"PATH": f"{folder}:/usr/bin:/bin"})
                self.assertEqual(result.returncode == 0, ready, answer)
        self.assertEqual(probe["timeoutSeconds"], 5)

    def test_the_redis_keeps_what_it_acknowledges(self):
        args = self.redis()["args"]
        for name, value in (("--appendonly", "yes"), ("--appendfsync", "always"), ("--save", "")):
            self.assertEqual(args[args.index(name) + 1], value)

    def test_the_disk_of_the_redis_has_room_for_its_file_and_a_new_one(self):
        """It exits when there is none; and it is told before."""
        objects = yaml.safe_load_all(read("deploy/kubernetes-with-sessions/redis.yaml"))
        stateful = next(item for item in objects if item["kind"] == "StatefulSet")
        claim = stateful["spec"]["volumeClaimTemplates"][0]
        args = self.redis()["args"]
        most = bytes_of(args[args.index("--maxmemory") + 1])
        self.assertGreaterEqual(bytes_of(claim["spec"]["resources"]["requests"]["storage"]), 6 * most)
        name = f"{claim['metadata']['name']}-{stateful['metadata']['name']}-0"
        rule = next(rule for group in yaml.safe_load(read("deploy/prometheus/rules.yml"))["groups"]
                    for rule in group["rules"] if rule["alert"] == "GoldFinchRedisVolume")
        self.assertEqual(set(re.findall(r'persistentvolumeclaim="([^"]*)"', rule["expr"])), {name})
        self.assertIn(f"kubectl patch pvc {name} ", read("docs/operations.md"))

    def test_a_probe_that_runs_the_client_waits_for_as_long_as_it_may(self):
        probes = {name: self.container[name]["timeoutSeconds"]
                  for name in ("startupProbe", "readinessProbe", "livenessProbe")}
        short, long = (float(wait) for wait in re.findall(r"`--wait=([\d.]+)`", read("docs/operations.md")))
        self.assertIn(f"--wait={short}, --tls_ca", read("docs/operations.md"))
        check = re.search(r"--timeout=(\d+)s .*\\\n +CMD .*\"--wait=([\d.]+)\"", read("Dockerfile"))
        for wait, timeout in ((short, probes["startupProbe"]), (short, probes["readinessProbe"]),
                              (long, probes["livenessProbe"]), (float(check[2]), int(check[1]))):
            self.assertLess(wait, timeout)
            self.assertGreaterEqual(wait, timeout - 1)

    def test_ports_agree(self):
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        for name, flag in (("grpc", "--listen"), ("metrics", "--metrics")):
            self.assertEqual(self.flags[flag], f"0.0.0.0:{ports[name]}")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(self.container[probe]["grpc"]["port"], ports["grpc"])
        self.assertEqual(self.pod["metadata"]["annotations"]["prometheus.io/port"], str(ports["metrics"]))
        for service in ("goldfinch", "goldfinch-headless"):
            for port in self.objects["Service", service]["spec"]["ports"]:
                self.assertEqual(ports[port["targetPort"]], port["port"])

    def test_selectors_select_the_pods(self):
        labels = self.pod["metadata"]["labels"]
        spec = {key: item.get("spec") for key, item in self.objects.items()}
        selectors = [spec["Deployment", "goldfinch"]["selector"]["matchLabels"],
                     spec["Service", "goldfinch"]["selector"], spec["Service", "goldfinch-headless"]["selector"],
                     spec["PodDisruptionBudget", "goldfinch"]["selector"]["matchLabels"],
                     spec["NetworkPolicy", "goldfinch"]["podSelector"]["matchLabels"]]
        for selector in selectors:
            self.assertEqual(selector, labels)

    def test_the_image_is_the_one_that_is_built(self):
        image = self.pod["spec"]["containers"][0]["image"]
        version = re.search(r"project\(goldfinch VERSION ([\d.]+)", read("CMakeLists.txt"))[1]
        self.assertEqual(image, f"goldfinch:{version}")
        for page in ("README.md", "Dockerfile"):
            self.assertEqual(set(re.findall(r"docker build -t (\S+)", read(page))), {image}, page)

    def test_each_build_has_a_tag_of_its_own(self):
        """The same one again starts no rollout, and nodes that have it do not pull it."""
        page = read("docs/operations.md")
        self.assertIn("tag=$(git describe --always --dirty)", page)
        name = 'REGISTRY/goldfinch:"$tag"'
        build = f'docker build --build-arg GOLDFINCH_REVISION="$tag" -t {name} .'
        self.assertIn(build, page)
        self.assertIn(f"docker push {name}", page)
        self.assertIn(build, read("Dockerfile"))
        self.assertRegex(read("Dockerfile"), r"\nARG GOLDFINCH_REVISION=\n")
        self.assertIn('-DGOLDFINCH_REVISION="$GOLDFINCH_REVISION"', read("Dockerfile"))
        rename = re.search(r'\| (sed "[^"]*") \|', page)[1]
        manifest = read("deploy/kubernetes/deployment.yaml")
        renamed = subprocess.run(["sh", "-c", rename], input=manifest, env={"PATH": "/usr/bin:/bin", "tag": "abc"},
                                 capture_output=True, text=True, check=True).stdout
        self.assertEqual(renamed, manifest.replace(self.container["image"], "REGISTRY/goldfinch:abc"))

    def test_who_may_call_is_told(self):
        for rule in self.objects["NetworkPolicy", "goldfinch"]["spec"]["ingress"]:
            for peer in rule["from"]:
                for name, value in peer["podSelector"]["matchLabels"].items():
                    self.assertIn(f"`{name}={value}`", read("docs/operations.md"))

    def test_the_user_is_the_one_of_the_image(self):
        self.assertIn(f"USER {self.pod['spec']['securityContext']['runAsUser']}:", read("Dockerfile"))


@unittest.skipIf(yaml is None, "python3-yaml is not installed")
class PrometheusTest(unittest.TestCase, ExpressionsMixin):
    def setUp(self):
        self.rules = [rule for group in yaml.safe_load(read("deploy/prometheus/rules.yml"))["groups"]
                      for rule in group["rules"]]

    def test_every_rule_reads_metrics_that_exist(self):
        for rule in self.rules:
            self.check_expression(rule["expr"])

    def test_a_rule_of_one_replica_names_it_as_its_target_does(self):
        """Beside job and instance, the labels that kubernetes.yml gives."""
        config = yaml.safe_load(read("deploy/prometheus/kubernetes.yml"))["scrape_configs"][0]
        given = {rule["target_label"] for rule in config["relabel_configs"] if "target_label" in rule}
        self.assertEqual(given, {"namespace", "pod"})
        for rule in self.rules:
            for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
                labels = set(labels.replace(" ", "").split(","))
                self.assertIn("job", labels, rule["alert"])
                self.assertIn("namespace", labels, rule["alert"])
                if "instance" in labels:
                    self.assertIn("pod", labels, rule["alert"])

    def test_what_is_refused_in_the_queue_is_refused(self):
        """rules_test.yml has it with numbers, for which promtool is needed."""
        expression = next(rule["expr"] for rule in self.rules if rule["alert"] == "GoldFinchRefusing")
        self.assertIn('goldfinch_requests_refused_total{code="RESOURCE_EXHAUSTED"}', expression)
        self.assertIn('goldfinch_requests_finished_total{reason="resource_exhausted"}', expression)

    def test_steps_that_nobody_waits_for_are_no_alert(self):
        for rule in self.rules:
            if "histogram_quantile" in rule["expr"]:
                self.assertNotIn("goldfinch_step_duration_seconds", rule["expr"], rule["alert"])

    def test_a_replica_that_loads_is_not_down(self):
        expression = next(rule["expr"] for rule in self.rules if rule["alert"] == "GoldFinchDown")
        deployment = yaml.safe_load(read("deploy/kubernetes/deployment.yaml"))
        probe = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
        minutes = {int(number) for number in re.findall(r"(?:\[|offset )(\d+)m\b", expression)}
        self.assertEqual(len(minutes), 1, expression)
        self.assertGreater(60 * minutes.pop(), probe["periodSeconds"] * probe["failureThreshold"])

    def test_servers_are_told_from_others(self):
        """By the name of the job where there is only `up`, else by their build; rules_test.yml has it with numbers."""
        for rule in self.rules:
            for job in re.findall(r'\bup(?:\{job=~"([^"]*)"\})?', rule["expr"]):
                for name, ours in (("goldfinch", True), ("goldfinch-blue", True), ("monitoring/goldfinch", True),
                                   ("kubernetes-pods", False), ("not-goldfinch", False)):
                    self.assertEqual(re.fullmatch(job, name) is not None, ours, f"{rule['alert']}: {name}")
            if "process_" in rule["expr"]:
                self.assertRegex(rule["expr"], r" and on \(job, instance\) .*\bgoldfinch_build_info\b", rule["alert"])

    def test_that_no_server_is_there_is_an_alert(self):
        """Pods that are Pending are no targets, so none of them is down."""
        rule = next(rule for rule in self.rules if rule["alert"] == "GoldFinchAbsent")
        self.assertRegex(rule["expr"], r"^absent\(up\{.*\} == 1\)$")
        self.assertEqual(rule["labels"]["severity"], "critical")

    def test_pods_that_have_ended_are_no_targets(self):
        relabeling = yaml.safe_load(read("deploy/prometheus/kubernetes.yml"))["scrape_configs"][0]["relabel_configs"]
        drops = {rule["source_labels"][0]: rule["regex"] for rule in relabeling if rule.get("action") == "drop"}
        for phase in ("Pending", "Failed", "Succeeded"):
            self.assertRegex(phase, f"^({drops['__meta_kubernetes_pod_phase']})$")

    @unittest.skipUnless(shutil.which("promtool"), "promtool is not installed")
    def test_rules_fire_when_they_should(self):
        tests = pathlib.Path(__file__).with_name("rules_test.yml")
        result = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_every_rule_says_how_bad_it_is_and_what_it_is(self):
        self.assertEqual(len({rule["alert"] for rule in self.rules}), len(self.rules))
        for rule in self.rules:
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertIn("summary", rule["annotations"])

    def test_the_configurations_name_the_rules_and_what_the_server_serves(self):
        configs = {name: yaml.safe_load(read(f"deploy/prometheus/{name}.yml")) for name in ("prometheus", "kubernetes")}
        for config in configs.values():
            for name in config["rule_files"]:
                self.assertTrue((DEPLOY / "prometheus" / name).is_file())
        default = re.search(r'metrics = "([\d.:]+)"', read("server/flags.h"))[1]
        self.assertEqual(configs["prometheus"]["scrape_configs"][0]["static_configs"][0]["targets"], [default])
        pods = configs["kubernetes"]["scrape_configs"][0]["kubernetes_sd_configs"][0]["selectors"][0]["label"]
        labels = yaml.safe_load(read("deploy/kubernetes/deployment.yaml"))["spec"]["template"]["metadata"]["labels"]
        self.assertIn(pods, [f"{name}={value}" for name, value in labels.items()])


class OperationsTest(unittest.TestCase):
    def test_every_metric_is_documented_and_every_documented_one_exists(self):
        named = set(re.findall(r"`((?:goldfinch|process)_\w+)`", read("docs/operations.md")))
        self.assertEqual(named, metric_names()[0])

    def test_every_reason_to_wait_is_told(self):
        page = read("docs/operations.md")
        row = re.search(r"\n\| `goldfinch_requests_waiting` \|.*", page)[0]
        screen = re.search(r"\n    requests +running .*", page)[0]
        reasons = re.findall(r'AddGauge\(waiting, \{\{"reason", "(\w+)"', read("server/metrics.cc"))
        self.assertGreaterEqual(len(reasons), 3)
        for reason in reasons:
            self.assertIn(f"`{reason}`", row)
            self.assertIn(f"{reason} 0", screen)

    def test_no_key_is_on_the_command_line_of_kubectl(self):
        commands = re.findall(r"kubectl exec(?:.*\\\n)*.*", read("docs/operations.md"))
        self.assertTrue(any("goldfinch admin" in command for command in commands), commands)
        for command in commands:
            self.assertNotRegex(command, r"--key|\$KEY")

    def test_the_password_of_a_redis_is_changed_without_losing_sessions(self):
        """Servers park into it while they are restarted, with the one they began with: it goes last."""
        commands = re.findall(r"^    .*(?:\\\n.*)*", read("docs/operations.md"), re.MULTILINE)
        steps = ("ACL SETUSER default >%s", "kubectl replace -f -", "rollout restart deployment goldfinch",
                 "until all are new", "rollout restart statefulset goldfinch-redis")
        found = [next(number for number, command in enumerate(commands) if step in command) for step in steps]
        self.assertEqual(found, sorted(found))

    def test_every_flag_it_names_exists(self):
        others = re.compile(r"^    .*\b(?:kubectl|docker|git) (?:.*\\\n)*.*", re.MULTILINE)
        named = set(re.findall(r"--\w+", others.sub("", read("docs/operations.md"))))
        self.assertLessEqual(named, server_flags() | client_flags() | {"--version"})


if __name__ == "__main__":
    sys.exit(unittest.main())
