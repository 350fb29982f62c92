// Converts the Markdown of messages to HTML. HTML in the text stays text.

import { Marked, type Token, type TokenizerAndRendererExtension } from "marked";
import { userLink } from "./links.ts";

export interface Mention {
  /** The label in the text. */
  label: string;
  /** A user id, or "@room". */
  id: string;
}

export interface FormattedMessage {
  body: string;
  /** Null if it would say no more than the body. */
  html: string | null;
  /** Everyone that the text mentions. */
  mentions: { user_ids: string[]; room: boolean };
}

export function formatMarkdown(text: string, known: Mention[] = []): FormattedMessage {
  const body = text.trim();
  const mentioned = new Set<string>();
  const marked = new Marked({
    gfm: true,
    breaks: true,
    extensions: [mentionExtension(known, mentioned)],
    tokenizer: { html: () => undefined, tag: () => undefined },
    renderer: { image: ({ href, text }) => `<a href="${escapeHtml(href)}">${escapeHtml(text || href)}</a>` },
  });
  const tokens = marked.lexer(body);
  const html = marked.parser(tokens).trim();
  return {
    body,
    html: mentioned.size === 0 && tokens.every(isPlain) ? null : withoutOnlyParagraph(html),
    mentions: {
      user_ids: [...mentioned].filter((id) => id !== "@room"),
      room: mentioned.has("@room"),
    },
  };
}

function mentionExtension(known: Mention[], mentioned: Set<string>): TokenizerAndRendererExtension {
  // The longest label first: "@Ann Lee" is not "@Ann".
  const longest = known.filter(({ label }) => label !== "").sort((a, b) => b.label.length - a.label.length);
  return {
    name: "mention",
    level: "inline",
    start: (source) => {
      const starts = longest.map(({ label }) => source.indexOf(label)).filter((at) => at !== -1);
      return starts.length === 0 ? undefined : Math.min(...starts);
    },
    tokenizer: (source) => {
      const mention = longest.find(({ label }) => source.startsWith(label));
      return mention === undefined ? undefined : { type: "mention", raw: mention.label, mention };
    },
    renderer: (token) => {
      const { label, id } = token["mention"] as Mention;
      mentioned.add(id);
      return id === "@room" ? "@room" : `<a href="${escapeHtml(userLink(id))}">${escapeHtml(label.replace(/^@/, ""))}</a>`;
    },
  };
}

/** Whether a token looks the same as its source text. */
function isPlain(token: Token): boolean {
  switch (token.type) {
    case "paragraph":
      return (token.tokens ?? []).every(isPlain);
    case "space":
    case "br":
      return true;
    case "text":
      return token.tokens === undefined || token.tokens.every(isPlain);
    case "link":
      return token.raw === token.text;
    default:
      return false;
  }
}

/** Removes the tags around a single paragraph. */
function withoutOnlyParagraph(html: string): string {
  const inner = /^<p>([\s\S]*)<\/p>$/.exec(html)?.[1];
  return inner === undefined || inner.includes("<p>") ? html : inner;
}

export function escapeHtml(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}
