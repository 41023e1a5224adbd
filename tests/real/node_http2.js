// A server on Node's own http2 module, in clear: reports the tenant, the credentials and the length of what it got; with a trailer.
'use strict';

const http2 = require('node:http2');

const server = http2.createServer();
server.on('stream', (stream, headers) => {
  let length = 0;
  stream.on('error', () => {});
  stream.on('data', (piece) => {
    length += piece.length;
  });
  stream.on('end', () => {
    const body = JSON.stringify({
      backend: 'nodejs',
      path: headers[':path'],
      tenant: headers['x-tenant-id'] ?? '',
      authorization: headers.authorization ?? '',
      key: headers['x-api-key'] ?? '',
      length,
    });
    stream.respond({ ':status': 200, 'content-type': 'application/json' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-length': String(length) }));
    stream.end(headers[':method'] === 'HEAD' ? undefined : body);
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
