// Describes the state events of a room in words.

import { PowerLevels } from "../rooms/powerLevels.ts";
import { asRecord, asString, type Content } from "../server/events.ts";
import type { TimelineEvent } from "./timelineEvent.ts";

type NameLookup = (userId: string) => string;

/** Whether there is a description for an event. Events without a visible change have none. */
export function hasStateEventText(event: TimelineEvent): boolean {
  return event.isState && stateEventText(event, (userId) => userId) !== null;
}

export function stateEventText({ raw, isRedacted }: TimelineEvent, nameOf: NameLookup): string | null {
  const who = nameOf(raw.sender);
  const { content } = raw;
  const before = asRecord(raw.unsigned?.prev_content) ?? {};
  switch (raw.type) {
    case "m.room.member":
      return describeMember(who, raw.sender, raw.state_key ?? "", content, before, nameOf);
    case "m.room.create":
      return content["type"] === "m.space" ? `${who} created this space` : `${who} created this room`;
    case "m.room.name":
      return describeChange(who, "name", asString(content["name"]), isRedacted);
    case "m.room.topic":
      return describeChange(who, "topic", asString(content["topic"]), isRedacted);
    case "m.room.avatar":
      return asString(content["url"]) ? `${who} changed the picture of the room` : `${who} removed the picture of the room`;
    case "m.room.encryption":
      return `${who} turned on encryption`;
    case "m.room.tombstone":
      return `${who} replaced this room with a new one`;
    case "m.room.power_levels":
      return describePowers(who, content, before, nameOf);
    case "m.room.join_rules":
      return describeJoinRule(who, asString(content["join_rule"]));
    case "m.room.history_visibility":
      return describeVisibility(who, asString(content["history_visibility"]));
    case "m.room.canonical_alias":
      return asString(content["alias"]) ? `${who} made ${asString(content["alias"])} the address of the room` : `${who} removed the address of the room`;
    case "m.room.pinned_events":
      return `${who} changed the pinned messages`;
    default:
      return null;
  }
}

function describeChange(who: string, what: string, value: string | undefined, isRedacted: boolean): string {
  if (isRedacted) return `${who} changed the ${what} of the room`;
  return value ? `${who} changed the ${what} to “${value}”` : `${who} removed the ${what}`;
}

function describeMember(who: string, sender: string, userId: string, content: Content, before: Content, nameOf: NameLookup): string | null {
  const name = asString(content["displayname"]) || nameOf(userId);
  const reason = asString(content["reason"]);
  const because = reason ? `: ${reason}` : "";
  const isSelf = sender === userId;
  const old = asString(before["membership"]) ?? "leave";
  switch (content["membership"]) {
    case "join":
      return old === "join" ? describeProfile(nameOf(userId), content, before) : `${name} joined`;
    case "invite":
      return old === "knock" ? `${who} let ${name} in` : `${who} invited ${name}`;
    case "knock":
      return `${name} asked to join${because}`;
    case "ban":
      return `${who} banned ${nameOf(userId)}${because}`;
    case "leave":
      if (old === "ban") return `${who} unbanned ${nameOf(userId)}`;
      if (old === "invite") return isSelf ? `${nameOf(userId)} declined the invitation` : `${who} withdrew the invitation to ${nameOf(userId)}`;
      if (old === "knock" && isSelf) return `${nameOf(userId)} no longer asks to join`;
      return isSelf ? `${nameOf(userId)} left${because}` : `${who} removed ${nameOf(userId)}${because}`;
    default:
      return null;
  }
}

function describeProfile(name: string, content: Content, before: Content): string | null {
  const now = asString(content["displayname"]);
  const then = asString(before["displayname"]);
  if (now !== then) {
    if (!now) return `${then} removed their name`;
    return then ? `${then} is now called ${now}` : `${name} is now called ${now}`;
  }
  if (asString(content["avatar_url"]) === asString(before["avatar_url"])) return null;
  return asString(content["avatar_url"]) ? `${name} changed their picture` : `${name} removed their picture`;
}

function describePowers(who: string, content: Content, before: Content, nameOf: NameLookup): string | null {
  const now = asRecord(content["users"]) ?? {};
  const then = asRecord(before["users"]) ?? {};
  const byDefault = Number(content["users_default"] ?? 0);
  const changes: string[] = [];
  for (const userId of new Set([...Object.keys(now), ...Object.keys(then)])) {
    const level = Number(now[userId] ?? byDefault);
    if (level === Number(then[userId] ?? byDefault)) continue;
    changes.push(`made ${nameOf(userId)} ${roleWithArticle(level)}`);
  }
  if (Object.keys(before).length === 0 || changes.length === 0) return Object.keys(before).length === 0 ? null : `${who} changed the permissions`;
  return `${who} ${changes.slice(0, 5).join(", ")}`;
}

function roleWithArticle(level: number): string {
  const role = PowerLevels.roleName(level);
  return role === "admin" ? "an admin" : role === "muted" ? "muted" : `a ${role}`;
}

function describeJoinRule(who: string, rule: string | undefined): string | null {
  switch (rule) {
    case "public":
      return `${who} opened the room to everyone`;
    case "invite":
      return `${who} made the room private`;
    case "knock":
    case "knock_restricted":
      return `${who} allowed people to ask to join`;
    case "restricted":
      return `${who} opened the room to members of a space`;
    default:
      return null;
  }
}

function describeVisibility(who: string, visibility: string | undefined): string | null {
  switch (visibility) {
    case "world_readable":
      return `${who} let everyone read the history`;
    case "shared":
      return `${who} let all members read the history`;
    case "invited":
      return `${who} let members read the history since their invitation`;
    case "joined":
      return `${who} let members read the history since they joined`;
    default:
      return null;
  }
}
