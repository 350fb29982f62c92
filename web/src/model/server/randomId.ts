/** Returns a random id. `crypto.randomUUID` is missing if the page was loaded over plain http, as in a home network. */
export function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
