"""The bed's AWS API with deployments that come to an end, for `./dev demo` and `./dev bench`.

moto knows services, but none of their deployments ever progresses. This server passes every call on to it and plays what is
missing: a deployment is through so many seconds after UpdateService has asked for it. It counts calls and their time: GET /calls.

usage: aws_front.py MOTO SECONDS, which prints the address to use
"""

import http.client
import json
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOTO, PACE = urllib.parse.urlsplit(sys.argv[1]), float(sys.argv[2])
ECS = "AmazonEC2ContainerServiceV20141113."
REGION = "arn:aws:ecs:us-east-1:123456789012"


class World:
    """What is played: the deployments of each service, oldest first, and the calls so far."""

    def __init__(self):
        self.lock = threading.Lock()
        self.deployments = {}
        self.calls = []

    def of(self, service):
        """The deployments of a service of moto's; it begins with one that is long through."""
        known = self.deployments.setdefault(service["serviceArn"], [])
        if not known:
            self.begin(service, created=time.time() - 3600)
        return known

    def begin(self, service, created=None):
        known = self.deployments[service["serviceArn"]]
        path = "/".join(service["serviceArn"].split("/")[-2:])
        number = len(known) + 1
        known.append(
            {
                "id": f"ecs-svc/{number:019}",
                "arn": f"{REGION}:service-deployment/{path}/{number:021}",
                "revision": f"{REGION}:service-revision/{path}/{number:019}",
                "definition": service["taskDefinition"],
                "created": created or time.time(),
                "desired": service["desiredCount"],
            }
        )

    def all(self):
        return [one for known in self.deployments.values() for one in known]


WORLD = World()


def is_through(one):
    return time.time() - one["created"] >= PACE


def counts(one):
    running = one["desired"] if is_through(one) else 0
    return running, one["desired"] - running


def played(service):
    """moto's service, with the deployment that it really has."""
    one = WORLD.of(service)[-1]
    running, pending = counts(one)
    state = "COMPLETED" if is_through(one) else "IN_PROGRESS"
    service["deployments"] = [
        {
            "id": one["id"],
            "status": "PRIMARY",
            "taskDefinition": one["definition"],
            "desiredCount": one["desired"],
            "runningCount": running,
            "pendingCount": pending,
            "failedTasks": 0,
            "rolloutState": state,
            "createdAt": one["created"],
            "updatedAt": one["created"],
        }
    ]
    service.update(runningCount=running, pendingCount=pending, currentServiceDeployment=one["arn"])
    return service


def deployment(one, brief):
    """A service deployment; in lists it has no more than its target."""
    told = {
        "serviceDeploymentArn": one["arn"],
        "status": "SUCCESSFUL" if is_through(one) else "IN_PROGRESS",
        "createdAt": one["created"],
        "startedAt": one["created"],
    }
    if is_through(one):
        told["finishedAt"] = one["created"] + PACE
    if brief:
        return told | {"targetServiceRevisionArn": one["revision"]}
    running, pending = counts(one)
    target = {
        "arn": one["revision"],
        "requestedTaskCount": one["desired"],
        "runningTaskCount": running,
        "pendingTaskCount": pending,
    }
    return told | {"targetServiceRevision": target}


def play(operation, asked):
    """The answer to what moto cannot answer; nothing for the rest."""
    if operation == "ListServiceDeployments":
        ends = f"{asked['cluster'].split('/')[-1]}/{asked['service'].split('/')[-1]}"
        found = [known for arn, known in WORLD.deployments.items() if arn.endswith(f"service/{ends}")]
        told = [deployment(one, True) for one in reversed(found[0] if found else [])]
        wanted = asked.get("status") or [one["status"] for one in told]
        return {"serviceDeployments": [one for one in told if one["status"] in wanted]}
    if operation == "DescribeServiceDeployments":
        wanted = asked["serviceDeploymentArns"]
        return {"serviceDeployments": [deployment(one, False) for one in WORLD.all() if one["arn"] in wanted]}
    if operation == "DescribeServiceRevisions":
        wanted = asked["serviceRevisionArns"]
        found = [one for one in WORLD.all() if one["revision"] in wanted]
        told = [{"serviceRevisionArn": one["revision"], "taskDefinition": one["definition"]} for one in found]
        return {"serviceRevisions": told}
    return None


def after(operation, asked, answer):
    """What moto has answered, made whole."""
    if operation == "DescribeServices":
        answer["services"] = [played(service) for service in answer["services"]]
    if operation == "UpdateService":
        service = answer["service"]
        before = WORLD.of(service)[-1]["definition"]
        if service["taskDefinition"] != before or asked.get("forceNewDeployment"):
            WORLD.begin(service)
        played(service)
    return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer waits for no acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def say(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def forward(self, body):
        connection = http.client.HTTPConnection(MOTO.hostname, MOTO.port)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() in ("content-type", "x-amzn-requestid")]
        return answer.status, answer.read(), kept

    def answer(self):
        if self.path == "/calls":
            return self.say(200, json.dumps(WORLD.calls).encode())
        begin = time.perf_counter()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.headers.get("X-Amz-Target") or urllib.parse.parse_qs(body.decode()).get("Action", [self.path])[0]
        operation = target.removeprefix(ECS) if target.startswith(ECS) else None
        asked = json.loads(body) if operation else {}
        with WORLD.lock:
            own = play(operation, asked)
        if own is not None:
            status, text, headers = 200, json.dumps(own).encode(), [("Content-Type", "application/x-amz-json-1.1")]
        else:
            status, text, headers = self.forward(body)
            if operation in ("DescribeServices", "UpdateService") and status == 200:
                with WORLD.lock:
                    text = json.dumps(after(operation, asked, json.loads(text))).encode()
        WORLD.calls.append((target.split(".")[-1], time.perf_counter() - begin))
        self.say(status, text, headers)

    do_GET = do_POST = do_PUT = answer


SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{SERVER.server_address[1]}", flush=True)
SERVER.serve_forever()
