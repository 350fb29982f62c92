import { useEffect, useState } from "preact/hooks";
import { isNotificationDetail, type NotificationDetail } from "../../model/settings/notificationDetail.ts";
import type { WebPush } from "../../model/settings/webPush.ts";
import { useClient } from "../clientContext.ts";
import { Check } from "../components/Form.tsx";
import { Select } from "../components/Select.tsx";
import { notificationPermission } from "../shell/notificationPreference.ts";

const DETAIL_CHOICES: { value: NotificationDetail; label: string }[] = [
  { value: "text", label: "Who wrote, in which room, and the text" },
  { value: "sender", label: "Who wrote, and in which room" },
  { value: "nothing", label: "Only that there is a new message" },
];

/** The notifications of this browser while the page is closed. Shows nothing if the server does not offer them. */
export function ClosedPageNotifications() {
  const { webPush } = useClient();
  /** The choice that is being applied. */
  const [pending, setPending] = useState<NotificationDetail | "off" | null>(null);
  useEffect(() => {
    // If the server could not be reached at the start.
    webPush.loadOffer().catch(() => {});
  }, []);
  const current = webPush.detail.value ?? "off";
  if (webPush.isOffered.value !== true && current === "off") return null;
  const change = async (next: NotificationDetail | "off") => {
    setPending(next);
    await (next === "off" ? webPush.turnOff() : webPush.turnOn(next));
    setPending(null);
  };
  const shown = pending ?? current;
  const { unsupportedReason } = webPush.browser;
  const isImpossible = unsupportedReason !== null || notificationPermission.value === "denied";
  return (
    <>
      <Check
        label="Notify me when this page is closed"
        hint={unsupportedReason ?? "Or not visible. The browser must be running, except on a phone."}
        checked={shown !== "off"}
        disabled={isImpossible && shown === "off"}
        onChange={(event) => void change(event.currentTarget.checked ? "text" : "off")}
      />
      {shown !== "off" && (
        <Select
          label="What these notifications say"
          hint="They are encrypted for this browser. The service that delivers them cannot read them."
          value={shown}
          options={DETAIL_CHOICES}
          onChange={(value) => isNotificationDetail(value) && void change(value)}
        />
      )}
      {notificationPermission.value !== "denied" && <WebPushStatus isChanging={pending !== null} />}
    </>
  );
}

function WebPushStatus({ isChanging }: { isChanging: boolean }) {
  const { webPush } = useClient();
  const problem = webPush.problem.value;
  const text = isChanging ? "One moment…" : statusText(webPush);
  return (
    <>
      <p class="soft small-text" role="status" hidden={text === null}>
        {text}
      </p>
      <p class="problem" role="alert" hidden={problem === null}>
        {problem}
      </p>
    </>
  );
}

function statusText({ problem, detail, isActive }: WebPush): string | null {
  if (problem.value !== null || detail.value === null) return null;
  return isActive.value ? "This browser receives notifications." : "Waiting for the server's first message…";
}
