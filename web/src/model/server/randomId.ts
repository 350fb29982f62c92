// Names that nobody else has.

/** A random id. `crypto.randomUUID` is missing where the page came over plain http, as in a home network. */
export function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
