"""A multi-tenant WSGI application over SQLite that leaks on purpose: what it believes of its caller is chosen at its start.

    leaky_app.py PORT MODE [TENANT...]

MODE  forgets   every query lacks its WHERE clause: all rows of all tenants to everybody
      header    filters by X-Tenant-ID, as a good backend does
      path      filters by the organisation in the path, the query or the host, and never looks at the header
TENANT         the tenants whose rows it holds, `acme` and `bravo` if none is named

    GET /leases  /leases/ID                       the collection and its members (`/t/TENANT` may stand before, in mode path)
    POST /leases {"title":..., "tenant_id":...}   believes the tenant_id of the body, else the header; asks nobody whose the estate_id is
    GET /estates/ID  /orgs/ORG/estates/ID         an estate, `of-TENANT`; no other method there, HEAD included
    GET /orgs/ORG/leases  /orgs/ORG/leases/ID     an organisation's; an unknown one is a 404 that names it
    GET /lessees/LESSEE/leases                    a renter's; an unknown one is a 404
    GET /search?org=ORG                           an organisation's; of two it takes the last, as many frameworks do
    GET /moved                                    redirects to /leases with the host and path that it knows itself
    GET /shared                                   like /leases, and says Cache-Control: public
    GET /dated                                    like /leases, and says Cache-Control: max-age=60
Every answer counts up X-Hits. Rows carry tenant_id, which nobody outside is meant to see.
"""

import json
import re
import socketserver
import sqlite3
import sys
import threading
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

PORT, MODE = int(sys.argv[1]), sys.argv[2]
TENANTS = sys.argv[3:] or ["acme", "bravo"]

lock = threading.Lock()
hits = 0
database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE TABLE lease (id INTEGER PRIMARY KEY, tenant_id TEXT, lessee_id TEXT, title TEXT)")
for number, tenant in enumerate(TENANTS):
    for lease in range(1, 4):
        row = (100 * (number + 1) + lease, tenant, str(6 + lease), f"{tenant} lease {lease}")
        database.execute("INSERT INTO lease VALUES (?, ?, ?, ?)", row)
database.execute("CREATE TABLE estate (id TEXT, tenant_id TEXT)")
database.executemany("INSERT INTO estate VALUES (?, ?)", [(f"of-{tenant}", tenant) for tenant in TENANTS])


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass

    def address_string(self):
        return self.client_address[0]


def rows(clause="1", *values):
    found = database.execute(f"SELECT id, tenant_id, lessee_id, title FROM lease WHERE {clause} ORDER BY id", values)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row)) for row in found]


def mine(environ, tenant):
    """The clause that a good backend never forgets."""
    if MODE == "header":
        return "tenant_id = ?", [environ.get("HTTP_X_TENANT_ID", "")]
    if MODE == "path" and tenant is not None:
        return "tenant_id = ?", [tenant]
    return "1", []


def leases(environ, tenant, number):
    clause, values = mine(environ, tenant)
    if number is None:
        return 200, rows(clause, *values)
    found = rows(f"{clause} AND id = ?", *values, int(number)) if number.isdigit() else []
    return (200, found[0]) if found else (404, {"error": "no such lease"})


def organisation(name):
    return rows("tenant_id = ?", name) or None


def estate(environ, org, wanted):
    if environ["REQUEST_METHOD"] != "GET":
        return 405, {"error": "GET alone"}
    clause, values = mine(environ, org)
    found = database.execute(f"SELECT id, tenant_id FROM estate WHERE {clause} AND id = ?", [*values, wanted]).fetchone()
    return (200, {"id": found[0], "tenant_id": found[1]}) if found else (404, {"error": "no such estate"})


def create(environ):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        wanted = json.loads(body or b"{}")
        tenant = wanted.get("tenant_id", environ.get("HTTP_X_TENANT_ID", ""))
        values = (tenant, wanted.get("lessee_id", ""), wanted.get("title", ""))
    except (ValueError, AttributeError):
        return 400, {"error": "not JSON"}
    made = database.execute("INSERT INTO lease (tenant_id, lessee_id, title) VALUES (?, ?, ?)", values)
    return 201, rows("id = ?", made.lastrowid)[0]


def answer(environ):
    path, tenant = environ["PATH_INFO"], None
    prefix = re.fullmatch(r"/t/([^/]+)(/.*)", path)
    if prefix:
        tenant, path = prefix.groups()
        if tenant not in TENANTS:
            return 404, {"error": "no such tenant"}
    label = environ.get("HTTP_HOST", "").split(".")[0]
    if tenant is None and label in TENANTS:
        tenant = label
    if found := re.fullmatch(r"/(?:leases|shared|dated)(?:/([^/]+))?", path):
        if environ["REQUEST_METHOD"] == "POST":
            return create(environ)
        return leases(environ, tenant, found[1])
    if found := re.fullmatch(r"/orgs/([^/]+)/leases(?:/([^/]+))?", path):
        if organisation(found[1]) is None:
            return 404, {"error": f"no organisation {found[1]}"}
        if found[2] is None:
            return 200, organisation(found[1])
        one = rows("tenant_id = ? AND id = ?", found[1], found[2])
        return (200, one[0]) if one else (404, {"error": "no such lease"})
    if found := re.fullmatch(r"(?:/orgs/([^/]+))?/estates/([^/]+)", path):
        return estate(environ, found[1] or tenant, found[2])
    if found := re.fullmatch(r"/lessees/([^/]+)/leases", path):
        one = rows("lessee_id = ?", found[1])
        return (200, one) if one else (404, {"error": "no such lessee"})
    if path == "/search":
        org = dict(parse_qsl(environ.get("QUERY_STRING", ""))).get("org")
        if org is None:
            return 200, rows()
        return (200, organisation(org)) if organisation(org) else (404, {"error": "no such organisation"})
    return 404, {"error": "nothing here"}


def application(environ, start_response):
    global hits
    with lock:
        hits += 1
        status, body = answer(environ)
        count = hits
    # An application that leaves its request unread has its server reset the connection.
    if environ["REQUEST_METHOD"] != "POST":
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    text = json.dumps(body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(text))), ("X-Hits", str(count))]
    path = environ["PATH_INFO"]
    if path.endswith("/moved"):
        status, base = 302, path[: -len("moved")]
        headers.append(("Location", f"http://{environ['HTTP_HOST']}{base}leases?moved=1"))
    if path.endswith("/shared"):
        headers.append(("Cache-Control", "public, max-age=60"))
    if path.endswith("/dated"):
        headers.append(("Cache-Control", "max-age=60"))
    reasons = {200: "OK", 201: "Created", 302: "Found", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
    start_response(f"{status} {reasons[status]}", headers)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text]


make_server("127.0.0.1", PORT, application, Server, Quiet).serve_forever()
