import { afterEach, expect, test, vi } from "vitest";
import { Api, messageOf } from "./api.ts";

afterEach(() => vi.unstubAllGlobals());

function unknownTokenResponse(): Response {
  return new Response(JSON.stringify({ errcode: "M_UNKNOWN_TOKEN", error: "no", soft_logout: true }), { status: 401 });
}

test("a refused token is reported", async () => {
  vi.stubGlobal("fetch", async () => unknownTokenResponse());
  const api = new Api("http://localhost", "old");
  const listener = vi.fn();
  api.onUnknownToken = listener;

  await expect(api.get("/a")).rejects.toMatchObject({ errcode: "M_UNKNOWN_TOKEN" });

  expect(listener).toHaveBeenCalledOnce();
});

test("a late refusal of an old token does not end the new session", async () => {
  let answer!: (response: Response) => void;
  vi.stubGlobal("fetch", async () => new Promise<Response>((resolve) => (answer = resolve)));
  const api = new Api("http://localhost", "old");
  const listener = vi.fn();
  api.onUnknownToken = listener;

  const asking = api.get("/a");
  api.accessToken = "new";
  answer(unknownTokenResponse());

  await expect(asking).rejects.toMatchObject({ errcode: "M_UNKNOWN_TOKEN" });
  expect(listener).not.toHaveBeenCalled();
});

test("a refusal after a wait is about the token that was sent", async () => {
  const api = new Api("http://localhost", "old");
  const answers = [new Response(JSON.stringify({ errcode: "M_LIMIT_EXCEEDED", retry_after_ms: 1 }), { status: 429 }), unknownTokenResponse()];
  vi.stubGlobal("fetch", async () => {
    api.accessToken = "new";
    return answers.shift()!;
  });
  const listener = vi.fn();
  api.onUnknownToken = listener;

  await expect(api.get("/a")).rejects.toMatchObject({ errcode: "M_UNKNOWN_TOKEN" });

  expect(listener).toHaveBeenCalledOnce();
});

test("a long rate limit is shown with its duration and not waited out", async () => {
  const fetched = vi.fn(
    async () => new Response(JSON.stringify({ errcode: "M_LIMIT_EXCEEDED", error: "too many requests" }), { status: 429, headers: { "Retry-After": "30" } }),
  );
  vi.stubGlobal("fetch", fetched);

  const refused = await new Api("http://localhost").get("/a").catch((error: unknown) => error);

  expect(messageOf(refused)).toBe("Too many attempts. Try again in 30 seconds.");
  expect(fetched).toHaveBeenCalledOnce();
});
