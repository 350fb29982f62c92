import { useMemo } from "preact/hooks";
import { splitAtLinks } from "../../../model/composing/links.ts";
import { bodyText } from "../../../model/composing/messageContent.ts";
import { asString, type Content } from "../../../model/server/events.ts";
import { useClient } from "../../clientContext.ts";
import { showProfile } from "../../people/shownProfile.ts";
import { sanitizeForDisplay } from "./sanitizeHtml.ts";

/** Longer texts are cut off. */
const MAX_TEXT_LENGTH = 40_000;
const ONLY_EMOJI_PATTERN =
  /^(?:\s*(?:\p{Regional_Indicator}{2}|\p{Emoji_Presentation}\p{Emoji_Modifier}?|\p{Emoji}\ufe0f)(?:\u200d(?:\p{Emoji_Presentation}|\p{Emoji}\ufe0f?)\p{Emoji_Modifier}?)*){1,6}\s*$/u;

export function TextBody({ content }: { content: Content }) {
  const formatted = content["format"] === "org.matrix.custom.html" ? asString(content["formatted_body"]) : undefined;
  if (formatted !== undefined && formatted !== "" && formatted.length <= MAX_TEXT_LENGTH) return <HtmlText html={formatted} />;
  const body = bodyText(content).slice(0, MAX_TEXT_LENGTH);
  return (
    <div class={`text plain${ONLY_EMOJI_PATTERN.test(body) ? " only-emoji" : ""}`} dir="auto">
      <LinkedText text={body} />
    </div>
  );
}

/** Plain text, with its addresses as links. */
export function LinkedText({ text }: { text: string }) {
  return (
    <>
      {splitAtLinks(text).map((piece, at) =>
        piece.href === undefined ? (
          piece.text
        ) : (
          <a key={at} href={piece.href} target="_blank" rel="noreferrer noopener">
            {piece.text}
          </a>
        ),
      )}
    </>
  );
}

function HtmlText({ html }: { html: string }) {
  const { me } = useClient();
  const clean = useMemo(() => sanitizeForDisplay(html, me), [html]);
  return <div class="text html" dir="auto" dangerouslySetInnerHTML={{ __html: clean }} onClick={onClick} onKeyDown={onKeyDown} />;
}

function onClick(event: MouseEvent): void {
  const target = event.target as Element;
  const mentioned = target.closest("a[data-user]")?.getAttribute("data-user");
  if (typeof mentioned === "string") {
    event.preventDefault();
    showProfile(mentioned);
  }
  revealSpoiler(target.closest(".spoiler"), event);
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.key === "Enter" || event.key === " ") revealSpoiler((event.target as Element).closest(".spoiler"), event);
}

/** Shows the text of a spoiler. */
function revealSpoiler(spoiler: Element | null, event: Event): void {
  if (spoiler === null || spoiler.classList.contains("shown")) return;
  event.preventDefault();
  spoiler.classList.add("shown");
  for (const name of ["role", "aria-label"]) spoiler.removeAttribute(name);
}
