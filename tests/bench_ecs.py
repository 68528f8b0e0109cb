"""`./dev bench ecs`: deployments against the AWS CLI and jq, and a whole pipeline against the shell of a classic buildspec.

All AWS calls go through the tests' stand-in for ECS, which records them with their times; its deployments succeed at once. Both
sides end in the same state, which is compared. Finally the pipeline runs behind the relays of bench_meter.py, which measure the
time that is runner's own.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from bench_meter import Meter, Relay

HOST = os.environ["RUNNER_TEST_REGISTRY"]
ENGINE = "/var/run/docker.sock"
ROUNDS = 7

DEFINITION = {
    "family": "bench",
    "containerDefinitions": [
        {
            "name": "web",
            "image": "placeholder",
            "memory": 64,
            "environment": [{"name": "VERSION", "value": "0"}],
            "portMappings": [{"containerPort": 8080}],
        }
    ],
}

# The usual script: describe, change with jq, register, update, check.
BY_HAND = """set -euo pipefail
aws ecs describe-task-definition --task-definition bench --query taskDefinition > td.json
jq --arg image "$IMAGE" --arg version "$TAG" '.containerDefinitions[0].image = $image
  | (.containerDefinitions[0].environment[] | select(.name == "VERSION")).value = $version
  | del(.taskDefinitionArn, .revision, .status, .requiresAttributes, .compatibilities, .registeredAt, .registeredBy)' td.json > new.json
