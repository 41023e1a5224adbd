"""Clients that no tool has: full handshakes, idle connections, an open loop, and keys in turn. Each prints one line of JSON."""

import json
import math
import random
import select
import socket
import ssl
import sys
import time


def context(*protocols):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(list(protocols) or ["http/1.1"])
    return made


def connect(port, tls):
    plain = socket.create_connection(("127.0.0.1", port), 60)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(plain, server_hostname="localhost")


def read_keys(path):
    with open(path) as file:
        return file.read().split()


def request(key, more=""):
    return ("GET /x HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\n%s\r\n" % (key, more)).encode()


def missing(answer):
    """How many bytes of this answer are still to come; a positive number while its head is not whole."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return 1
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value) - len(body)
    raise ValueError("an answer without a length: %r" % head)


def exchange(stream, text):
    stream.sendall(text)
    answer = b""
    while missing(answer) > 0:
        piece = stream.recv(65536)
        if not piece:
            raise OSError("closed early")
        answer += piece
    return int(answer[9:12])


def handshakes(port, keys, seconds):
    """One after the other: a full handshake, one request, the end."""
    tls, keys = context(), read_keys(keys)
    done = broken = resumed = 0
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            with connect(int(port), tls) as stream:
                resumed += stream.session_reused
                good = exchange(stream, request(keys[done % len(keys)], "Connection: close\r\n")) == 200
            done += good
            broken += not good
        except OSError:
            broken += 1
            if broken > 100:
                break
    return {"requests": done, "broken": broken, "resumed": resumed}


def idle(port, keys, count):
    """Connections that have done one request each, kept until standard input ends."""
    tls, keys, kept, broken = context(), read_keys(keys), [], 0
    for index in range(int(count)):
        try:
            stream = connect(int(port), tls)
            broken += exchange(stream, request(keys[index % len(keys)])) != 200
            kept.append(stream)
        except OSError:
            broken += 1
            if broken > 100:
                break
    print(json.dumps({"open": len(kept), "broken": broken}), flush=True)
    sys.stdin.read()
    return {"open": len(kept)}


def open_loop(port, keys, rate, seconds, connections):
    """Requests at random instants, whatever became of those before; times count from the instant at which each was due."""
    tls, keys, chance = context(), read_keys(keys), random.Random(11)
    port, rate, seconds = int(port), float(rate), float(seconds)
    streams = {}
    for _ in range(int(connections)):
        stream = connect(port, tls)
        exchange(stream, request(keys[0]))
        stream.setblocking(False)
        streams[stream.fileno()] = stream
    free, waiting, busy, times, broken, sent = list(streams), [], {}, [], 0, 0
    start = time.perf_counter()
    due, end, last = start, start + seconds, start + seconds + 10
    while (due < end or busy or waiting) and streams:
        now = time.perf_counter()
        if now > last:
            broken += len(busy) + len(waiting)
            break
        while due <= now and due < end:
            waiting.append(due)
            due += chance.expovariate(rate)
        while waiting and free:
            place = free.pop()
            streams[place].send(request(keys[sent % len(keys)]))
            busy[place] = (waiting.pop(0), b"")
            sent += 1
        pause = max(0, due - time.perf_counter()) if due < end else 0.1
        # Not epoll: its timeouts are whole milliseconds.
        for place in select.select(busy, [], [], pause)[0]:
            since, answer = busy[place]
            try:
                answer += streams[place].recv(65536)
            except ssl.SSLWantReadError:
                continue
            if answer and missing(answer) > 0:
                busy[place] = (since, answer)
                continue
            del busy[place]
            if answer.startswith(b"HTTP/1.1 200"):
                times.append(time.perf_counter() - since)
                free.append(place)
            else:
                broken += 1
                streams.pop(place).close()
    times.sort()

    def share(part):
        return round(1e6 * times[min(len(times), math.ceil(part * len(times))) - 1], 1) if times else None
    return {"requests": len(times), "broken": broken, "p50": share(0.5), "p99": share(0.99), "p99.9": share(0.999)}


def turn(port, keys, connections, status):
    """Keys in turn over kept connections, one request at a time: as many as each line of standard input says."""
    tls, keys, done = context(), read_keys(keys), 0
    streams = [connect(int(port), tls) for _ in range(int(connections))]
    for line in sys.stdin:
        for _ in range(int(line)):
            seen = exchange(streams[done % len(streams)], request(keys[done % len(keys)]))
            if seen != int(status):
                raise SystemExit("status %d" % seen)
            done += 1
        print(done, flush=True)
    return {"requests": done}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
