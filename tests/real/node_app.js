// A server on Node's own http module: reports the tenant, the credentials and the place that a request reached.
'use strict';

const http = require('node:http');

const values = (raw, name) =>
  raw.filter((_, at) => at % 2 === 1 && raw[at - 1].toLowerCase().replaceAll('_', '-') === name).join(',');

const server = http.createServer((request, response) => {
  // The WHATWG rules: a backslash is a slash, `%2e%2e` is a dot segment.
  let path;
  try {
    path = decodeURI(new URL(request.url, 'http://backend').pathname);
  } catch {
    response.statusCode = 400;
    response.end();
    return;
  }
  const place = (/^\/+(admin|owners)(\/|$)/.exec(path) ?? [])[1] ?? 'other';
  const body = JSON.stringify({
    backend: 'nodejs',
    place,
    tenant: values(request.rawHeaders, 'x-tenant-id'),
    authorization: values(request.rawHeaders, 'authorization'),
    key: values(request.rawHeaders, 'x-api-key'),
    request_id: values(request.rawHeaders, 'x-request-id'),
  });
  response.setHeader('Content-Type', 'application/json');
  response.end(body);
});
server.listen(Number(process.argv[2]), '127.0.0.1');
