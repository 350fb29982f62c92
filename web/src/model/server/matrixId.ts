// The parts of Matrix ids.

/** Returns the name in a user id: `alice` for `@alice:example.org`. */
export function localpart(userId: string): string {
  return userId.replace(/^@/, "").replace(/:.*$/s, "");
}

/** Returns the server name of an id. */
export function serverNameOf(id: string): string {
  return id.slice(id.indexOf(":") + 1);
}
