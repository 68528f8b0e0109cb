"""Measures the release binary against its peers, side by side in one run. `./dev bench [PART]...` calls it.

usage: bench.py RUNNER DIRECTORY [start|steps|output|build|push|ecs]...

DIRECTORY holds start.yml alone and is thrown away afterwards. Medians of several runs; what is compared alternates, so that a
slow moment of the machine hits both sides.
"""

import json
import base64
import os
import random
import socket
import statistics
import string
import subprocess
import sys
import tempfile
import time
import urllib.request

import bench_ecs

RUNNER, HERE = sys.argv[1:3]
ENV = {"PATH": os.environ["PATH"], "HOME": HERE, "LANG": "C.UTF-8"}
BUILDKIT = {**ENV, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}


def timed(command, directory=HERE, stdout=subprocess.DEVNULL):
    """How long it takes, in seconds."""
    begin = time.perf_counter()
    subprocess.run(command, cwd=directory, env=ENV, stdin=subprocess.DEVNULL, stdout=stdout, check=True)
    return time.perf_counter() - begin


def piped(command, directory=HERE):
    """The same, into a pipe whose reader does nothing else."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    seconds = timed(command, directory, reader.stdin)
    reader.stdin.close()
    reader.wait()
    return seconds


def peak(command, directory, env=ENV):
    """How long it takes, its peak resident size and, sampled, its own part of it (without the pages of files), in MB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    most = {"VmHWM": 0, "RssAnon": 0}
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as status:
            for name, value in (line.split(":") for line in status):
                if name in most:
                    most[name] = max(most[name], int(value.split()[0]))
        time.sleep(0.05)
    reader.wait()
    return time.perf_counter() - begin, most["VmHWM"] / 1024, most["RssAnon"] / 1024


def medians(count, **commands):
    """The median of each command's time, in seconds."""
    times = {name: [] for name in commands}
    for _ in range(count):
        for name, run in commands.items():
            times[name].append(run())
    return {name: statistics.median(values) for name, values in times.items()}


def project(name, steps, root=HERE, secrets=()):
    """A directory with a pipeline whose steps are written in YAML; the call that runs it."""
    directory = os.path.join(root, name)
    os.makedirs(directory)
    store = ", ".join(f"{key}: /{key}" for key, _ in secrets)
    lines = "".join(f"      - run: {step}\n" for step in steps)
    with open(os.path.join(directory, "pipeline.yml"), "w") as file:
        file.write(f"version: 1\nname: bench\nenv: {{ shell: sh, parameter-store: {{ {store} }} }}\n")
        file.write(f"phases:\n  build:\n    steps:\n{lines}" if steps else "phases: {}\n")
    with open(os.path.join(directory, "env"), "w") as file:
        file.writelines(f"{key}='{value}'\n" for key, value in secrets)
    return [RUNNER, "run", "--local", "--env-file", "env"], directory


def start():
    file = os.path.join(HERE, "start.yml")
    found = medians(40, start=lambda: timed([RUNNER, "--version"]), validate=lambda: timed([RUNNER, "validate", file]))
    lines = sum(1 for _ in open(file))
    print(f"start: {found['start'] * 1000:.1f} ms; validate of {lines} lines: {found['validate'] * 1000:.1f} ms")


def steps():
    count = 300
    shell = ["sh", "-c", f"i=0; while [ $i -lt {count} ]; do sh -c :; i=$((i+1)); done"]
    memory = os.path.join("/dev/shm" if os.access("/dev/shm", os.W_OK) else HERE, f"runner-bench-{os.getpid()}")
    colons = ["':'"] * count
    try:
        none, on_disk, in_memory = project("none", []), project("many", colons), project("many", colons, memory)
        found = medians(
            9,
            shell=lambda: timed(shell),
            none=lambda: timed(*none),
            on_disk=lambda: timed(*on_disk),
            in_memory=lambda: timed(*in_memory),
        )
    finally:
        subprocess.run(["rm", "-rf", memory], check=True)
    each = {name: seconds * 1000 / count for name, seconds in found.items()}
    step, own = each["on_disk"] - each["none"], each["in_memory"] - each["none"]
    print(f"steps: `sh -c :` takes {each['shell']:.2f} ms in a shell, {step:.2f} ms as a step of runner:")
    print(f"  {step - each['shell']:.2f} ms over the shell's own fork and exec, {step - own:.2f} of them for a state on disk;")
    print(f"  a run without steps takes {found['none'] * 1000:.1f} ms")


