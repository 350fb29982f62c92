import { useEffect, useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { isCreator } from "../../model/rooms/roomAdministration.ts";
import { type RoomNotificationLevel, roomNotificationLevel } from "../../model/settings/pushRules.ts";
import { useClient } from "../clientContext.ts";
import { Check } from "../components/Form.tsx";
import { Select } from "../components/Select.tsx";
import { attempt } from "../components/Toasts.tsx";
import { HISTORY_VISIBILITIES } from "../explore/CreateRoom.tsx";
import { DeleteRoom } from "./DeleteRoom.tsx";
import { LeaveRoom } from "./LeaveRoom.tsx";

const NOTIFICATION_LEVELS: { value: RoomNotificationLevel; label: string }[] = [
  { value: "default", label: "As in my settings" },
  { value: "all", label: "Every message" },
  { value: "mentions", label: "Only mentions" },
  { value: "mute", label: "Nothing" },
];

const JOIN_RULES = [
  { value: "invite", label: "Only invited people" },
  { value: "knock", label: "People who ask and are let in" },
  { value: "public", label: "Everyone" },
];

/** The settings of a room: for this user, and for everyone. */
export function RoomSettings({ room }: { room: Room }) {
  const { accountData, pushRules, roomAdministration, me } = useClient();
  const [open, setOpen] = useState<"leave" | "delete" | null>(null);
  const close = () => setOpen(null);
  const rules = accountData.pushRules.value;
  const may = (type: string) => room.powerLevels.value.maySend(me, type, true);
  const joinRule = room.joinRule.value;
  const joinRules = JOIN_RULES.some(({ value }) => value === joinRule) ? JOIN_RULES : [...JOIN_RULES, { value: joinRule, label: "Members of certain rooms" }];
  const set = (type: string, key: string) => (value: string) =>
    void attempt(async () => roomAdministration.setState(room.id, type, { ...room.content(type), [key]: value }));
  return (
    <>
      <section class="stack details-section" aria-labelledby="for-me">
        <h3 id="for-me">For me</h3>
        <Select
          label="Notifications"
          value={roomNotificationLevel(rules, room.id)}
          options={NOTIFICATION_LEVELS}
          onChange={(level) => void attempt(async () => pushRules.setLevel(room.id, level as RoomNotificationLevel, rules))}
        />
      </section>
      <section class="stack details-section" aria-labelledby="for-all">
        <h3 id="for-all">For everyone</h3>
        <Select
          label="Who can join"
          value={joinRule}
          options={joinRules}
          disabled={!may("m.room.join_rules")}
          onChange={set("m.room.join_rules", "join_rule")}
        />
        <Select
          label="Who can read the history"
          value={room.historyVisibility.value}
          options={HISTORY_VISIBILITIES}
          disabled={!may("m.room.history_visibility")}
          onChange={set("m.room.history_visibility", "history_visibility")}
        />
        <PublicListingCheck room={room} disabled={!may("m.room.canonical_alias")} />
      </section>
      <section class="stack details-section" aria-labelledby="ending">
        <h3 id="ending">Leave or delete</h3>
        <button type="button" class="button wide" onClick={() => setOpen("leave")}>
          Leave room
        </button>
        {isCreator(room, me) && (
          <button type="button" class="button danger wide" onClick={() => setOpen("delete")}>
            Delete room
          </button>
        )}
      </section>
      {open === "leave" && <LeaveRoom room={room} onClose={close} />}
      {open === "delete" && <DeleteRoom room={room} onClose={close} />}
    </>
  );
}

function PublicListingCheck({ room, disabled }: { room: Room; disabled: boolean }) {
  const { roomAdministration } = useClient();
  const [listed, setListed] = useState(false);
  const [known, setKnown] = useState(false);
  useEffect(() => {
    void attempt(async () => {
      setListed(await roomAdministration.isPubliclyListed(room.id));
      setKnown(true);
    });
  }, []);
  const change = async (next: boolean) => {
    setListed(next);
    if (!(await attempt(async () => roomAdministration.setPubliclyListed(room.id, next)))) setListed(!next);
  };
  return (
    <Check
      label="Show in the list of public rooms"
      checked={listed}
      disabled={disabled || !known}
      onChange={(event) => void change(event.currentTarget.checked)}
    />
  );
}
