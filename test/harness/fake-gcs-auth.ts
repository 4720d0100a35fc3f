import { type KeyObject, verify } from 'node:crypto';

/** Bearer tokens from a list, or tokens that the service account signed for itself (RS256, scope, not expired). */
export function authorized(
  header: string | undefined,
  options: {
    readonly tokens?: Set<string>;
    readonly serviceAccount?: { readonly email: string; readonly publicKey: KeyObject };
  },
): boolean {
  const { tokens, serviceAccount } = options;
  if (tokens === undefined && serviceAccount === undefined) return true;
  const token = /^Bearer (\S+)$/.exec(header ?? '')?.[1];
  if (token === undefined) return false;
  if (tokens?.has(token)) return true;
  const [head = '', claims = '', signature = ''] = token.split('.');
  if (serviceAccount === undefined || signature === '') return false;
  const { alg } = JSON.parse(Buffer.from(head, 'base64url').toString());
  const { iss, sub, exp, iat, scope } = JSON.parse(Buffer.from(claims, 'base64url').toString());
  const now = Date.now() / 1000;
  return (
    alg === 'RS256' &&
    iss === serviceAccount.email &&
    sub === serviceAccount.email &&
    exp > now &&
    exp - iat <= 3600 &&
    /auth\/(cloud-platform|devstorage\.full_control)/.test(scope) &&
    verify(
      'RSA-SHA256',
      Buffer.from(`${head}.${claims}`),
      serviceAccount.publicKey,
      Buffer.from(signature, 'base64url'),
    )
  );
}
