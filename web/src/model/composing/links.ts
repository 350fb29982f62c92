// Links in the text of messages.

import { decodeUriPart } from "../server/decodeUriPart.ts";

export interface TextPiece {
  text: string;
  /** The link's address; undefined for plain text. */
  href?: string;
}

const ALLOWED_SCHEMES = new Set(["http:", "https:", "mailto:", "matrix:"]);
const ADDRESS_PATTERN = /\b(?:https?:\/\/|www\.|mailto:|matrix:)[^\s<>"“”]+/giu;
/** Punctuation at the end of a sentence does not belong to the address before it. */
const TRAILING_PUNCTUATION = /[.,;:!?'*_~]+$/u;

/** Splits plain text into links and the text between them. */
export function splitAtLinks(plain: string): TextPiece[] {
  const found: TextPiece[] = [];
  let end = 0;
  for (const match of plain.matchAll(ADDRESS_PATTERN)) {
    const shown = trimAddress(match[0]);
    const href = safeHref(/^www\./i.test(shown) ? `https://${shown}` : shown);
    if (href === undefined) continue;
    if (match.index > end) found.push({ text: plain.slice(end, match.index) });
    found.push({ text: shown, href });
    end = match.index + shown.length;
  }
  if (end < plain.length) found.push({ text: plain.slice(end) });
  return found;
}

/** Returns the address if its scheme is allowed. */
export function safeHref(href: string): string | undefined {
  try {
    const url = new URL(href);
    return ALLOWED_SCHEMES.has(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

export interface MatrixLinkTarget {
  kind: "user" | "room";
  id: string;
  event?: string;
}

/** Returns the user or room that a matrix.to link or a matrix: address points to. */
export function matrixLinkTarget(href: string): MatrixLinkTarget | undefined {
  const [, first = "", second = ""] = /^https:\/\/matrix\.to\/#\/([^/?]+)(?:\/([^?]+))?/.exec(href) ?? [];
  const id = decodeUriPart(first);
  if (id.startsWith("@")) return { kind: "user", id };
  if (id.startsWith("!") || id.startsWith("#")) return { kind: "room", id, ...(second === "" ? {} : { event: decodeUriPart(second) }) };
  const [, kind, path = ""] = /^matrix:(u|roomid|r)\/([^/?]+)/.exec(href) ?? [];
  if (kind === "u") return { kind: "user", id: `@${decodeUriPart(path)}` };
  if (kind !== undefined) return { kind: "room", id: `${kind === "r" ? "#" : "!"}${decodeUriPart(path)}` };
  return undefined;
}

export function userLink(userId: string): string {
  return `https://matrix.to/#/${encodeURIComponent(userId)}`;
}

function trimAddress(address: string): string {
  let shown = address.replace(TRAILING_PUNCTUATION, "");
  // A closing bracket belongs to the address only if it was opened in the address.
  while (/[)\]}]$/.test(shown) && count(shown, /[([{]/g) < count(shown, /[)\]}]/g)) shown = shown.slice(0, -1).replace(TRAILING_PUNCTUATION, "");
  return shown;
}

function count(text: string, what: RegExp): number {
  return text.match(what)?.length ?? 0;
}
