import "./Message.css";
import { useRef, useState } from "preact/hooks";
import { asRecord, asStrings } from "../../../model/server/events.ts";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { useClient } from "../../clientContext.ts";
import { Avatar, hueOf } from "../../components/Avatar.tsx";
import { dayName, timeOfDay } from "../../components/formatTime.ts";
import { showProfile } from "../../people/shownProfile.ts";
import { useRoomContext } from "../roomContext.ts";
import { MessageActions } from "./MessageActions.tsx";
import { MessageBody } from "./MessageBody.tsx";
import { MessageMeta } from "./MessageMeta.tsx";
import { Quote } from "./Quote.tsx";
import { Reactions } from "./Reactions.tsx";
import { SendFailure } from "./SendFailure.tsx";
import { ThreadChip } from "./ThreadChip.tsx";
import { useLongPress } from "./useLongPress.ts";

interface Props {
  event: TimelineEvent;
  rowKey: string;
  isFirst: boolean;
  isLast: boolean;
  /** Whether the tab key reaches the message. */
  isCurrent: boolean;
  isHighlighted: boolean;
}

/** One message: sender, content, time, reactions and thread. */
export function Message({ event, isFirst, isLast, isCurrent, isHighlighted }: Props) {
  const { room } = useRoomContext();
  const { me } = useClient();
  const [isTouched, setTouched] = useState(false);
  const [menuRequests, setMenuRequests] = useState(0);
  const article = useRef<HTMLElement>(null);
  const longPress = useLongPress(() => {
    setTouched(true);
    setMenuRequests((times) => times + 1);
  });
  event.changed.value;
  room.membersChanged.value;

  const isOwn = event.sender === me;
  const name = room.memberName(event.sender);
  const { replyTo } = event.relation;
  const classes = [
    "message",
    isOwn ? "own" : "",
    isFirst ? "first" : "",
    isLast ? "last" : "",
    isHighlighted ? "highlighted" : "",
    mentions(event, me) ? "mentions-me" : "",
    kindOf(event),
  ];
  return (
    <article
      ref={article}
      class={classes.filter(Boolean).join(" ")}
      tabIndex={isCurrent ? 0 : -1}
      aria-label={`${isOwn ? "You" : name}, ${dayName(event.time)} ${timeOfDay(event.time)}`}
      onPointerEnter={(touch) => touch.pointerType === "mouse" && setTouched(true)}
      onPointerLeave={(touch) => touch.pointerType === "mouse" && !article.current?.contains(document.activeElement) && setTouched(false)}
      onFocusCapture={() => setTouched(true)}
      onBlurCapture={(blur) => !article.current?.contains(blur.relatedTarget as Node | null) && !article.current?.matches(":hover") && setTouched(false)}
      {...longPress}
    >
      {!isOwn && <span class="face">{isFirst && <Avatar id={event.sender} name={name} mxc={room.members.get(event.sender)?.avatar} size="small" />}</span>}
      <div class="column">
        {!isOwn && isFirst && (
          <button
            type="button"
            class={`who name-${hueOf(event.sender)}`}
            title={event.sender}
            tabIndex={isCurrent ? 0 : -1}
            onClick={() => showProfile(event.sender)}
          >
            <bdi>{name}</bdi>
          </button>
        )}
        <div class="bubble">
          {replyTo !== undefined && !event.isRedacted && <Quote eventId={replyTo} />}
          <div class="said">
            <MessageBody event={event} name={name} />
          </div>
          <MessageMeta event={event} />
        </div>
        {event.sendState === "failed" && <SendFailure event={event} />}
        <Reactions event={event} />
        <ThreadChip event={event} />
        {isTouched && event.isStored && !event.isRedacted && <MessageActions event={event} menuRequests={menuRequests} />}
      </div>
    </article>
  );
}

/** Pictures fill the bubble; deleted and encrypted messages have none. */
function kindOf(event: TimelineEvent): string {
  if (event.isRedacted || event.isEncrypted) return "without-text";
  if (event.raw.type === "m.sticker" || event.content["msgtype"] === "m.image" || event.content["msgtype"] === "m.video") return "with-picture";
  return "";
}

function mentions(event: TimelineEvent, me: string): boolean {
  const mentioned = asRecord(event.content["m.mentions"]);
  return event.sender !== me && (mentioned?.["room"] === true || asStrings(mentioned?.["user_ids"]).includes(me));
}
