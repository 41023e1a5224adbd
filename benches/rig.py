"""What peers, instructions and flat share: keys, a backend, Portcullis, and processes whose CPU time and memory can be read."""

import ctypes
import glob
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY = '{"data":"' + "d" * (1024 - 11) + '"}'
SIZES = {"64k": 64 << 10, "1m": 1 << 20}
DEBIAN = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl", "valgrind": "valgrind", "callgrind_control": "valgrind"}
# The same cipher and key exchange with everybody, whatever each would choose.
CLIENT_TLS = """openssl_conf = a
[a]
ssl_conf = b
[b]
system_default = c
[c]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""


def fail(text):
    raise SystemExit("%s: %s" % (os.path.basename(sys.argv[0]), text))


def find(tool):
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    return path or fail("%s is not there; Debian has it in %s" % (tool, DEBIAN[tool]))


def prepare():
    """Ends cleanly on TERM and INT, and takes the descriptors that it may."""
    def end(*_):
        raise SystemExit(130)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def key_text(chance):
    """A key as the gateway makes them: 30 characters and their CRC-32. Unknown ones are then looked up too, not refused for their checksum."""
    body = "".join(chance.choices(ALPHABET, k=30))
    rest, tail = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        tail = ALPHABET[digit] + tail
    return "fp_live_" + body + tail


class Ground:
    """A folder with keys, certificate and bodies; gone at the end with everything that was started."""

    def __init__(self, keys, tenants, rt=False):
        self.path = tempfile.mkdtemp(prefix="portcullis-bench-")
        os.chmod(self.path, 0o755)  # nginx's workers are another user
        self.processes = []
        self.tenants = tenants
        self.rt = rt and become_real_time()
        cores = sorted(os.sched_getaffinity(0))
        self.gateway_cores = set(cores[:1])
        self.other_cores = set(cores[1:] or cores)
        chance = random.Random(7)
        self.keys = [key_text(chance) for _ in range(keys)]
        self.write("keys", "\n".join(self.keys) + "\n")
        self.strangers = [key_text(chance) for _ in range(1000)]
        self.write("strangers", "\n".join(self.strangers) + "\n")
        self.write("client.cnf", CLIENT_TLS)
        os.mkdir(self.at("body"))
        for name, size in SIZES.items():
            self.write("body/" + name, "d" * size)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
        subprocess.run([find("openssl"), "req", "-x509", *curve, "-keyout", self.at("key.pem"), "-out", self.at("cert.pem")],
                       check=True, stderr=subprocess.DEVNULL)
        os.chmod(self.at("key.pem"), 0o600)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes[::-1]:
            process.stop()
        shutil.rmtree(self.path, ignore_errors=True)

    def at(self, name):
        return os.path.join(self.path, name)

    def write(self, name, text):
        with open(self.at(name), "w") as file:
            file.write(text)
        return self.at(name)

    def tenant(self, index):
        return "tenant-%04d" % (index % self.tenants)

    def start(self, argv, name, cores, port, env=None):
        process = Process(argv, self.at(name + ".log"), cores, self.rt, env)
        self.processes.append(process)
        process.await_port(port)
        return process

    def stop(self, process):
        process.stop()
        self.processes.remove(process)

    def run(self, argv, seconds):
        """A load generator's output. It may last `seconds` and half a minute more."""
        process = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + 30, text=True,
                                 env=self.client_env(), preexec_fn=placed(self.other_cores, self.rt))
        return process.stdout

    def client_env(self):
        return dict(os.environ, OPENSSL_CONF=self.at("client.cnf"))

    def client(self, *words):
        """One of clients.py, running; its answer is a line of JSON."""
        return subprocess.Popen([sys.executable, os.path.join(HERE, "clients.py"), *map(str, words)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True, env=self.client_env(), preexec_fn=placed(self.other_cores, self.rt))

    def wrk(self, gateway, backend, seconds, connections, path="/x", keys="keys", order="0", step=64, settle=0.5):
        """wrk over TLS with a key of the file in each request. CPU time and requests count from when all connections have long been made. Logs are
        emptied before: written on and on they would fill memory that this machine has yet to get from its host, for whichever gateway comes upon it."""
        for log in glob.glob(self.at("*/access.log")):
            os.truncate(log, 0)
        counter = self.write("count", "0")
        argv = [find("wrk"), "-t1", "-c%d" % connections, "-d%ds" % (seconds + 120), "--timeout", "10s", "-s", os.path.join(HERE, "keys.lua"),
                "https://127.0.0.1:%d" % gateway.port, "--", path, self.at(keys), order, counter, str(step)]
        load = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.client_env(),
                                preexec_fn=placed(self.other_cores, self.rt))

        def count():
            with open(counter) as file:
                return int(file.read() or 0)
        end = time.monotonic() + 90
        while (gateway.process.descriptors() < connections or count() < step) and load.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(settle)
        start = count()
        figures = window(gateway.process, backend, lambda: time.sleep(seconds) or {"requests": count() - start}, load)
        load.send_signal(signal.SIGINT)
        try:
            output = load.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            load.kill()
            fail("wrk did not end")
        for line in output.splitlines():
            if line.startswith("JSON "):
                figures.update(json.loads(line[5:]))
                return figures
        fail("wrk: " + output[-1000:])

    def backend(self):
        """nginx with 1 KiB under every path but /64k, /1m and /status."""
        port = free_port()
        folder = self.path
        config = self.write("backend.conf", """
worker_processes 1; daemon off; pid %(folder)s/backend.pid; error_log %(folder)s/backend.err;
events { worker_connections 19000; }
http {
  access_log off; default_type application/json; sendfile on; tcp_nodelay on; open_file_cache max=8;
  keepalive_requests 1000000000; keepalive_timeout 1h; %(scratch)s
  server { listen 127.0.0.1:%(port)d backlog=8192; root %(folder)s/body;
    location = /64k { } location = /1m { } location = /status { stub_status; }
    location / { return 200 '%(body)s'; } }
}
""" % {"folder": folder, "port": port, "scratch": nginx_scratch(folder + "/backend"), "body": BODY})
        process = self.start([find("nginx"), "-e", self.at("backend.err"), "-c", config], "backend", self.other_cores, port)
        process.port = port
        return process

    def portcullis(self, program, name, port, backend, hour=10**9, minute=10**9, connections=9000, keys=None, quiet=False):
        """The command that runs Portcullis with everything on that is on by default, the keys imported."""
        home = self.at("portcullis-" + name)
        if not os.path.isdir(home):
            os.mkdir(home)
            tenants = "".join('[[tenants]]\nid = "%s"\nplan = "all"\n' % self.tenant(i) for i in range(self.tenants))
            with open(home + "/tenants", "w") as file:
                file.write(tenants)
        with open(home + "/tenants") as file:
            tenants = file.read()
        config = home + "/gateway.toml"
        with open(config, "w") as file:
            file.write(PORTCULLIS % {"port": port, "backend": backend, "hour": hour, "minute": minute, "folder": self.path,
                                     "connections": connections, "flush": "1min" if quiet else "1s"} + tenants)
        if not os.path.isdir(home + "/state"):
            table = home + "/keys.csv"
            with open(table, "w") as file:
                file.write("tenant,name,value,scopes\n")
                file.writelines("%s,%d,%s,inherit\n" % (self.tenant(i), i, key) for i, key in enumerate(keys or self.keys))
            done = subprocess.run([program, "keys", "import", table, "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1800)
            os.unlink(table)
            if done.returncode:
                fail("%s keys import: %s" % (program, done.stderr[-2000:]))
        return [program, "run", "--config", config]


PORTCULLIS = """
[listen]
https = ["127.0.0.1:%(port)d"]
http = []
admin = ""

[server]
workers = 1

[connections]
total_max = %(connections)d
per_address_max = %(connections)d
idle_timeout = "10min"

[tls]
certificate = "%(folder)s/cert.pem"
private_key = "%(folder)s/key.pem"

[store]
flush_interval = "%(flush)s"

# On, but out of the way of a million refusals.
[auth]
failures = "1000000000/min"

[log]
access = "file:access.log"

[plans.all]
quota = "%(hour)d/hour"
burst = "%(minute)d/min"
scopes = ["*"]

[upstreams.backend]
servers = ["http://127.0.0.1:%(backend)d"]
isolation = "header"
pool_idle_max = 10000
pool_idle_timeout = "10min"

[[routes]]
path = "/{*rest}"
access = "any-key"
upstream = "backend"

"""


def nginx_scratch(prefix):
    return " ".join("%s_temp_path %s-%s;" % (kind, prefix, kind) for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def become_real_time():
    """This script before its load, its load and the gateways before all others."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(11))
        return True
    except OSError:
        print("no real-time scheduling allowed here: --rt is left out", file=sys.stderr)
        return False


def placed(cores, rt):
    def place():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives a script that was killed
        os.sched_setaffinity(0, cores)
        if rt:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    return place


class Process:
    """A program in a session of its own, so that all its processes can be found."""

    def __init__(self, argv, log, cores, rt, env=None):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                                          env=dict(os.environ, **(env or {})), preexec_fn=placed(cores, rt))

    def await_port(self, port, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        with open(self.log, errors="replace") as log:
            fail("%s did not start:\n%s" % (self.child.args[0], log.read()[-2000:]))

    def pids(self):
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open("/proc/%s/stat" % name) as file:
                        state, _, _, session = file.read().rpartition(")")[2].split()[:4]
                    if int(session) == self.child.pid and state != "Z":
                        found.append(int(name))
                except OSError:
                    pass
        return found

    def cpu(self):
        """Seconds of CPU time of the whole tree: each process's clock, which counts in nanoseconds and threads that ended too."""
        return sum(process_clock(pid) for pid in self.pids())

    def descriptors(self):
        return sum(len(os.listdir("/proc/%d/fd" % pid)) for pid in self.pids())

    def memory(self):
        """Bytes: the proportional set size of the whole tree."""
        total = 0
        for pid in self.pids():
            with open("/proc/%d/smaps_rollup" % pid) as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        return total

    def stop(self):
        for word, patience in ((signal.SIGTERM, 2), (signal.SIGKILL, 5)):
            for pid in self.pids():
                try:
                    os.kill(pid, word)
                except ProcessLookupError:
                    pass
            end = time.monotonic() + patience
            while self.pids() and time.monotonic() < end:
                self.child.poll()
                time.sleep(0.02)
        self.child.wait(5)


def process_clock(pid):
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0


def machine_cpu():
    """Seconds that the machine's processors were busy."""
    with open("/proc/stat") as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def own_cpu(load):
    """Seconds of this script and its load: one that still runs, or all that have ended."""
    own = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
    return own + (process_clock(load.pid) if load else sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]))


def window(gateway, backend, action, load=None):
    """What `action` gives, with `cpu`, seconds of the gateway's, and `noise`, what others used, in per cent of one core."""
    def clocks():
        return gateway.cpu(), time.monotonic(), backend.cpu(), own_cpu(load), machine_cpu()
    before = clocks()
    figures = action()
    cpu, wall, behind, own, busy = (b - a for a, b in zip(before, clocks()))
    figures.update(cpu=cpu, wall=wall, noise=max(0, 100 * (busy - cpu - behind - own) / wall))
    return figures


def answer(client, seconds):
    """The line of JSON that a client of ours ends with."""
    try:
        return json.loads(client.communicate(timeout=seconds + 30)[0].splitlines()[-1])
    except (IndexError, subprocess.TimeoutExpired):
        client.kill()
        fail("%s gave no answer" % " ".join(client.args[1:3]))
