import { expect, test } from "vitest";
import { MatrixError } from "../server/api.ts";
import type { Content } from "../server/events.ts";
import { passwordAnswers, readChallenge, TOKEN_STAGE, withInteractiveAuth } from "./userInteractiveAuth.ts";

function unauthorized(body: Content): MatrixError {
  return new MatrixError(401, "M_UNAUTHORIZED", "no", body);
}

/** A server that wants the stages of one of these flows. */
function serverWithFlows(flows: string[][], password = "right") {
  const seen: (Content | undefined)[] = [];
  const completed: string[] = [];
  const send = async (auth: Content | undefined): Promise<string> => {
    seen.push(auth);
    const body = { flows: flows.map((stages) => ({ stages })), session: "s1", completed: [...completed] };
    if (auth === undefined) throw unauthorized(body);
    if (auth["type"] === "m.login.password" && auth["password"] !== password) {
      throw new MatrixError(401, "M_FORBIDDEN", "wrong password", body);
    }
    completed.push(String(auth["type"]));
    if (!flows.some((stages) => stages.every((stage) => completed.includes(stage)))) {
      throw unauthorized({ ...body, completed: [...completed] });
    }
    return "done";
  };
  return { send, seen };
}

test("a request that needs no proof is sent once", async () => {
  expect(await withInteractiveAuth(async (auth) => auth, {})).toBe(undefined);
});

test("the password is sent with the session of the challenge", async () => {
  const { send, seen } = serverWithFlows([["m.login.password"]]);
  expect(await withInteractiveAuth(send, passwordAnswers("@a:x", "right"))).toBe("done");
  expect(seen[1]).toEqual({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: "@a:x" },
    password: "right",
    session: "s1",
  });
});

test("a wrong password is reported and not tried again", async () => {
  const { send, seen } = serverWithFlows([["m.login.password"]]);
  await expect(withInteractiveAuth(send, passwordAnswers("@a:x", "wrong"))).rejects.toThrow("not the right password");
  expect(seen).toHaveLength(2);
});

test("several stages are completed in order", async () => {
  const { send, seen } = serverWithFlows([[TOKEN_STAGE, "m.login.dummy"]]);
  expect(await withInteractiveAuth(send, { [TOKEN_STAGE]: { token: "t" } })).toBe("done");
  expect(seen.map((auth) => auth?.["type"])).toEqual([undefined, TOKEN_STAGE, "m.login.dummy"]);
});

test("a flow that uses the token is preferred", async () => {
  const { send, seen } = serverWithFlows([["m.login.dummy"], [TOKEN_STAGE]]);
  await withInteractiveAuth(send, { [TOKEN_STAGE]: { token: "t" } });
  expect(seen.map((auth) => auth?.["type"])).toEqual([undefined, TOKEN_STAGE]);
});

test("an unknown stage is reported", async () => {
  const { send } = serverWithFlows([["m.login.recaptcha"]]);
  await expect(withInteractiveAuth(send, {})).rejects.toThrow("does not support");
});

test("another error is not a challenge", () => {
  expect(readChallenge(new MatrixError(403, "M_FORBIDDEN", "no", { flows: [] }))).toBe(null);
  expect(readChallenge(new MatrixError(401, "M_UNKNOWN_TOKEN", "no"))).toBe(null);
  expect(readChallenge(new Error("x"))).toBe(null);
});
