// An authorization server for the tests: oidc-provider, with one client, which plays MX.
//
//     node issuer.mjs PORT KID AUDIENCE CLIENT_ID CLIENT_SECRET LIFETIME [ALGORITHM]
//
// Each start has a new key, which is published under KID.

import { generateKeyPair } from 'node:crypto';
import { promisify } from 'node:util';
import { Provider } from 'oidc-provider';

const [port, kid, audience, client_id, client_secret, lifetime, alg = 'RS256'] = process.argv.slice(2);
const generate = promisify(generateKeyPair);
const key = async (kid, alg) => {
  const { privateKey } = await ({
    RS256: () => generate('rsa', { modulusLength: 2048 }),
    PS256: () => generate('rsa', { modulusLength: 2048 }),
    ES256: () => generate('ec', { namedCurve: 'P-256' }),
    EdDSA: () => generate('ed25519'),
  })[alg]();
  return { ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' };
};

const keys = [await key(kid, alg)];
// ID tokens are not fetched here, but their default algorithm needs a key too.
if (alg !== 'RS256') keys.push(await key('of-id-tokens', 'RS256'));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id,
    client_secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  jwks: { keys },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      getResourceServerInfo: () => ({
        scope: '',
        audience,
        accessTokenFormat: 'jwt',
        accessTokenTTL: Number(lifetime),
        jwt: { sign: { alg } },
      }),
    },
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${port}`));
