import { useEffect, useState } from "preact/hooks";
import { routeHref } from "../../model/route.ts";
import type { Api } from "../../model/server/api.ts";
import { isTokenValid, type RegistrationMode, register } from "../../model/session/authentication.ts";
import type { SessionStore } from "../../model/session/session.ts";
import { Field, Form } from "../components/Form.tsx";
import { NewPassword, readNewPassword } from "../components/NewPassword.tsx";
import { navigate, removeRegistrationToken } from "../currentRoute.ts";
import { UsernameField } from "./UsernameField.tsx";

interface Props {
  api: Api;
  sessions: SessionStore;
  server: string | null;
  /** Null while it is not known. */
  registration: RegistrationMode | null;
  /** The registration token from the link, if there is one. */
  token: string | null;
}

export function Register({ api, sessions, server, registration, token }: Props) {
  const [usable, setUsable] = useState(true);
  useEffect(() => {
    if (token !== null) isTokenValid(api, token).then(setUsable, () => {});
  }, [token]);
  const signIn = (
    <p class="welcome-other">
      Have an account? <a href={routeHref({ at: "login" })}>Sign in</a>
    </p>
  );
  if (!usable || (registration === "closed" && token === null)) {
    return (
      <>
        <h1>Create an account</h1>
        <p class="soft">
          {usable
            ? "You need an invitation to create an account on this server. Ask a member for an invite link."
            : "This link has already been used or has expired. Ask for a new one."}
        </p>
        {signIn}
      </>
    );
  }
  return (
    <>
      <h1>Create an account</h1>
      <p class="soft">{token === null ? `Choose a name and a password, and you are in.` : `This link lets you in. Choose a name and a password.`}</p>
      <RegisterForm
        api={api}
        sessions={sessions}
        server={server}
        token={token}
        asksToken={token === null && registration === "token"}
        onBegin={() => {
          removeRegistrationToken();
          navigate({ at: "home" }, true);
        }}
      />
      {signIn}
    </>
  );
}

interface FormProps {
  api: Api;
  sessions: SessionStore;
  server: string | null;
  token: string | null;
  asksToken?: boolean;
  onBegin?: () => void;
}

export function RegisterForm({ api, sessions, server, token, asksToken = false, onBegin }: FormProps) {
  const submit = async (data: FormData) => {
    const typed = String(data.get("token") ?? "").trim();
    const answer = await register(api, {
      username: String(data.get("username")),
      password: readNewPassword(data),
      token: typed === "" ? token : typed,
    });
    onBegin?.();
    sessions.start(answer);
  };
  return (
    <Form onSubmit={submit} submit="Create account">
      {asksToken && <Field label="Registration token" name="token" autocomplete="off" hint="You get it from the server's administrator." required />}
      <UsernameField api={api} server={server} />
      <NewPassword />
    </Form>
  );
}