def output():
    random.seed(1)
    letters = string.ascii_letters + string.digits + "-_/+="
    secrets = [(f"S{n}", "".join(random.choices(letters, k=random.randint(12, 48)))) for n in range(100)]
    words = ["".join(random.choices(string.ascii_lowercase, k=random.randint(2, 10))) for _ in range(2000)]
    lines = [f"2026-11-21T10:{n % 60:02} [INFO] {' '.join(random.choices(words, k=12))}\n" for n in range(100_000)]
    block = "".join(lines).encode()
    log = os.path.join(HERE, "log")
    with open(log, "wb") as file:
        for _ in range((1 << 30) // len(block)):
            file.write(block)
    size = os.path.getsize(log)
    plain, masked = project("plain", ["cat ../log"]), project("masked", ["cat ../log"], secrets=secrets)
    found = medians(5, cat=lambda: piped(["cat", "log"]), plain=lambda: piped(*plain), masked=lambda: piped(*masked))
    print(f"output of {size / 1e9:.2f} GB into a pipe:")
    for name, what in [("cat", "cat"), ("plain", "runner, no secret"), ("masked", "runner, 100 secrets in all forms")]:
        print(f"  {what}: {size / 1e6 / found[name]:.0f} MB/s, {found[name] / found['cat']:.2f} of cat's time")
    large = {
        "a line of 1 GiB": (1 << 30, "head -c 1073741824 /dev/zero"),
        "10 GiB in all": (10 * size, "i=0; while [ $i -lt 10 ]; do cat ../log; i=$((i+1)); done"),
    }
    for name, (count, step) in large.items():
        seconds, most, _ = peak(*project(name.replace(" ", "-"), [step], secrets=secrets))
        print(f"  {name}: {count / 1e6 / seconds:.0f} MB/s, peak memory {most:.0f} MB")
    os.remove(log)
    zeros = base64.b64encode(bytes(12_000)).decode()
    worst = {
        "16,000 times one letter": ("a" * 16_000, "a" * 16_000),
        "its base64": ("a" * 16_000, base64.b64encode(b"a" * 16_000).decode()),
        "its base64 in lines": ("a" * 16_000, base64.encodebytes(b"a" * 16_002).decode()),
        "its bytes in hex": ("a" * 16_000, "61 " * 16_000),
        "a letter less": ("a" * 16_000 + "b", "a" * 16_000),
        "base64 of zeros": (zeros, zeros),
        "base64 of zeros in lines": (zeros, base64.encodebytes(bytes(12_000)).decode()),
    }
    print("  secrets that repeat themselves, in text that repeats them:")
    for name, (secret, text) in worst.items():
        with open(log, "w") as file:
            file.write(text * ((1 << 28) // len(text)))
        size = os.path.getsize(log)
        directory = name.replace(" ", "-")
        command = project(directory, ["cat ../log"], secrets=[("S", secret)])
        found = medians(3, run=lambda: piped(*command))
        print(f"    {name}: {size / 1e6 / found['run']:.0f} MB/s")
        os.remove(log)
    # A few bytes without a newline, on their way from the command to the reader of the log.
    script = 'import time\\nfor _ in range(60): print(end=\\"<%d>\\" % time.monotonic_ns(), flush=True); time.sleep(0.02)'
    command, directory = project("bytes", [f'[python3, -c, "{script}"]'], secrets=secrets)
    process = subprocess.Popen(command, cwd=directory, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    delays, held = [], b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        now = time.monotonic_ns()
        # The mask holds back what may be the beginning of a secret, until the next bytes come.
        *whole, held = (held + chunk).split(b">")
        # The step's title has the script in it.
        times = [text.split(b"<")[1] for text in whole if b"<" in text]
        delays += [(now - int(written)) / 1e6 for written in times if written.isdigit()]
    process.wait()
    print(f"  from a command's write to the log's reader: {statistics.median(delays):.2f} ms, at most {max(delays):.2f} ms")


def docker_with_buildkit():
    """A docker command that builds with BuildKit: newer ones need a plugin for that, which not every machine has."""
    context = os.path.join(HERE, "trivial")
    os.makedirs(context, exist_ok=True)
    with open(os.path.join(context, "Dockerfile"), "w") as file:
        file.write("FROM scratch\nCOPY Dockerfile /\n")
    for directory in [*os.environ["PATH"].split(":"), "/usr/bin"]:
        command = os.path.join(directory, "docker")
        if os.access(command, os.X_OK):
            call = [command, "build", "-q", "-o", "type=tar,dest=/dev/null", context]
            if subprocess.run(call, env=BUILDKIT, capture_output=True).returncode == 0:
                return command
    sys.exit("there is no docker command that builds with BuildKit; Debian's docker.io has one")


def shape_large(context):
    """One file of 1 GB."""
    with open(os.path.join(context, "large"), "wb") as file:
        block = random.Random(1).randbytes(1 << 20)
        file.writelines(block for _ in range(1000))
    return "FROM scratch\nCOPY . /\n"


def shape_small(context):
    """50,000 files of up to 4 kB."""
    numbers = random.Random(2)
    block = numbers.randbytes(4096)
    for directory in range(500):
        path = os.path.join(context, f"d{directory}")
        os.makedirs(path)
        for name in range(100):
            with open(os.path.join(path, f"f{name}"), "wb") as file:
                file.write(block[: numbers.randrange(4096)])
    return "FROM scratch\nCOPY . /\n"


def shape_stages(context):
    """20 stages, each of which is built from the one before and does a little work."""
    lines = ["FROM busybox:1.36 AS s0\nCOPY marker /marker\n"]
    lines += [f"FROM s{at - 1} AS s{at}\nRUN cat /marker >> /log && echo {at} >> /log\n" for at in range(1, 20)]
    return "".join(lines)


def build():
    docker = docker_with_buildkit()
    shapes = [("one file of 1 GB", shape_large, 5), ("50,000 small files", shape_small, 5), ("20 stages", shape_stages, 9)]
    for name, shape, rounds in shapes:
        times, memory, private = ({"docker": [], "runner": []} for _ in range(3))
        root = os.path.join(HERE, "build")
        subprocess.run(["rm", "-rf", root], check=True)
        context = os.path.join(root, "context")
        os.makedirs(context)
        dockerfile = shape(context)
        with open(os.path.join(context, "Dockerfile"), "w") as file:
            file.write(dockerfile)
        for number in range(rounds):
            for tool in ["docker", "runner"] if number % 2 else ["runner", "docker"]:
                # Another place and another content: nothing has been sent before, and nothing is in the cache.
                place = os.path.join(root, f"{tool}-{number}")
                os.rename(context, place)
                context = place
                with open(os.path.join(context, "marker"), "w") as file:
                    file.write(f"{tool} {number} {time.time_ns()}")
                with open(os.path.join(root, "pipeline.yml"), "w") as file:
                    image = f"{{ repository: runner-bench, tags: [t], context: {tool}-{number} }}"
                    file.write(f"version: 1\nname: bench\nimages: {{ app: {image} }}\nphases: {{ build: {{ steps: [{{ build: app }}] }} }}\n")
                call = {
                    "docker": [docker, "build", "-q", "-t", "local.invalid/runner-bench:docker", context],
                    "runner": [RUNNER, "run", "--local"],
                }[tool]
                subprocess.run(["sync"], check=True)
                seconds, most, own = peak(call, root, BUILDKIT)
                times[tool].append(seconds)
                memory[tool].append(most)
                private[tool].append(own)
                # What piles up in the engine would slow the later ones down.
                for tag in ["docker", "t"]:
                    subprocess.run([docker, "rmi", "-f", f"local.invalid/runner-bench:{tag}"], env=BUILDKIT, capture_output=True)
        seconds = {tool: statistics.median(values) for tool, values in times.items()}
        most, own = ({tool: max(values) for tool, values in of.items()} for of in (memory, private))
        print(
            f"build of {name}: runner {seconds['runner']:.2f} s, {most['runner']:.0f} MB; "
            f"docker build {seconds['docker']:.2f} s, {most['docker']:.0f} MB; "
            f"{seconds['runner'] / seconds['docker']:.2f} of the time, {most['runner'] / most['docker']:.2f} of the memory, "
            f"{own['runner'] / own['docker']:.2f} ({own['runner']:.1f} of {own['docker']:.1f} MB) without the pages of the program's own file"
        )
        subprocess.run(["rm", "-rf", root], check=True)
    side_by_side()


def side_by_side():
    """Two images that do not depend on each other, one after the other and together."""
    def call(steps):
        directory = os.path.join(HERE, f"two-{time.time_ns()}")
        os.makedirs(directory)
        for name in "ab":
            work = f"RUN : {time.time_ns()} && i=0 && while [ $i -lt 600000 ]; do i=$((i+1)); done"
            with open(os.path.join(directory, f"{name}.Dockerfile"), "w") as file:
                file.write(f"FROM busybox:1.36\n{work}\nRUN sleep 1\nLABEL of={time.time_ns()}\n")
        images = ", ".join(f"{name}: {{ repository: runner-bench, tags: [{name}], dockerfile: {name}.Dockerfile }}" for name in "ab")
        with open(os.path.join(directory, "pipeline.yml"), "w") as file:
            file.write(f"version: 1\nname: bench\nimages: {{ {images} }}\nphases: {{ build: {{ steps: [{steps}] }} }}\n")
        return timed([RUNNER, "run", "--local"], directory)
    found = medians(3, one_by_one=lambda: call("{ build: a }, { build: b }"), together=lambda: call("{ build: [a, b] }"))
    print(
        f"two images: one after the other {found['one_by_one']:.2f} s, together {found['together']:.2f} s, "
        f"{found['together'] / found['one_by_one']:.2f} of the time"
    )
    for tag in "ab":
        subprocess.run(["docker", "rmi", "-f", f"local.invalid/runner-bench:{tag}"], env=BUILDKIT, capture_output=True)


class Registry:
    """An empty registry on this machine, over plain HTTP."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(dir=HERE)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        config = os.path.join(self.directory, "config.yml")
        with open(config, "w") as file:
            file.write(
                f"version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n"
                f"storage: {{ filesystem: {{ rootdirectory: {self.directory}/data }} }}\nhttp: {{ addr: {self.host} }}\n"
            )
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
                return self
            except OSError:
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        subprocess.run(["rm", "-rf", self.directory], check=True)

    def size(self, repository, tag):
        """How large the layers of an image are, in MB."""
        accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        request = urllib.request.Request(f"http://{self.host}/v2/{repository}/manifests/{tag}", headers={"Accept": accept})
        with urllib.request.urlopen(request) as answer:
            return sum(layer["size"] for layer in json.load(answer)["layers"]) / 1e6


def real_bytes():
    """What programs and libraries of this machine are made of, without end."""
    while True:
        for root in ["/usr/lib", "/usr/bin", "/usr/share"]:
            for directory, below, files in os.walk(root):
                below.sort()
                for name in sorted(files):
                    path = os.path.join(directory, name)
                    if os.path.isfile(path) and not os.path.islink(path):
                        with open(path, "rb") as file:
                            while block := file.read(1 << 20):
                                yield block


def write(path, source, size):
    with open(path, "wb") as file:
        while size > 0:
            block = next(source)[:size]
            file.write(block)
            size -= len(block)


def image(docker, name, layers):
    """An image whose layers have one file each, of these sizes in MB; the last one is another one each time."""
    context = tempfile.mkdtemp(dir=HERE)
    source = real_bytes()
    with open(os.path.join(context, "Dockerfile"), "w") as dockerfile:
        dockerfile.write("FROM scratch\n")
        for number, size in enumerate(layers):
            write(os.path.join(context, str(number)), source, size * 1_000_000)
            dockerfile.write(f"COPY {number} /\n")
        with open(os.path.join(context, str(len(layers) - 1)), "ab") as last:
            last.write(str(time.time_ns()).encode())
    subprocess.run([docker, "build", "-q", "-t", name, context], env=BUILDKIT, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", context], check=True)


def push():
    docker = docker_with_buildkit()
    name = "local.invalid/runner-bench:push"
    tools = {
        "docker save": lambda host: [docker, "save", name],
        "runner": lambda host: [RUNNER, "image", "push", name, f"{host}/runner:t"],
        "runner, from an export": lambda host: ["env", "RUNNER_ENGINE_STORAGE=off", RUNNER, "image", "push", name, f"{host}/runner:t"],
        "runner, zstd": lambda host: [RUNNER, "image", "push", name, f"{host}/runner:t", "--compression", "zstd"],
        "skopeo": lambda host: ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-daemon:{name}", f"docker://{host}/skopeo:t"],
        "docker push": lambda host: [docker, "push", "-q", f"{host}/docker:t"],
    }
    for title, layers in [("1 GB in one layer", [1000]), ("300 MB in 20 layers", [15] * 20)]:
        times, memory, sizes = {tool: [] for tool in tools}, {}, {}
        for _ in range(3):
            image(docker, name, layers)
            for tool, call in tools.items():
                with Registry() as registry:
                    subprocess.run([docker, "tag", name, f"{registry.host}/docker:t"], env=BUILDKIT, check=True)
                    subprocess.run(["sync"], check=True)
                    seconds, most, _ = peak(call(registry.host), HERE, BUILDKIT)
                    times[tool].append(seconds)
                    memory[tool] = max(most, memory.get(tool, 0))
                    if tool != "docker save":
                        sizes[tool] = registry.size(tool.split()[0].strip(","), "t")
                    subprocess.run([docker, "rmi", f"{registry.host}/docker:t"], env=BUILDKIT, capture_output=True)
        seconds = {tool: statistics.median(values) for tool, values in times.items()}
        print(f"push of {title}, cold:")
        for tool in tools:
            size = f", {sizes[tool]:.0f} MB of layers" if tool in sizes else ""
            print(f"  {tool}: {seconds[tool]:.2f} s, {memory[tool]:.0f} MB resident{size}")
        for tool in ["runner", "runner, from an export"]:
            print(
                f"  {tool}: {seconds['docker push'] / seconds[tool]:.1f} times as fast as docker push, {seconds['skopeo'] / seconds[tool]:.1f} times as skopeo, "
                f"{seconds[tool] / seconds['docker save']:.2f} of docker save, {sizes[tool] / sizes['docker push']:.2f} of docker's size"
            )
    changed_layer(docker, name)
    unchanged_source()
    subprocess.run([docker, "rmi", "-f", name], env=BUILDKIT, capture_output=True)


def changed_layer(docker, name):
    """One new layer on 19 that the registry has."""
    with Registry() as registry:
        call = [RUNNER, "image", "push", name, f"{registry.host}/runner:t"]
        times = {"runner": [], "docker save": []}
        image(docker, name, [15] * 20)
        subprocess.run(call, env=BUILDKIT, check=True, capture_output=True)
        for _ in range(3):
            image(docker, name, [15] * 20)
            times["docker save"].append(timed([docker, "save", name]))
            begin = time.perf_counter()
            said = subprocess.run(call, env=BUILDKIT, check=True, capture_output=True, text=True).stderr
            times["runner"].append(time.perf_counter() - begin)
    seconds = {tool: statistics.median(values) for tool, values in times.items()}
    print(f"  one of 20 layers changed: {seconds['runner']:.2f} s, {seconds['runner'] / seconds['docker save']:.2f} of docker save; {said.strip().splitlines()[-1]}")


def unchanged_source():
    """Build, test and push of what is there already, from a directory that has never seen it."""
    with Registry() as registry:
        source = real_bytes()
        directories = [tempfile.mkdtemp(dir=HERE) for _ in range(4)]
        write(os.path.join(directories[0], "large"), source, 500_000_000)
        with open(os.path.join(directories[0], "Dockerfile"), "w") as file:
            file.write("FROM scratch\nCOPY large /\n")
        with open(os.path.join(directories[0], "pipeline.yml"), "w") as file:
            file.write(
                f"version: 1\nname: bench\nimages: {{ app: {{ repository: {registry.host}/same, skip-unchanged: true, tags: [\"${{TAG:-t}}\"] }} }}\n"
                "phases: { build: { steps: [{ build: app }, { push: app }] } }\n"
            )
        for other in directories[1:]:
            subprocess.run(["cp", "-a", f"{directories[0]}/.", other], check=True)
        call = [RUNNER, "run", "--publish"]
        first = timed(call, directories[0])
        again = statistics.median(timed(call, directory) for directory in directories[1:])
        hashing = timed(["sha256sum", os.path.join(directories[1], "large")])
        print(f"  sources of 500 MB, unchanged: {again:.2f} s; the first time {first:.2f} s; sha256sum of them {hashing:.2f} s")
        for directory in directories:
            subprocess.run(["rm", "-rf", directory], check=True)
        subprocess.run(["docker", "rmi", "-f", f"{registry.host}/same:t"], env=BUILDKIT, capture_output=True)


PARTS = {
    "start": start,
    "steps": steps,
    "output": output,
    "build": build,
    "push": push,
    "ecs": lambda: bench_ecs.ecs(RUNNER, HERE, docker_with_buildkit()),
}
for part in sys.argv[3:] or PARTS:
    PARTS[part]()
