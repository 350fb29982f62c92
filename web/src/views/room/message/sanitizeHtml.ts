// Sanitises the HTML of messages. HTML gets into the page only through here.

import DOMPurify, { type DOMPurify as Purifier } from "dompurify";
import { matrixLinkTarget, safeHref } from "../../../model/composing/links.ts";
import { routeHref } from "../../../model/route.ts";

/** The tags that the specification allows, except for images and fonts. */
const ALLOWED_TAGS =
  "del h1 h2 h3 h4 h5 h6 blockquote p a ul ol sup sub li b i u strong em s strike code hr br div table thead tbody tr th td caption pre span details summary".split(
    " ",
  );
const SANITIZER_CONFIG = {
  ALLOWED_TAGS: ALLOWED_TAGS,
  ALLOWED_ATTR: ["href", "start", "class", "data-mx-spoiler"],
  // The values of these attributes are not addresses.
  ADD_URI_SAFE_ATTR: ["start", "data-mx-spoiler"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto|matrix):/i,
};

/** Sanitises HTML before it is sent. */
export function sanitizeForSending(html: string): string {
  return outgoingPurifier().sanitize(html, SANITIZER_CONFIG);
}

/** Sanitises HTML before it is shown, and makes links, mentions and spoilers work. */
export function sanitizeForDisplay(html: string, me: string): string {
  reader = me;
  return incomingPurifier().sanitize(html, SANITIZER_CONFIG);
}

let reader = "";
const outgoingPurifier = once(() => withStrictHooks(DOMPurify(window)));
const incomingPurifier = once(() => {
  const purifier = withStrictHooks(DOMPurify(window));
  purifier.addHook("afterSanitizeAttributes", (node) => {
    if (node.tagName === "A") finishLink(node);
    if (node.hasAttribute("data-mx-spoiler")) finishSpoiler(node);
  });
  return purifier;
});

function withStrictHooks(purifier: Purifier): Purifier {
  purifier.addHook("uponSanitizeElement", (node, { tagName }) => {
    // Old clients include a quotation in replies; the page shows its own.
    if (tagName === "mx-reply") (node as Element).remove();
  });
  purifier.addHook("uponSanitizeAttribute", (node, data) => {
    const { attrName, attrValue } = data;
    if (attrName === "class") {
      const kept = node.tagName === "CODE" ? attrValue.split(/\s+/).filter((name) => /^language-[\w+-]+$/.test(name)) : [];
      data.attrValue = kept.join(" ");
      data.keepAttr = kept.length > 0;
    }
    if (attrName === "start") data.keepAttr = node.tagName === "OL" && /^\d+$/.test(attrValue);
    if (attrName === "href") data.keepAttr = node.tagName === "A" && safeHref(attrValue) !== undefined;
    if (attrName === "data-mx-spoiler") data.keepAttr = node.tagName === "SPAN";
  });
  return purifier;
}

function finishLink(link: Element): void {
  const href = link.getAttribute("href");
  if (href === null) return;
  const mentioned = matrixLinkTarget(href);
  if (mentioned?.kind === "user") {
    link.setAttribute("class", mentioned.id === reader ? "pill me" : "pill");
    link.setAttribute("data-user", mentioned.id);
  } else if (mentioned?.kind === "room" && mentioned.id.startsWith("!")) {
    link.setAttribute("href", routeHref({ at: "room", id: mentioned.id, ...(mentioned.event === undefined ? {} : { event: mentioned.event }) }));
    return;
  }
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noreferrer noopener");
}

function finishSpoiler(span: Element): void {
  // The text is hidden from everyone, screen readers included, until it is requested.
  const hidden = document.createElement("span");
  hidden.append(...span.childNodes);
  span.append(hidden);
  span.setAttribute("class", "spoiler");
  span.setAttribute("role", "button");
  span.setAttribute("tabindex", "0");
  const reason = span.getAttribute("data-mx-spoiler");
  span.setAttribute("aria-label", reason ? `Spoiler: ${reason}. Show it` : "Spoiler. Show it");
}

function once<T>(make: () => T): () => T {
  let value: T | undefined;
  return () => (value ??= make());
}
