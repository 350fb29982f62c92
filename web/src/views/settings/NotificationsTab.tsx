import { useState } from "preact/hooks";
import { isRuleOn, keywords, SHOWN_RULES } from "../../model/settings/pushRules.ts";
import { PERMISSION_PROBLEM } from "../../model/settings/webPush.ts";
import { useClient } from "../clientContext.ts";
import { Check, Field, Form } from "../components/Form.tsx";
import { Icon } from "../components/Icon.tsx";
import { attempt } from "../components/Toasts.tsx";
import { notificationPermission, notificationsEnabled, requestNotificationPermission, setNotificationsEnabled } from "../shell/notificationPreference.ts";
import { ClosedPageNotifications } from "./ClosedPageNotifications.tsx";

/** The notifications of this browser, the push rules and keywords. */
export function NotificationsTab() {
  return (
    <>
      <section class="settings-section" aria-labelledby="browser-heading">
        <h2 id="browser-heading">In this browser</h2>
        <BrowserNotifications />
      </section>
      <section class="settings-section" aria-labelledby="rules-heading">
        <h2 id="rules-heading">Notify me about</h2>
        <p class="soft">For all your devices. Each room can have its own setting, in its details.</p>
        <PushRuleChecks />
      </section>
      <section class="settings-section" aria-labelledby="keywords-heading">
        <h2 id="keywords-heading">Keywords</h2>
        <p class="soft">Messages with these words count as mentions.</p>
        <Keywords />
      </section>
    </>
  );
}

function BrowserNotifications() {
  const permission = notificationPermission.value;
  const change = async (enabled: boolean) => {
    if (enabled) await requestNotificationPermission();
    setNotificationsEnabled(enabled);
  };
  return (
    <>
      <Check
        label="Show notifications"
        hint="While you are looking at something else, as long as this page is open."
        checked={permission === "granted" && notificationsEnabled.value}
        disabled={permission === "denied"}
        onChange={(event) => void change(event.currentTarget.checked)}
      />
      <ClosedPageNotifications />
      {permission === "denied" && (
        <p class="problem" role="alert">
          {PERMISSION_PROBLEM}
        </p>
      )}
    </>
  );
}

function PushRuleChecks() {
  const { accountData, pushRules } = useClient();
  const rules = accountData.pushRules.value;
  return (
    <>
      {SHOWN_RULES.map(({ kind, id, label }) => {
        const on = isRuleOn(rules, kind, id);
        if (on === undefined) return null;
        return <Check key={id} label={label} checked={on} onChange={() => void attempt(async () => pushRules.setEnabled(kind, id, !on, rules))} />;
      })}
    </>
  );
}

function Keywords() {
  const { accountData, pushRules } = useClient();
  const [formKey, setFormKey] = useState(0);
  const rules = accountData.pushRules.value;
  const add = async (data: FormData) => {
    await pushRules.addKeyword(String(data.get("word")).trim());
    setFormKey(formKey + 1);
  };
  return (
    <>
      <ul class="chips plain-chips" role="list" aria-label="Keywords">
        {keywords(rules).map((word) => (
          <li key={word}>
            <button type="button" class="chip" aria-label={`Remove ${word}`} onClick={() => void attempt(async () => pushRules.removeKeyword(word, rules))}>
              <span dir="auto">{word}</span>
              <Icon name="close" />
            </button>
          </li>
        ))}
      </ul>
      <Form key={formKey} onSubmit={add} submit="Add keyword">
        <Field label="Word" name="word" autocomplete="off" dir="auto" pattern=".*\S.*" maxLength={100} required />
      </Form>
    </>
  );
}
