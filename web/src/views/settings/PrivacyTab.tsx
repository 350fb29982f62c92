import { useClient } from "../clientContext.ts";
import { Check } from "../components/Form.tsx";
import { attempt } from "../components/Toasts.tsx";
import { showProfile } from "../people/shownProfile.ts";

/** The privacy settings, and the ignored users. */
export function PrivacyTab() {
  const client = useClient();
  const { accountData } = client;
  const { showPresence, sendReceipts } = accountData.settings.value;
  return (
    <>
      <section class="settings-section" aria-labelledby="privacy-heading">
        <h2 id="privacy-heading">What others see</h2>
        <Check
          label="When I am online"
          hint="A green dot next to your name, and when you were last seen."
          checked={showPresence}
          onChange={(event) => {
            const { checked } = event.currentTarget;
            void attempt(async () => client.setPresenceShown(checked));
          }}
        />
        <Check
          label="What I have read"
          hint="Two ticks on the messages of others. Without this you still see theirs."
          checked={sendReceipts}
          onChange={(event) => {
            const { checked } = event.currentTarget;
            void attempt(async () => accountData.changeSettings({ sendReceipts: checked }));
          }}
        />
      </section>
      <section class="settings-section" aria-labelledby="ignored-heading">
        <h2 id="ignored-heading">Ignored people</h2>
        {accountData.ignoredUsers.value.length === 0 && <p class="soft">You are not ignoring anyone. You can ignore people from their profile.</p>}
        <ul class="plain-list" role="list">
          {accountData.ignoredUsers.value.map((userId) => (
            <li key={userId}>
              <button type="button" class="button small" onClick={() => showProfile(userId)}>
                {userId}
              </button>
              <button
                type="button"
                class="button small"
                aria-label={`Stop ignoring ${userId}`}
                onClick={() => void attempt(async () => accountData.setIgnored(userId, false))}
              >
                Stop ignoring
              </button>
            </li>
          ))}
        </ul>
      </section>
    </>
  );
}
