// Push rules, as far as the page shows them.

import { type Api, path } from "../server/api.ts";
import { asArray, asRecord, asString, asStrings, type Content } from "../server/events.ts";

/** The notifications of a room: everything, mentions only, nothing, or the default of all rooms. */
export type RoomNotificationLevel = "default" | "all" | "mentions" | "mute";

type PushRuleKind = "override" | "content" | "room" | "sender" | "underride";

export interface PushRule {
  rule_id: string;
  enabled: boolean;
  notifies: boolean;
  pattern: string | undefined;
}

/** The predefined rules that the settings show. */
export const SHOWN_RULES: { kind: PushRuleKind; id: string; label: string }[] = [
  { kind: "underride", id: ".m.rule.message", label: "Messages in rooms" },
  { kind: "underride", id: ".m.rule.room_one_to_one", label: "Direct messages" },
  { kind: "override", id: ".m.rule.is_user_mention", label: "When someone mentions me" },
  { kind: "override", id: ".m.rule.is_room_mention", label: "When someone mentions the whole room" },
  { kind: "override", id: ".m.rule.invite_for_me", label: "Invitations" },
];

const NOTIFY_ACTIONS = ["notify"];
const NOTIFY_LOUDLY_ACTIONS = ["notify", { set_tweak: "sound", value: "default" }, { set_tweak: "highlight" }];

export function rulesOfKind(rules: Content, kind: PushRuleKind): PushRule[] {
  return asArray(asRecord(rules["global"])?.[kind]).flatMap((item) => {
    const rule = asRecord(item);
    const id = asString(rule?.["rule_id"]);
    if (rule === undefined || id === undefined) return [];
    return [
      {
        rule_id: id,
        enabled: rule["enabled"] !== false,
        notifies: asStrings(rule["actions"]).includes("notify"),
        pattern: asString(rule["pattern"]),
      },
    ];
  });
}

export function roomNotificationLevel(rules: Content, roomId: string): RoomNotificationLevel {
  const find = (kind: PushRuleKind) => rulesOfKind(rules, kind).find(({ rule_id, enabled }) => rule_id === roomId && enabled);
  if (find("override")?.notifies === false) return "mute";
  const own = find("room");
  if (own === undefined) return "default";
  return own.notifies ? "all" : "mentions";
}

/** Whether a predefined rule is on; undefined if the server does not have it. */
export function isRuleOn(rules: Content, kind: PushRuleKind, id: string): boolean | undefined {
  const rule = rulesOfKind(rules, kind).find(({ rule_id }) => rule_id === id);
  return rule?.enabled && rule.notifies;
}

/** Returns the user's keywords, without the account's own name. */
export function keywords(rules: Content): string[] {
  return rulesOfKind(rules, "content")
    .filter(({ rule_id, enabled }) => !rule_id.startsWith(".") && enabled)
    .flatMap(({ pattern }) => (pattern === undefined ? [] : [pattern]));
}

export class PushRules {
  constructor(private readonly api: Api) {}

  async setLevel(roomId: string, level: RoomNotificationLevel, rules: Content): Promise<void> {
    const has = (kind: PushRuleKind) => rulesOfKind(rules, kind).some(({ rule_id }) => rule_id === roomId);
    if (level === "mute") {
      const conditions = [{ kind: "event_match", key: "room_id", pattern: roomId }];
      await this.put("override", roomId, { actions: [], conditions });
    } else if (has("override")) {
      await this.remove("override", roomId);
    }
    if (level === "all" || level === "mentions") await this.put("room", roomId, { actions: level === "all" ? NOTIFY_ACTIONS : [] });
    else if (has("room")) await this.remove("room", roomId);
  }

  async setEnabled(kind: PushRuleKind, id: string, on: boolean, rules: Content): Promise<void> {
    const rule = rulesOfKind(rules, kind).find(({ rule_id }) => rule_id === id);
    // A rule that is on without actions was emptied by another client.
    if (on && rule?.notifies === false) await this.api.put(`${this.rulePath(kind, id)}/actions`, { actions: NOTIFY_ACTIONS });
    await this.api.put(`${this.rulePath(kind, id)}/enabled`, { enabled: on });
  }

  async addKeyword(word: string): Promise<void> {
    await this.put("content", word, { actions: NOTIFY_LOUDLY_ACTIONS, pattern: word });
  }

  async removeKeyword(word: string, rules: Content): Promise<void> {
    const named = rulesOfKind(rules, "content").filter(({ rule_id, pattern }) => pattern === word && !rule_id.startsWith("."));
    for (const { rule_id } of named) await this.remove("content", rule_id);
  }

  private async put(kind: PushRuleKind, id: string, rule: Content): Promise<void> {
    await this.api.put(this.rulePath(kind, id), rule);
  }

  private async remove(kind: PushRuleKind, id: string): Promise<void> {
    await this.api.delete(this.rulePath(kind, id));
  }

  private rulePath(kind: PushRuleKind, id: string): string {
    return path`/_matrix/client/v3/pushrules/global/${kind}/${id}`;
  }
}
