import type { ComponentChildren } from "preact";
import { asRecord, asString } from "../../../model/server/events.ts";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { Icon } from "../../components/Icon.tsx";
import { AudioBody, FileBody, ImageBody, VideoBody } from "./MediaBody.tsx";
import { captionOf, pollOf } from "./plainText.ts";
import { TextBody } from "./TextBody.tsx";

/** The content of a message, by its type. */
export function MessageBody({ event, name }: { event: TimelineEvent; name: string }) {
  event.changed.value;
  const { content } = event;
  if (event.isRedacted) return <Note icon="trash">Message deleted</Note>;
  if (event.isEncrypted) return <Note icon="lock">This message is encrypted and cannot be shown here yet.</Note>;
  if (event.raw.type === "m.sticker") return <ImageBody content={content} />;
  if (event.raw.type.endsWith("poll.start")) return <Poll event={event} />;
  switch (content["msgtype"]) {
    case "m.image":
      return <WithCaption event={event} media={<ImageBody content={content} />} />;
    case "m.video":
      return <WithCaption event={event} media={<VideoBody content={content} />} />;
    case "m.audio":
      return <WithCaption event={event} media={<AudioBody content={content} />} />;
    case "m.file":
      return <WithCaption event={event} media={<FileBody content={content} />} />;
    case "m.emote":
      return (
        <div class="emote">
          <bdi class="emoter">{name}</bdi> <TextBody content={content} />
        </div>
      );
    case "m.notice":
      return (
        <div class="notice">
          <TextBody content={content} />
        </div>
      );
    case "m.location":
      return <Note icon="compass">{asString(content["body"]) ?? asString(content["geo_uri"]) ?? "A location"}</Note>;
    default:
      return <TextBody content={content} />;
  }
}

function Note({ icon, children }: { icon: "trash" | "lock" | "compass" | "info"; children: ComponentChildren }) {
  return (
    <p class="note">
      <Icon name={icon} />
      <span dir="auto">{children}</span>
    </p>
  );
}

function WithCaption({ event, media }: { event: TimelineEvent; media: ComponentChildren }) {
  const caption = captionOf(event.content);
  return (
    <>
      {media}
      {caption !== undefined && <TextBody content={event.content} />}
    </>
  );
}

function Poll({ event }: { event: TimelineEvent }) {
  const { question, answers } = pollOf(event.content);
  const fallback = asString(asRecord(event.content)?.["body"]);
  return (
    <div class="poll">
      <p class="question" dir="auto">
        {question || fallback || "A poll"}
      </p>
      <ul>
        {answers.map((answer, at) => (
          <li key={at} dir="auto">
            {answer}
          </li>
        ))}
      </ul>
      <p class="hint">Voting is not supported here yet.</p>
    </div>
  );
}
