import { routeHref } from "../../model/route.ts";
import type { Api } from "../../model/server/api.ts";
import { login } from "../../model/session/authentication.ts";
import type { SessionStore } from "../../model/session/session.ts";
import { Field, Form } from "../components/Form.tsx";
import { PasswordField } from "../components/PasswordField.tsx";

interface Props {
  api: Api;
  sessions: SessionStore;
  server: string | null;
  canRegister: boolean;
}

export function SignIn({ api, sessions, server, canRegister }: Props) {
  return (
    <>
      <h1>Sign in</h1>
      <p class="soft">Good to see you. Sign in with your account{server === null ? "" : ` on ${server}`}.</p>
      <SignInForm api={api} sessions={sessions} />
      {canRegister && (
        <p class="welcome-other">
          New here? <a href={routeHref({ at: "register" })}>Create an account</a>
        </p>
      )}
    </>
  );
}

export function SignInForm({ api, sessions, onBegin }: { api: Api; sessions: SessionStore; onBegin?: () => void }) {
  const submit = async (data: FormData) => {
    const answer = await login(api, { username: String(data.get("username")).trim(), password: String(data.get("password")) });
    onBegin?.();
    sessions.start(answer);
  };
  return (
    <Form onSubmit={submit} submit="Sign in">
      <Field label="User name" name="username" autocomplete="username" autocapitalize="none" spellcheck={false} required />
      <PasswordField label="Password" name="password" autocomplete="current-password" />
    </Form>
  );
}