ARN=$(aws ecs register-task-definition --cli-input-json file://new.json --query taskDefinition.taskDefinitionArn --output text)
aws ecs update-service --cluster bench --service bench --task-definition "$ARN" > /dev/null
"""
LOOK = """test "$(aws ecs describe-services --cluster bench --services bench --query 'services[0].deployments[0].rolloutState' --output text)" = COMPLETED
"""
CLASSIC = f"""set -euo pipefail
aws ecr get-login-password | docker login -u AWS --password-stdin {HOST} 2> /dev/null
aws ecr describe-repositories --repository-names bench > /dev/null
docker build -q -t {HOST}/bench:"$TAG" .
docker run --rm {HOST}/bench:"$TAG" /bin/busybox test -e /app
docker tag {HOST}/bench:"$TAG" {HOST}/bench:latest
docker push -q {HOST}/bench:"$TAG"
docker push -q {HOST}/bench:latest
IMAGE={HOST}/bench:$TAG
printf '[{{"name":"web","imageUri":"%s"}}]' "$IMAGE" > imagedefinitions.json
"""
PIPELINE = """version: 1
name: bench
images: { app: { repository: bench, tags: ["${TAG}", latest] } }
phases:
  build: { steps: [{ build: app }, { test: app, command: [/bin/busybox, test, -e, /app] }, { push: app }] }
  post_build:
    steps:
      - image-definitions: { web: app }
      - task-definition: { family: bench, containers: { web: { image: app, environment: { VERSION: "${TAG}" } } } }
      - deploy: { cluster: bench, service: bench }
"""


class Front:
    """The stand-in for ECS, and the calls that it has recorded."""

    def __init__(self, service):
        command = [os.environ["RUNNER_TEST_ECS_API"], "0", service]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        self.seen = 0

    def calls(self):
        """The calls since the last time."""
        with urllib.request.urlopen(f"{self.address}/calls") as answer:
            all_calls = json.load(answer)
        fresh, self.seen = all_calls[self.seen :], len(all_calls)
        return fresh

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Side:
    """One of the two programs that are compared, and its measurements of each round."""

    def __init__(self, name, command, directory, env):
        self.name, self.command, self.directory, self.env = name, command, directory, env
        self.seconds, self.api, self.cpu, self.count = [], [], [], 0

    def run(self, front, tag):
        front.calls()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        env = {**self.env, "TAG": tag, "IMAGE": f"example.com/app:{tag}"}
        command = [part.replace("@TAG@", tag) for part in self.command]
        done = subprocess.run(command, cwd=self.directory, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.name} failed:\n{done.stdout}\n{done.stderr}")
        self.seconds.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        calls = front.calls()
        self.api.append(sum(seconds for _, seconds in calls))
        self.count = len(calls)

    def median(self, values):
        return statistics.median(values)

    def summary(self):
        seconds, api = self.median(self.seconds), self.median(self.api)
        return f"  {self.name}: {seconds * 1000:.0f} ms, {self.count} calls that took {api * 1000:.0f} ms, {self.median(self.cpu) * 1000:.0f} ms of CPU"


def aws(env, *arguments):
    done = subprocess.run(["aws", *arguments], env=env, capture_output=True, text=True)
    return done.stdout


def state(env):
    """The service's image and containers, without the parts that differ from round to round."""
    arn = json.loads(aws(env, "ecs", "describe-services", "--cluster", "bench", "--services", "bench"))["services"][0]["taskDefinition"]
    found = json.loads(aws(env, "ecs", "describe-task-definition", "--task-definition", arn))["taskDefinition"]
    container = found["containerDefinitions"][0]
    # A tag on one side is a digest on the other.
    return container["image"].replace("@", ":").split(":")[0], [one["name"] for one in container["environment"]], len(found["containerDefinitions"])


def compare(title, front, sides, env):
    ends = set()
    for round in range(ROUNDS):
        for side in sides:
            side.run(front, f"{side.name.split()[0]}{os.getpid()}-{round}".lower())
            ends.add(json.dumps(state(env)))
    print(f"{title} ({ROUNDS} rounds, medians):")
    for side in sides:
        print(side.summary())
    ours, theirs = sides
    beyond = [side.median([all - api for all, api in zip(side.seconds, side.api)]) for side in sides]
    ratio = theirs.median(theirs.seconds) / ours.median(ours.seconds)
    same = "same end state" if len(ends) == 1 else f"other end states: {ends}"
    print(f"  {ratio:.1f} times as fast, {beyond[1] / beyond[0]:.1f} times beyond the API's own time; {same}")


def outside(front, side, here):
    """The time of a run in which neither the engine, the registry nor the API works for it."""
    meter = Meter()
    engine = Relay(meter, os.path.join(here, "engine.sock"), ENGINE)
    api = Relay(meter, ("127.0.0.1", 0), ("127.0.0.1", urllib.parse.urlsplit(front.address).port))
    registry = Relay(meter, ("127.0.0.1", 0), ("127.0.0.1", 443), tunnels=True)
    side.env = side.env | {
        "DOCKER_HOST": f"unix://{engine.address}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{api.address[1]}",
        "HTTPS_PROXY": f"http://127.0.0.1:{registry.address[1]}",
    }
    own = []
    for round in range(ROUNDS):
        meter.take()
        side.run(front, f"outside{os.getpid()}-{round}")
        own.append(side.seconds[-1] - meter.take())
    taken = side.median(side.seconds[-ROUNDS:])
    print(f"  runner behind relays: {side.median(own) * 1000:.0f} of {taken * 1000:.0f} ms outside the engine, the registry and the API")


def ecs(runner, here, docker):
    keys = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED")
    env = {key: os.environ[key] for key in keys}
    path = f"{os.path.dirname(docker)}:{os.environ['PATH']}"
    env |= {"PATH": path, "HOME": here, "LANG": "C.UTF-8", "AWS_DEFAULT_REGION": env["AWS_REGION"], "DOCKER_BUILDKIT": "1", "AWS_PAGER": ""}
    env["AWS_ENDPOINT_URL"] = os.environ["RUNNER_TEST_AWS"]
    with open(os.path.join(here, "first.json"), "w") as file:
        json.dump(DEFINITION, file)
    aws(env, "ecs", "create-cluster", "--cluster-name", "bench")
    aws(env, "ecs", "register-task-definition", "--cli-input-json", f"file://{here}/first.json")
    aws(env, "ecs", "create-service", "--cluster", "bench", "--service-name", "bench", "--task-definition", "bench", "--desired-count", "1")
    aws(env, "ecr", "create-repository", "--repository-name", "bench")
    front = Front("bench/bench")
    env["AWS_ENDPOINT_URL"] = front.address
    try:
        for name, text in [("hand.sh", BY_HAND + LOOK), ("classic.sh", CLASSIC + BY_HAND)]:
            with open(os.path.join(here, name), "w") as file:
                file.write(text)
        app = os.path.join(here, "app")
        os.makedirs(app)
        for name, text in [("Dockerfile", "FROM busybox:1.36\nCOPY app /app\n"), ("app", "an app\n"), ("pipeline.yml", PIPELINE)]:
            with open(os.path.join(app, name), "w") as file:
                file.write(text)
        deploy = [runner, "ecs", "deploy", "--cluster", "bench", "--service", "bench", "--image", "web=example.com/app:@TAG@", "--env", "web:VERSION=@TAG@"]
        sides = [Side("runner", deploy, here, env), Side("aws and jq", ["bash", "hand.sh"], here, env)]
        compare("register, update and look", front, sides, env)
        shell = ["bash", os.path.join(here, "classic.sh")]
        sides = [Side("runner", [runner, "run", "--publish"], app, env), Side("shell", shell, app, env)]
        compare("login, build, test, push of two tags, register, update", front, sides, env)
        outside(front, sides[0], here)
    finally:
        front.stop()
        subprocess.run("docker images -q '*/bench' | sort -u | xargs -r docker rmi -f", shell=True, env=env, capture_output=True)
