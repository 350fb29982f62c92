/** Decodes a percent-encoded part of an address. A part that is not validly encoded stays as it is. */
export function decodeUriPart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
