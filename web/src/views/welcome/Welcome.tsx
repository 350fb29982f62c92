import type { Api } from "../../model/api.ts";
import type { LoginAnswer, Sessions } from "../../model/session.ts";
import { Field, Form } from "../parts/Form.tsx";

/** What somebody sees who is not logged in. */
export function Welcome({ api, sessions }: { api: Api; sessions: Sessions }) {
  const login = async (data: FormData) => {
    const answer = await api.post<LoginAnswer>(
      "/_matrix/client/v3/login",
      {
        type: "m.login.password",
        identifier: { type: "m.id.user", user: data.get("username") },
        password: data.get("password"),
      },
      { anonymous: true },
    );
    sessions.begin(answer);
  };
  return (
    <main>
      <h1>Sign in</h1>
      <Form onSubmit={login} submit="Sign in">
        <Field label="User name" name="username" autocomplete="username" required />
        <Field label="Password" name="password" type="password" autocomplete="current-password" required />
      </Form>
    </main>
  );
}
