// An OpenID Provider (npm: oidc-provider) with one client, for the tests. Arguments: the directory of node_modules, a port, which key signs, the audience.
import { pathToFileURL } from 'node:url';
import { readFileSync } from 'node:fs';

const [modules, port, keyFile, audience] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/node_modules/oidc-provider/lib/index.js`));
const jwk = JSON.parse(readFileSync(keyFile, 'utf8'));

const provider = new Provider('https://auth.example.org', {
  clients: [
    // The tokens of `app` are JWTs, those of `app-opaque` only the provider can read.
    ...['app', 'app-opaque'].map((client_id) => ({
      client_id,
      client_secret: 'app-secret',
      redirect_uris: ['https://app.example.org/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
    })),
    { client_id: 'gateway', client_secret: 'gateway-secret', redirect_uris: [], response_types: [], grant_types: [] },
  ],
  jwks: { keys: [jwk] },
  cookies: { keys: ['test'] },
  pkce: { required: () => true },
  ttl: { AccessToken: 3600, RefreshToken: 30 * 24 * 3600, AuthorizationCode: 60, Session: 3600, Grant: 3600, Interaction: 3600 },
  rotateRefreshToken: true,
  issueRefreshToken: async () => true,
  findAccount: async (_ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  extraTokenClaims: async () => ({ tenant: 'acme' }),
  features: {
    devInteractions: { enabled: true },
    introspection: { enabled: true, allowedPolicy: async () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: async () => audience,
      useGrantedResource: async () => true,
      getResourceServerInfo: async (_ctx, _indicator, client) => ({
        scope: 'read:leads write:leads',
        audience,
        accessTokenFormat: client.clientId === 'app-opaque' ? 'opaque' : 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
provider.proxy = true;
provider.listen(Number(port), '127.0.0.1');
