import { expect, test } from "vitest";
import { type Api, MatrixError } from "../server/api.ts";
import { checkUsername, fetchRegistrationMode, passwordProblem, toUsername } from "./authentication.ts";

function apiFailingWith(error: Error | null): Api {
  const answer = async (): Promise<unknown> => {
    if (error !== null) throw error;
    return {};
  };
  return { post: answer, get: answer } as unknown as Api;
}

function apiWithFlows(...stages: string[][]): Api {
  return apiFailingWith(new MatrixError(401, "M_UNAUTHORIZED", "", { flows: stages.map((each) => ({ stages: each })), session: "s" }));
}

test("registration is open if a flow needs no proof", async () => {
  expect(await fetchRegistrationMode(apiWithFlows(["m.login.registration_token"], ["m.login.dummy"]))).toBe("open");
});

test("registration needs a token if every flow does", async () => {
  expect(await fetchRegistrationMode(apiWithFlows(["m.login.registration_token", "m.login.dummy"]))).toBe("token");
});

test("registration is closed if the server refuses it or wants unknown stages", async () => {
  expect(await fetchRegistrationMode(apiFailingWith(new MatrixError(403, "M_FORBIDDEN", "")))).toBe("closed");
  expect(await fetchRegistrationMode(apiWithFlows(["m.login.recaptcha"]))).toBe("closed");
});

test("a taken user name is reported", async () => {
  expect(await checkUsername(apiFailingWith(null), "ann")).toEqual({ free: true });
  const api = apiFailingWith(new MatrixError(400, "M_USER_IN_USE", "x"));
  expect(await checkUsername(api, "ann")).toEqual({ free: false, why: "This name is taken." });
});

test("a typed name becomes a valid user name", () => {
  expect(toUsername(" Ann Lee! ")).toBe("ann.lee");
  expect(toUsername("Zoë_9")).toBe("zo_9");
});

test("a short or mistyped password is refused", () => {
  expect(passwordProblem("short", "short")).toContain("8 characters");
  expect(passwordProblem("long enough", "long enouhg")).toContain("do not match");
  expect(passwordProblem("long enough", "long enough")).toBe(null);
});
