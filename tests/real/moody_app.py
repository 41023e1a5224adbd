"""A backend in moods: GET /mood/NAME sets one, every other request gets it.

well: 200 and its port. 503: that status. hang: no answer, until the client leaves. reset: the connection is reset."""

import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

mood = "well"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global mood
        if self.path.startswith("/mood/"):
            mood = self.path.removeprefix("/mood/")
            return self.say(200)
        if mood == "hang":
            self.connection.recv(1)
            self.close_connection = True
        elif mood == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
        else:
            self.say(200 if mood == "well" else int(mood))

    def say(self, status):
        body = f"{self.server.server_port}".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
