"""A receiver of webhooks on Python's own server: checks the signature, and fails, redirects and delays as it is told.

webhook_receiver.py PORT SECRET MODES LOG [CERTIFICATE KEY]: over HTTPS with a certificate; one word for each request, the last for all that follow: ok, fail, redirect, slow, hang, gone."""

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import sys
import threading
import time

PORT, SECRET, MODES, LOG = int(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), sys.argv[4]
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
LOCK = threading.Lock()
SEEN = 0


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.note(b"", "followed")

    def do_POST(self):
        global SEEN
        body = self.rfile.read(int(self.headers["content-length"]))
        with LOCK:
            mode = MODES[min(SEEN, len(MODES) - 1)]
            SEEN += 1
        self.note(body, mode)
        if mode == "slow":
            time.sleep(1)
        if mode == "hang":
            time.sleep(60)
        status = {"fail": 500, "redirect": 302, "gone": 410}.get(mode, 204)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{PORT}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def note(self, body, mode):
        name, at = self.headers.get("webhook-id", ""), self.headers.get("webhook-timestamp", "")
        signed = hmac.new(KEY, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()
        right = "v1," + base64.b64encode(signed).decode()
        line = {
            "id": name,
            "timestamp": at,
            "valid": right in self.headers.get("webhook-signature", "").split(" "),
            "path": self.path,
            "mode": mode,
            "body": json.loads(body or b"null"),
        }
        with LOCK, open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer.daemon_threads = True
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
if len(sys.argv) > 5:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[5], sys.argv[6])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
