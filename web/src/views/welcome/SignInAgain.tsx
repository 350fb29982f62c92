import type { Api } from "../../model/server/api.ts";
import { login } from "../../model/session/authentication.ts";
import type { Session, SessionStore } from "../../model/session/session.ts";
import { Form } from "../components/Form.tsx";
import { PasswordField } from "../components/PasswordField.tsx";

/** The form after a soft logout: it continues with the same account and device, so that nothing is lost. */
export function SignInAgain({ api, sessions, expired }: { api: Api; sessions: SessionStore; expired: Session }) {
  const submit = async (data: FormData) => {
    sessions.start(await login(api, { username: expired.userId, password: String(data.get("password")), deviceId: expired.deviceId }));
  };
  const leave = (
    <button type="button" class="button" onClick={() => (sessions.expired.value = null)}>
      Use another account
    </button>
  );
  return (
    <>
      <h1>Sign in again</h1>
      <p class="soft">
        The server has ended your session. Enter the password of <strong dir="auto">{expired.userId}</strong> to continue where you left off.
      </p>
      <Form onSubmit={submit} submit="Sign in" extraButton={leave}>
        <input type="text" name="username" autocomplete="username" value={expired.userId} readOnly hidden />
        <PasswordField label="Password" name="password" autocomplete="current-password" />
      </Form>
    </>
  );
}
