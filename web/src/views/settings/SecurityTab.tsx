import { useState } from "preact/hooks";
import type { SessionStore } from "../../model/session/session.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { Check, Field, Form } from "../components/Form.tsx";
import { NewPassword, readNewPassword } from "../components/NewPassword.tsx";
import { PasswordField } from "../components/PasswordField.tsx";
import { showToast } from "../components/Toasts.tsx";

/** The password, and the deactivation of the account. */
export function SecurityTab({ sessions }: { sessions: SessionStore }) {
  const { me, accountSecurity } = useClient();
  const [deactivating, setDeactivating] = useState(false);
  const [formKey, setFormKey] = useState(0);
  const change = async (data: FormData) => {
    await accountSecurity.changePassword(String(data.get("password")), readNewPassword(data), data.get("others") === "on");
    setFormKey(formKey + 1);
    showToast("Your password has been changed.");
  };
  return (
    <>
      <section class="settings-section" aria-labelledby="password-heading">
        <h2 id="password-heading">Password</h2>
        <Form key={formKey} onSubmit={change} submit="Change password">
          <input type="text" name="username" autocomplete="username" value={me} readOnly hidden />
          <PasswordField label="Current password" name="password" autocomplete="current-password" />
          <NewPassword label="New password" />
          <Check label="Sign out my other devices" name="others" defaultChecked />
        </Form>
      </section>
      <section class="settings-section" aria-labelledby="deactivate-heading">
        <h2 id="deactivate-heading">Deactivate account</h2>
        <p class="soft">You leave all rooms and can never sign in again. No one else can use your name.</p>
        <div>
          <button type="button" class="button danger" onClick={() => setDeactivating(true)}>
            Deactivate account…
          </button>
        </div>
      </section>
      {deactivating && <DeactivateDialog sessions={sessions} onClose={() => setDeactivating(false)} />}
    </>
  );
}

function DeactivateDialog({ sessions, onClose }: { sessions: SessionStore; onClose: () => void }) {
  const { me, accountSecurity } = useClient();
  const [typed, setTyped] = useState("");
  const run = async (data: FormData) => {
    await accountSecurity.deactivate(String(data.get("password")), data.get("erase") === "on");
    sessions.tokenRevoked(false);
  };
  return (
    <ConfirmDialog title="Deactivate your account?" submit="Deactivate permanently" danger disabled={typed.trim() !== me} onConfirm={run} onClose={onClose}>
      <p>
        This permanently deactivates <strong>{me}</strong>. It cannot be undone.
      </p>
      <Field
        label="Type your user id to continue"
        name="id"
        autocomplete="off"
        autocapitalize="none"
        placeholder={me}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      <Check label="Hide what I wrote from people who join later" name="erase" />
      <PasswordField label="Password" name="password" autocomplete="current-password" />
    </ConfirmDialog>
  );
}
