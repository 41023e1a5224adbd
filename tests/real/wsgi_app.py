"""A WSGI application on Python's own server: reports the tenant, the credentials and the place that a request reached.

WSGI turns header names into variables, so X_Tenant_Id and X-Tenant-Id both become HTTP_X_TENANT_ID.
"""

import json
import posixpath
import socketserver
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


def application(environ, start_response):
    # An application that leaves its request unread has its server reset the connection, and the answer may go down with it.
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    path = posixpath.normpath(environ["PATH_INFO"].replace("\\", "/").replace("//", "/"))
    first = path.split("/")[1]
    place = first if first in ("admin", "owners") else "other"
    answer = {
        "backend": "python3",
        "place": place,
        "tenant": environ.get("HTTP_X_TENANT_ID", ""),
        "authorization": environ.get("HTTP_AUTHORIZATION", ""),
        "key": environ.get("HTTP_X_API_KEY", ""),
        "request_id": environ.get("HTTP_X_REQUEST_ID", ""),
    }
    body = json.dumps(answer).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


make_server("127.0.0.1", int(sys.argv[1]), application, Server, Quiet).serve_forever()
