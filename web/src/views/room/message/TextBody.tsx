import { useMemo } from "preact/hooks";
import { splitAtLinks } from "../../../model/composing/links.ts";
import { bodyText } from "../../../model/composing/messageContent.ts";
import { type Content, text } from "../../../model/server/events.ts";
import { useChat } from "../../clientContext.ts";
import { showProfile } from "../../people/shownProfile.ts";
import { cleanForShowing } from "./sanitizeHtml.ts";

/** So much of a text is shown. */
const LONGEST = 40_000;
const ONLY_EMOJI =
  /^(?:\s*(?:\p{Regional_Indicator}{2}|\p{Emoji_Presentation}\p{Emoji_Modifier}?|\p{Emoji}\ufe0f)(?:\u200d(?:\p{Emoji_Presentation}|\p{Emoji}\ufe0f?)\p{Emoji_Modifier}?)*){1,6}\s*$/u;

export function TextBody({ content }: { content: Content }) {
  const formatted = content["format"] === "org.matrix.custom.html" ? text(content["formatted_body"]) : undefined;
  if (formatted !== undefined && formatted !== "" && formatted.length <= LONGEST) return <Html html={formatted} />;
  const body = bodyText(content).slice(0, LONGEST);
  return (
    <div class={`text plain${ONLY_EMOJI.test(body) ? " only-emoji" : ""}`} dir="auto">
      <Linked text={body} />
    </div>
  );
}

/** Plain text, with its addresses as links. */
export function Linked({ text }: { text: string }) {
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

function Html({ html }: { html: string }) {
  const { me } = useChat();
  const clean = useMemo(() => cleanForShowing(html, me), [html]);
  return <div class="text html" dir="auto" dangerouslySetInnerHTML={{ __html: clean }} onClick={onClick} onKeyDown={onKeyDown} />;
}

function onClick(event: MouseEvent): void {
  const target = event.target as Element;
  const mentioned = target.closest("a[data-user]")?.getAttribute("data-user");
  if (typeof mentioned === "string") {
    event.preventDefault();
    showProfile(mentioned);
  }
  reveal(target.closest(".spoiler"), event);
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.key === "Enter" || event.key === " ") reveal((event.target as Element).closest(".spoiler"), event);
}

/** Shows what a spoiler hides. */
function reveal(spoiler: Element | null, event: Event): void {
  if (spoiler === null || spoiler.classList.contains("shown")) return;
  event.preventDefault();
  spoiler.classList.add("shown");
  for (const name of ["role", "aria-label"]) spoiler.removeAttribute(name);
}
